"""A table as data: what every form of it (Markdown, LaTeX, CSV, HTML, terminal) is printed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protoseg.report import wording

CellKind = Literal["label", "measured", "delta", "published", "verdict", "parameters", "status"]


@dataclass(frozen=True)
class Cell:
    """One place of a table: the numbers as they are, and as they are printed."""

    kind: CellKind
    text: str
    """The value as printed, or the words of a status."""
    std_text: str = ""
    """What stands behind ±; empty for n = 1."""
    note: str = ""
    """Behind the value, e.g. "2 of 3 seeds"."""
    mark: str = ""
    """Letter of a footnote."""
    bold: bool = False
    value: float | None = None
    std: float | None = None
    n: int = 0
    expected_n: int = 0
    run_ids: tuple[str, ...] = ()
    baseline_run_ids: tuple[str, ...] = ()
    brackets: float | None = None
    """What stands in brackets behind a number of parameters, in millions."""
    difference: float | None = None
    """What stands behind the arrow of a published value."""

    @property
    def plain(self) -> str:
        """The whole cell on one line, for a terminal or a test."""
        spread = f" ± {self.std_text}" if self.std_text else ""
        note = f" ({self.note})" if self.note else ""
        mark = f" [{self.mark}]" if self.mark else ""
        return f"{self.text}{spread}{note}{mark}"


@dataclass(frozen=True)
class Column:
    """One column: ``key`` is its address, ``metric`` what it shows."""

    key: str
    title: str
    kind: CellKind
    metric: str = ""
    """Key of a `Metric`; for a label column the axis."""
    group: str = ""
    """Display name of the pivot value above it."""
    values: tuple[str, ...] = ()
    """The pivot values themselves."""
    mark: str = ""

    @property
    def plain(self) -> str:
        """The header on one line."""
        title = " ".join(part for part in (self.group, self.title) if part)
        return f"{title} [{self.mark}]" if self.mark else title


@dataclass(frozen=True)
class Row:
    """One row: ``label`` is its address."""

    label: str
    cells: tuple[Cell, ...]
    values: tuple[str, ...] = ()
    """The values of the row axes, without display names."""
    rule: bool = False
    """A line stands above it: another kind of rows begins."""


@dataclass(frozen=True)
class Footnote:
    """A line below the table; ``mark`` refers to it from a cell or a header."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class ClassResult:
    """The IoU of one class in one row, percent, over seeds."""

    row: str
    group: str
    name: str
    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a table come from."""

    records: int = 0
    commits: tuple[str, ...] = ()
    dirty: int = 0
    """How many records were made with uncommitted changes."""
    first: str = ""
    last: str = ""
    """When the first and the last of the runs finished, UTC."""
    devices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """One sentence."""
        if not self.records:
            return "No run of this table has finished."
        parts = [f"{self.records} record" + ("s" if self.records > 1 else "")]
        if self.commits:
            noun = "commit" if len(self.commits) == 1 else "commits"
            parts.append(f"{noun} {', '.join(commit[:10] for commit in self.commits)}")
        if self.dirty:
            parts.append(f"{self.dirty} with uncommitted changes")
        first, last = self.first[:10], self.last[:10]
        parts.append(f"finished {first}" if first == last else f"finished {first} to {last}")
        parts += [f"on {', '.join(self.devices)}"] if self.devices else []
        return wording.clean("; ".join(parts)) + "."


@dataclass(frozen=True)
class Table:
    """A table, ready to be printed."""

    name: str
    title: str
    caption: str
    header: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[Footnote, ...]
    provenance: Provenance
    pivot: tuple[str, ...] = ()
    """The axes that make the columns."""
    per_class: tuple[ClassResult, ...] = ()
    overrides: tuple[str, ...] = ()
    """Those it was made with, seeds among them."""

    def column(self, key: str) -> int:
        """The place of a column in ``header`` and in the cells of each row."""
        return [column.key for column in self.header].index(key)
