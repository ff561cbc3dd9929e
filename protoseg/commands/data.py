"""``data``: which data sets there are, and whether a folder is what it should be."""

from __future__ import annotations

import sys

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from protoseg.commands.context import FAILED, FINE, Context
from protoseg.datasets.check import Report, check
from protoseg.datasets.layout import find_root
from protoseg.errors import ProtosegError, UsageError, unknown
from protoseg.spec.compose import parse_overrides
from protoseg.spec.schema import DatasetSpec


def data(context: Context) -> int:
    """Run ``data list`` or ``data check NAME``."""
    words: list[str] = context.arguments.words
    actions = {"list": _list, "check": _check}
    if not words:
        raise UsageError("data: say what to do: data list, or data check NAME.")
    if words[0] not in actions:
        raise UsageError(unknown("action", words[0], "data", actions))
    return actions[words[0]](context, words[1:])


def _list(context: Context, words: list[str]) -> int:
    if words:
        raise UsageError(f"data list: takes no further words, found '{words[0]}'.")
    rows = []
    for name in context.composer.options["dataset"]:
        dataset = _dataset(context, name, [])
        place = context.places.data / dataset.place
        if dataset.generator:
            state = "made by the program when needed"
        else:
            state = f"in {place}" if place.is_dir() else f"not in {context.places.data}"
        rows.append({"name": name, "classes": len(dataset.classes), "state": state})
    if context.json:
        context.emit(rows)
        return FINE
    table = Table(box=None, pad_edge=False)
    for title in ("Data set", "Classes", "Where"):
        table.add_column(title, header_style="dim")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    context.console.print(table)
    return FINE


def _check(context: Context, words: list[str]) -> int:
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if not names:
        known = ", ".join(context.composer.options["dataset"])
        raise UsageError(f"data check: name a data set. Known: {known}.")
    reports, problems = [], []
    for name in names:
        dataset = _dataset(context, name, overrides)
        try:
            reports.append(_report(context, dataset))
        except ProtosegError as error:
            problems.append(str(error))
    if context.json:
        context.emit({"reports": [r.to_dict() for r in reports], "problems": problems})
    else:
        for report in reports:
            _show(context, report)
    return context.complain(problems) and FAILED


def _dataset(context: Context, name: str, overrides: list[str]) -> DatasetSpec:
    options = context.composer.options["dataset"]
    if name not in options:
        raise UsageError(unknown("data set", name, "data", options))
    parsed = parse_overrides([f"dataset={name}", *overrides])
    settings = [setting for _, several in parsed for setting in several]
    return context.composer.spec(settings, f"data {name}").dataset


def _report(context: Context, dataset: DatasetSpec) -> Report:
    root = find_root(dataset, context.places.data)
    if context.json or not sys.stdout.isatty():
        return check(root, dataset)
    with Progress(console=context.console, transient=True) as progress:
        task = progress.add_task(f"reading {dataset.name}", total=None)
        return check(
            root,
            dataset,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _show(context: Context, report: Report) -> None:
    context.console.print(f"{report.name}: fine, in {report.root}", style="green", markup=False)
    table = Table(box=None, pad_edge=False)
    for title in ("Split", "Images", "Sizes", "Ignored", "Classes without a pixel"):
        table.add_column(title, header_style="dim")
    for name, split in report.splits.items():
        smallest, largest = ("×".join(map(str, s)) for s in (split.smallest, split.largest))
        sizes = smallest if smallest == largest else f"{smallest} to {largest}"
        total = split.ignored + sum(split.pixels.values())
        ignored = f"{100 * split.ignored / total:.1f} %" if total else ""
        absent = ", ".join(split.absent) or "none"
        table.add_row(name, str(split.images), sizes, ignored, Text(absent))
    context.console.print(table)
    context.console.print(f"digest {report.digest}")
