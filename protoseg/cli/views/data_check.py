"""The report of ``protoseg data check`` on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from protoseg.config.schema import RunSpec
    from protoseg.datasets.check_report import DataSetReport, EqualPictures, SplitReport


def show_check(console: Console, report: DataSetReport, spec: RunSpec) -> None:
    """Print the splits, the classes and the equal pictures of a data set, then its digest.

    Args:
        spec: a run on this data set; it determines the splits for training and evaluation.
    """
    console.print(f"{report.name}: fine, in {report.root}", style="green", markup=False)
    console.print(_make_split_table(report, spec))
    console.print()
    console.print(_make_class_table(report))
    for equal in report.equal_pictures:
        console.print(_describe_equal_pictures(equal), style="yellow", markup=False)
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    console.print(f"digest {report.digest}")
    if spec.evaluation.split not in report.splits:
        from protoseg.datasets.layout import describe_missing_split

        hint = describe_missing_split(Path(report.root), spec.dataset, spec.evaluation.split)
        console.print(
            f"A run is evaluated on the split '{spec.evaluation.split}', which is missing. {hint} "
            "In a matrix, set it in 'base'.",
            style="yellow",
            markup=False,
        )


def _make_split_table(report: DataSetReport, spec: RunSpec) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("Split", "Used for", "Images", "Sizes", "Ignored", "Classes without a pixel"):
        table.add_column(title, header_style="dim")
    for name, split in report.splits.items():
        smallest, largest = ("×".join(map(str, s)) for s in (split.smallest, split.largest))
        sizes = smallest if smallest == largest else f"{smallest} to {largest}"
        total = split.ignored + sum(split.pixels.values())
        ignored = f"{100 * split.ignored / total:.1f}%" if total else ""
        absent = ", ".join(split.absent) or "none"
        uses = (("training", spec.dataset.train_split), ("evaluation", spec.evaluation.split))
        purpose = ", ".join(use for use, used in uses if used == name)
        table.add_row(Text(name), purpose, str(split.images), sizes, ignored, Text(absent))
    return table


def _make_class_table(report: DataSetReport) -> Table:
    """One row per class: in each split its share of the labelled pixels, pixels and images."""
    table = Table(box=None, pad_edge=False)
    table.add_column("Class", header_style="dim")
    for name in report.splits:
        for title in (f"{name}: share", "pixels", "images"):
            table.add_column(Text(title), header_style="dim", justify="right")
    classes = next(iter(report.splits.values())).pixels
    for name in classes:
        cells = [cell for split in report.splits.values() for cell in _make_cells(split, name)]
        table.add_row(Text(name), *cells)
    return table


def _make_cells(split: SplitReport, name: str) -> tuple[str, str, str]:
    return (
        f"{100 * split.find_share(name):.2f}%",
        f"{split.pixels[name]:,}",
        f"{split.images_with[name]:,}",
    )


def _describe_equal_pictures(equal: EqualPictures) -> str:
    first, second = equal.splits
    noun = "picture is" if equal.count == 1 else "pictures are"
    where = f"twice in {first}" if first == second else f"in {first} and in {second}"
    shown = ", ".join(f"{a} = {b}" for a, b in equal.examples)
    rest = equal.count - len(equal.examples)
    more = f" and {rest} more" if rest else ""
    return f"note: {equal.count} {noun} {where}: {shown}{more}"
