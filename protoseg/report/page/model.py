"""Data classes of a page, from which the templates are filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protoseg.report.explanation import RunLine
from protoseg.report.page.examples import Examples
from protoseg.report.tables.model import Table


@dataclass(frozen=True)
class CellDetail:
    """The runs behind one cell."""

    anchor: str
    """Fragment of its address in the page."""
    title: str
    """Row and column."""
    shown: str
    """The cell as printed, with its unit."""
    value_name: str
    """The metric of the values of the runs."""
    runs: tuple[RunLine, ...]
    facts: tuple[str, ...]
    """Sentences on differences, interval, test and choice."""


@dataclass(frozen=True)
class RowDetails:
    """The details of the cells of one row."""

    label: str
    cells: tuple[CellDetail, ...]


@dataclass(frozen=True)
class PageTable:
    """A table of a page, with the runs behind its cells."""

    key: str
    """Identifies it in the page."""
    table: Table
    anchors: Mapping[tuple[int, int], str]
    """(row, column) -> anchor of the details, of cells that runs are behind."""
    details: tuple[RowDetails, ...]


@dataclass(frozen=True)
class Series:
    """Values of one setting in a chart; the tuples have one entry for each point."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    """Lower end of a range or interval; nan where there is none. Empty: no range."""
    high: tuple[float, ...] = ()
    seeds: tuple[tuple[float, ...], ...] = ()
    """The values of single seeds at each point; empty: they are not drawn."""
    ring: int | None = None
    """Index of the point with a ring: the chosen trial."""


@dataclass(frozen=True)
class Chart:
    """Values over a numeric axis."""

    title: str
    x_name: str
    y_name: str
    series: tuple[Series, ...]
    notes: tuple[str, ...]
    form: str = "curve"
    """``curve``: lines with a band; ``line``: lines with points and intervals; ``points``."""
    scale: str = "linear"
    """Of the x axis: ``linear``, ``log``, or ``even`` for evenly spaced values."""
    ticks: tuple[float, ...] = ()
    """Values of x that are labelled; empty: round numbers."""
    tick_texts: tuple[str, ...] = ()
    """Their texts, if they are not the numbers."""
    has_zero: bool = False
    """Whether a dotted line is drawn at y = 0, the baseline of differences."""


@dataclass(frozen=True)
class DotRow:
    """One row of a dot chart."""

    label: str
    values: tuple[float, ...]
    """One value for each seed."""
    mean: float
    interval: tuple[float, float] | None
    missing: str
    published: float | None = None


@dataclass(frozen=True)
class DotChart:
    """A metric of named rows."""

    title: str
    x_name: str
    rows: tuple[DotRow, ...]
    baseline: str
    """Label of the row whose mean is a dotted line; empty without one."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """One value of the provenance, and how many records have it."""

    name: str
    value: str
    records: int


@dataclass(frozen=True)
class RowCommands:
    """How the runs of one row are trained again."""

    label: str
    runs: int
    """Number of its runs with a record."""
    commands: str
    """Shell commands, one in each line; empty without a record."""


@dataclass(frozen=True)
class MissingRuns:
    """Runs of one row that have no record for the same reason."""

    row: str
    run_ids: tuple[str, ...]
    seeds: str
    state: str
    message: str


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that ended without a result, of a run folder."""

    run_id: str
    number: int
    began: str
    reason: str
    message: str


@dataclass(frozen=True)
class Search:
    """The search of a matrix."""

    notes: tuple[str, ...]
    """Trials, ranges, selection, unequal tuning, values at an edge."""
    choices: tuple[str, ...]
    """One line for each row; empty before the choice."""
    trials: PageTable
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Page:
    """The content of a page of one matrix."""

    name: str
    title: str
    caption: str
    summary: tuple[str, ...]
    """Three lines: what was measured, the verdicts, and their limits."""
    tables: tuple[PageTable, ...]
    charts: tuple[Chart | DotChart, ...]
    examples: Examples | None
    search: Search | None
    origins: tuple[Origin, ...]
    commands: tuple[RowCommands, ...]
    build: str
    """The command that builds the tables."""
    train: str
    """The command that trains what is missing."""
    missing: tuple[MissingRuns, ...]
    failures: tuple[FailedAttempt, ...]
    warnings: tuple[str, ...]
    """Damaged records."""
    planned: int
    """Number of final runs."""
    finished: int
    """Number of final runs with a record."""
    last: str
    """Date of the last record; empty without one."""
