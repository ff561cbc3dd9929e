"""``data``: which data sets there are, preparing one, and whether a folder is what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from protoseg.cli.context import FAILED, OK, Context
from protoseg.cli.progress import Bar
from protoseg.config.compose import Setting, parse_overrides
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.check import Report, check
from protoseg.datasets.layout import find_root
from protoseg.errors import DataError, ProtosegError, UsageError, unknown


def data(context: Context) -> int:
    """Run ``data list``, ``data prepare NAME --from DIR`` or ``data check NAME``."""
    words: list[str] = context.arguments.words
    actions = {"list": _list, "prepare": _prepare, "check": _check}
    if not words:
        raise UsageError("data: say what to do: data list, data prepare NAME or data check NAME.")
    if words[0] not in actions:
        raise UsageError(unknown("action", words[0], "data", actions))
    if words[0] != "prepare" and context.arguments.source:
        raise UsageError(f"data {words[0]}: --from goes with data prepare alone; leave it away.")
    try:
        return actions[words[0]](context, words[1:])
    except PermissionError as error:
        raise DataError(
            f"{error.filename}: can not be read (no permission). Change its permissions, or name "
            "another folder."
        ) from error


def _list(context: Context, words: list[str]) -> int:
    if words:
        raise UsageError(f"data list: takes no further words, found '{words[0]}'.")
    rows = []
    for name in _options(context):
        dataset = _dataset(context, name, [])
        place = context.places.data / dataset.place
        if dataset.generator:
            state = "made by the program when needed"
        else:
            state = f"in {place}" if place.is_dir() else f"not in {context.places.data}"
        rows.append({"name": name, "classes": len(dataset.classes), "state": state})
    if context.json:
        context.print_json(rows)
        return OK
    table = Table(box=None, pad_edge=False)
    for title in ("Data set", "Classes", "Where"):
        table.add_column(title, header_style="dim")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    context.console.print(table)
    return OK


def _prepare(context: Context, words: list[str]) -> int:
    from protoseg.datasets.prepare.registry import PLANS
    from protoseg.datasets.prepare.runner import apart, prepare

    if len(words) != 1 or not context.arguments.source:
        raise UsageError("data prepare: name one data set and its source: NAME --from DIR.")
    dataset = _dataset(context, words[0], [])
    if dataset.place not in PLANS:
        known = [n for n in _options(context) if _dataset(context, n, []).place in PLANS]
        raise UsageError(
            f"data prepare: '{words[0]}' needs no preparing: it is used as it is in "
            f"{context.places.data / dataset.place}. Prepared are: {', '.join(known)}."
        )
    source = Path(context.arguments.source).expanduser().absolute()
    target = context.places.data / dataset.place
    apart(source, target)
    with Bar(context, f"looking through {source.name}") as progress:
        plan = PLANS[dataset.place](source, dataset)
        progress.name(f"preparing {dataset.place}")
        manifest = prepare(
            plan, dataset, target, jobs=context.arguments.jobs, progress=progress.update
        )
    if context.json:
        context.print_json(manifest)
    else:
        _show_prepared(context, dataset, target, manifest)
    return OK


def _show_prepared(
    context: Context, dataset: DatasetSpec, target: Path, manifest: dict[str, Any]
) -> None:
    made = ", ".join(f"{count} {how}" for how, count in sorted(manifest["files"].items()))
    line = f"{dataset.name}: ready in {target}: {made}"
    if manifest["already_there"]:
        line += f"; {manifest['already_there']} of them were there"
    context.console.print(line, style="green", markup=False)
    for split, count in manifest["images"].items():
        whole = dataset.counts.get(split, count)
        missing = "" if count == whole else f"; the whole data set has {whole}"
        context.console.print(f"  {split}: {count} images{missing}", markup=False)
    for key, value in manifest["details"].items():
        context.console.print(f"  {key.replace('_', ' ')}: {value}", markup=False)
    context.console.print(f"digest {manifest['digest']}")


def _check(context: Context, words: list[str]) -> int:
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if not names:
        known = ", ".join(_options(context))
        raise UsageError(f"data check: name a data set. Known: {known}.")
    reports, problems = [], []
    for name in names:
        dataset = _dataset(context, name, overrides)
        try:
            reports.append(_report(context, dataset))
        except ProtosegError as error:
            problems.append(str(error))
    if context.json:
        context.print_json({"reports": [r.to_dict() for r in reports], "problems": problems})
    else:
        for report in reports:
            _show(context, report)
    return context.print_errors(problems) and FAILED


def _options(context: Context) -> list[str]:
    return context.composer.options["dataset"]


def _dataset(context: Context, name: str, overrides: list[str]) -> DatasetSpec:
    options = _options(context)
    if name not in options:
        raise UsageError(unknown("data set", name, "data", options))
    # The name is no override: it may have letters that their grammar has not.
    more = [setting for _, several in parse_overrides(overrides) for setting in several]
    return context.composer.spec([Setting("dataset", name), *more], f"data {name}").dataset


def _report(context: Context, dataset: DatasetSpec) -> Report:
    root = find_root(dataset, context.places.data)
    with Bar(context, f"reading {dataset.name}") as progress:
        return check(root, dataset, progress=progress.update)


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
