"""Data classes of a table, from which every format (Markdown, LaTeX, CSV, HTML) is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protoseg.report import wording
from protoseg.report.metrics import Metric

CellKind = Literal[
    "label", "measured", "delta", "published", "verdict", "parameters", "comparison", "status"
]


@dataclass(frozen=True)
class Cell:
    """One cell: its numbers, unrounded and as printed."""

    kind: CellKind
    text: str
    """The value as printed, or a status such as "not run"."""
    std_text: str = ""
    """The number after ±; empty for n = 1."""
    note: str = ""
    """Text in brackets after the value, e.g. "2 of 3 seeds"."""
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
    """The number in brackets after a number of parameters, in millions."""
    difference: float | None = None
    """The number after the arrow of a published value."""

    @property
    def plain(self) -> str:
        """The whole cell as plain text on one line."""
        spread = f" ± {self.std_text}" if self.std_text else ""
        note = f" ({self.note})" if self.note else ""
        mark = f" [{self.mark}]" if self.mark else ""
        return f"{self.text}{spread}{note}{mark}"


@dataclass(frozen=True)
class Column:
    """One column; ``key`` identifies it."""

    key: str
    title: str
    kind: CellKind
    metric: str = ""
    """Key of the `Metric` that is shown; for a label column the axis."""
    group: str = ""
    """Display name of the pivot value above it."""
    values: tuple[str, ...] = ()
    """The pivot values, without display names."""
    mark: str = ""

    @property
    def plain(self) -> str:
        """The header on one line."""
        title = " ".join(part for part in (self.group, self.title) if part)
        return f"{title} [{self.mark}]" if self.mark else title


@dataclass(frozen=True)
class Row:
    """One row; ``label`` identifies it."""

    label: str
    cells: tuple[Cell, ...]
    values: tuple[str, ...] = ()
    """The values of the row axes, without display names."""
    rule: bool = False
    """Whether a rule is drawn above the row, because a new block of rows begins."""


@dataclass(frozen=True)
class Footnote:
    """A note below the table; cells and headers refer to it by ``mark``."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class ClassResult:
    """The IoU of one class in one row over seeds, in percent."""

    row: str
    group: str
    name: str
    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True)
class Provenance:
    """Records, commits, dates and devices of a table."""

    records: int = 0
    commits: tuple[str, ...] = ()
    dirty: int = 0
    """Number of records made with uncommitted changes."""
    first: str = ""
    last: str = ""
    """Times at which the first and the last run finished, ISO 8601 in UTC."""
    devices: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The provenance as one sentence."""
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
        return wording.clean_text("; ".join(parts)) + "."


@dataclass(frozen=True)
class TableComparison:
    """One side minus the other in the first metric of a table, over shared seeds."""

    ours: str
    """Name of the row, with its group of columns if that of the other side is another one."""
    theirs: str
    group: str
    """Name of the group of columns of both sides; empty without groups."""
    seeds: tuple[int, ...]
    difference: float | None
    interval: tuple[float, float] | None
    """95% t interval, not corrected; None with fewer than 3 seeds or without spread."""
    p: float | None
    """Two-sided p of the t test, not corrected."""
    adjusted_p: float | None
    """p corrected over the family."""
    detectable: float | None
    """Smallest true difference that the corrected test finds with 80% probability."""
    result: str
    metric: str
    notes: tuple[str, ...]
    our_runs: tuple[str, ...]
    their_runs: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """The comparisons of a table that are corrected together."""

    description: str
    rows: str
    """Name of the axis that makes the rows; empty if several or labels do."""
    metric: Metric
    method: str
    """How p is computed, as a sentence."""
    comparisons: tuple[TableComparison, ...]

    @property
    def tested(self) -> int:
        """Number of comparisons with a p value."""
        return sum(comparison.p is not None for comparison in self.comparisons)


@dataclass(frozen=True)
class Table:
    """A table with everything that is printed."""

    name: str
    title: str
    caption: str
    header: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[Footnote, ...]
    provenance: Provenance
    pivot: tuple[str, ...] = ()
    """The axes whose values form the columns."""
    per_class: tuple[ClassResult, ...] = ()
    overrides: tuple[str, ...] = ()
    """The overrides of the command, seeds included."""
    family: Family | None = None
    """The tested comparisons; None if the table has none."""
    matrix: str = ""
    """Name of the matrix, if it is not that of the table."""

    def column(self, key: str) -> int:
        """Return the index of a column in ``header`` and in the cells of each row."""
        return [column.key for column in self.header].index(key)
