"""A figure as data: what is drawn, seed by seed, before anything is drawn.

It goes through the table of its matrix, so that it refuses what a table refuses: a place that would
pool different settings, two evaluation protocols, a baseline or metric that does not exist.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.report import wording
from protoseg.report.metrics import COUNTS, METRICS, Metric
from protoseg.report.tables import published as literature
from protoseg.report.tables.baseline import Baselines, baselines
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.cells import data_words
from protoseg.report.tables.model import Table
from protoseg.report.tables.published import PublishedNumbers, printed
from protoseg.report.tables.samples import Key, Samples, collect, protocol_words
from protoseg.runs.record import canonical
from protoseg.runs.store import LookupResult, RecordStore

FORMS = ("svg", "pdf", "png")
MARK = "protoseg-data-sha256:"
"""Stands in a file of any form before the digest of what was drawn."""


@dataclass(frozen=True)
class SettingValues:
    """One setting in a figure."""

    label: str
    seeds: dict[int, float]
    """Seed -> value, of the runs that are there."""
    expected: int
    """How many seeds are planned."""
    missing: str = ""
    """Why seeds have no value, in words; never drawn as a number."""
    published: float | None = None


@dataclass(frozen=True)
class Point:
    """A setting at a place of a numeric axis."""

    x: float
    place: SettingValues


@dataclass(frozen=True)
class Line:
    """Settings that differ in the numeric axis alone, by rising x."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class AxisPlot:
    """A metric against a numeric axis."""

    x_name: str
    y_name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class DotPlot:
    """A metric of named rows; each row has a place for each group (None: not planned)."""

    x_name: str
    groups: tuple[str, ...]
    rows: tuple[tuple[str, tuple[SettingValues | None, ...]], ...]
    baseline: str = ""
    """Label of the one setting that all are compared with, where it has a value; may be empty."""


@dataclass(frozen=True)
class LossPanel:
    """The training loss of one setting."""

    label: str
    iterations: tuple[int, ...]
    """Those that every seed has."""
    seeds: dict[int, tuple[float, ...]]
    baseline: str
    """Label of the panel that it is set against; its own where it is a baseline."""
    missing: str = ""


@dataclass(frozen=True)
class LossPlot:
    """Loss curves, one panel a setting."""

    panels: tuple[LossPanel, ...]


@dataclass(frozen=True)
class ClassPanel:
    """IoU by class of a setting and of its baseline: class -> seed -> percent."""

    label: str
    baseline: str
    ours: dict[str, dict[int, float]]
    theirs: dict[str, dict[int, float]]
    missing: str = ""


@dataclass(frozen=True)
class ClassPlot:
    """IoU by class against how frequent the class is."""

    shares: dict[str, float]
    """Class -> its percent of the labelled pixels that were evaluated, the most frequent first."""
    panels: tuple[ClassPanel, ...]


@dataclass(frozen=True)
class Figure:
    """A figure, ready to be drawn."""

    name: str
    """Of its files."""
    kind: str
    title: str
    notes: tuple[str, ...]
    """Sentences below it: what is drawn, how it was measured, what is missing."""
    content: AxisPlot | DotPlot | LossPlot | ClassPlot

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that is drawn."""
        return hashlib.sha256(canonical(self.to_dict())).hexdigest()


def digest_in(content: bytes) -> str | None:
    """The digest of the data that a file of any form says it was drawn from."""
    found = re.search(MARK.encode() + rb"([0-9a-f]{64})", content)
    return None if found is None else found[1].decode()


@dataclass(frozen=True)
class Setting:
    """One setting of a matrix, under the names of its table."""

    row: str
    group: str
    titled: tuple[tuple[str, str], ...]
    """(title, text) of the label columns of its row."""
    samples: Samples
    records: dict[int, dict[str, Any]]
    """Seed -> record."""
    published: float | None

    @property
    def label(self) -> str:
        """Row and column in one."""
        return ", ".join(part for part in (self.row, self.group) if part)

    def place(self, key: str) -> SettingValues:
        """Its values of a metric."""
        values = self.samples.values.get(key, {})
        values = {seed: values[seed] for seed in sorted(values)}
        words = self.missing(values)
        return SettingValues(self.label, values, len(self.samples.runs), words, self.published)

    def missing(self, there: Mapping[int, Any]) -> str:
        """Why the other seeds have no value: "not run", or "2 of 3 seeds: 1 not run"."""
        known, every = self.samples.missing, sorted(self.samples.runs)
        lost = [known.get(seed, "not in the record") for seed in every if seed not in there]
        if not lost:
            return ""
        words = wording.summary_words(lost)
        return f"{len(there)} of {wording.seeds(len(every))}, the rest {words}" if there else words


@dataclass(frozen=True)
class FigureInput:
    """A matrix, its table, and its settings with their records."""

    matrix: Matrix
    table: Table
    metric: Metric
    settings: tuple[Setting, ...]
    baselines: Baselines | None
    literature: PublishedNumbers | None

    def protocol(self) -> list[str]:
        """How all of it was measured; nothing where the figure's axis says which is which."""
        words = {protocol_words(setting.samples.spec) for setting in self.settings}
        return [f"Evaluation: {words.pop()}."] if len(words) == 1 else []


class _Once(RecordStore):
    """Reads each record once: a run that ends meanwhile is one thing to table and figure."""

    def __init__(self, store: RecordStore) -> None:
        super().__init__(store.record_folders, store.runs_folder)
        self.warnings = store.warnings
        self._found: dict[str, LookupResult] = {}

    def find(self, run_id: str) -> LookupResult:
        if run_id not in self._found:
            self._found[run_id] = super().find(run_id)
        return self._found[run_id]


def read(matrix: Matrix, store: RecordStore, published_folder: Path) -> FigureInput:
    """What there is to draw of a matrix.

    Raises:
        UsageError: as `build_table`; or the table has no metric that varies over seeds.
        ProtosegError: as `build_table`; or no run has finished.
    """
    store = _Once(store)
    table = build_table(matrix, store, published_folder)
    varying = [name for name in matrix.table.metrics if name not in COUNTS]
    if not varying:
        raise UsageError(
            f"{matrix.name}: table.metrics: {', '.join(matrix.table.metrics)} do not vary over "
            f"seeds. Add one of {', '.join(m for m in METRICS if m not in COUNTS)}."
        )
    columns: Key = tuple(matrix.table.columns)
    rows: Key = tuple(matrix.table.rows) or tuple(a for a in matrix.axes if a not in columns)
    grid = collect(matrix, store, rows, columns, lambda record: None)
    if not table.provenance.records:
        raise ProtosegError(
            f"{matrix.name}: no run of it has finished, so there is nothing to draw; "
            f"train it with: protoseg sweep {matrix.name}"
        )
    metric = METRICS[varying[0]]
    numbers = literature.load(matrix, published_folder)
    titles = [column.title for column in table.header if column.kind == "label"]
    groups = {column.values: column.group for column in table.header if column.kind != "label"}
    settings = []
    # Above our rows stand those that are quoted from the literature.
    for row, cells in zip(table.rows[len(table.rows) - len(grid) :], grid.values(), strict=True):
        titled = tuple(zip(titles, (cell.text for cell in row.cells), strict=False))
        for column, samples in cells.items():
            found = {seed: store.find(run).record for seed, run in sorted(samples.runs.items())}
            records = {seed: record for seed, record in found.items() if record is not None}
            value = _published(numbers, samples, metric.key)
            group = groups.get(column, "")
            names = [wording.group_name(a, samples.axes.get(a), matrix.table.names) for a in rows]
            label = ", ".join(names) or matrix.name
            settings.append(Setting(label, group, titled, samples, records, value))
    against = baselines(matrix, [setting.samples for setting in settings])
    return FigureInput(matrix, table, metric, tuple(settings), against, numbers)


def _published(numbers: PublishedNumbers | None, samples: Samples, key: str) -> float | None:
    """The published value of a setting; None where it is of other data than ours, or of another
    metric: those do not belong on one axis."""
    if numbers is None or numbers.spec.value != key:
        return None
    if data_words(samples.spec) not in numbers.measured_as:
        return None
    row = numbers.find(samples.axes)
    found = printed(row.get(key)) if row is not None else None
    return None if found is None else found[1]
