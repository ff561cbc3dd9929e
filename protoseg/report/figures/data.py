"""Collects the data of a figure, seed by seed, before it is drawn.

The table of the matrix is built first, so a figure refuses what a table refuses: mixed settings,
two evaluation protocols, a baseline or a metric that does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.report import wording
from protoseg.report.figures.contents import SettingValues
from protoseg.report.level_metrics import with_levels
from protoseg.report.metrics import COUNTS, METRICS, UNRECORDED, Metric, list_names
from protoseg.report.tables import published as literature
from protoseg.report.tables.baseline import Baselines, make_baselines
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.cells import describe_data
from protoseg.report.tables.model import Table
from protoseg.report.tables.published import PublishedNumbers, parse_printed
from protoseg.report.tables.samples import Key, Samples, collect_samples, describe_protocol
from protoseg.runs.store import CachedStore, RecordStore


@dataclass(frozen=True)
class Setting:
    """One setting of a matrix with the names of its table."""

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
        """Row and group."""
        return ", ".join(part for part in (self.row, self.group) if part)

    def values_of(self, key: str) -> SettingValues:
        """Return the values of a metric."""
        values = self.samples.values.get(key, {})
        values = {seed: values[seed] for seed in sorted(values)}
        missing = self.describe_missing(values, key=key)
        return SettingValues(self.label, values, len(self.samples.runs), missing, self.published)

    def describe_missing(
        self, values: Mapping[int, Any], unrecorded: str = UNRECORDED, key: str = ""
    ) -> str:
        """Give the reason why seeds have no value: "not run", or "2 of 3 seeds, the rest not run".

        Args:
            values: seed -> value of the other seeds.
            unrecorded: the reason of a seed with a record.
            key: of the metric, if the values are of one.
        """
        reasons = {**self.samples.lacking.get(key, {}), **self.samples.missing}
        seeds = sorted(self.samples.runs)
        lost = [reasons.get(seed, unrecorded) for seed in seeds if seed not in values]
        if not lost:
            return ""
        summary = wording.summarise_states(lost)
        count = f"{len(values)} of {wording.format_seeds(len(seeds))}"
        return f"{count}, the rest {summary}" if values else summary


@dataclass(frozen=True)
class FigureInput:
    """A matrix, its table, and its settings with their records."""

    matrix: Matrix
    table: Table
    metric: Metric
    settings: tuple[Setting, ...]
    baselines: Baselines | None
    literature: PublishedNumbers | None

    def describe_protocol(self) -> list[str]:
        """Return the note about the evaluation; empty if settings differ in it."""
        protocols = {describe_protocol(setting.samples.spec) for setting in self.settings}
        return [f"Evaluation: {protocols.pop()}."] if len(protocols) == 1 else []


def read_figure_input(
    matrix: Matrix, store: RecordStore, published_folders: Sequence[Path]
) -> FigureInput:
    """Read the data of a matrix for its figures.

    Args:
        published_folders: folders of published numbers.

    Raises:
        UsageError: as `build_table`; or no metric of the table varies over seeds.
        ProtosegError: as `build_table`; or no run has finished.
    """
    store = CachedStore(with_levels(matrix, store))
    table = build_table(matrix, store, published_folders)
    varying = [name for name in matrix.table.metrics if name not in COUNTS]
    if not varying:
        raise UsageError(
            f"{matrix.name}: table.metrics: {', '.join(matrix.table.metrics)} do not vary over "
            f"seeds. Add one of {list_names(m for m in METRICS if m not in COUNTS)}."
        )
    columns: Key = tuple(matrix.table.columns)
    rows: Key = tuple(matrix.table.rows) or tuple(a for a in matrix.axes if a not in columns)
    grid = collect_samples(matrix, store, rows, columns, lambda record: None)
    if not table.provenance.records:
        raise ProtosegError(
            f"{matrix.name}: no run has finished, so there is nothing to draw. "
            f"Train with: protoseg sweep {matrix.name}"
        )
    metric = METRICS[varying[0]]
    numbers = literature.load_published(matrix, published_folders)
    titles = [column.title for column in table.header if column.kind == "label"]
    groups = {column.values: column.group for column in table.header if column.kind != "label"}
    settings = []
    # The first rows of the table are published ones without runs.
    for row, cells in zip(table.rows[len(table.rows) - len(grid) :], grid.values(), strict=True):
        titled = tuple(zip(titles, (cell.text for cell in row.cells), strict=False))
        for column, samples in cells.items():
            results = {seed: store.find(run).record for seed, run in sorted(samples.runs.items())}
            records = {seed: record for seed, record in results.items() if record is not None}
            value = _find_published(numbers, samples, metric.key)
            group = groups.get(column, "")
            names = [wording.name_group(a, samples.axes.get(a), matrix.table.names) for a in rows]
            label = ", ".join(names) or matrix.name
            settings.append(Setting(label, group, titled, samples, records, value))
    against = make_baselines(matrix, [setting.samples for setting in settings])
    return FigureInput(matrix, table, metric, tuple(settings), against, numbers)


def _find_published(numbers: PublishedNumbers | None, samples: Samples, key: str) -> float | None:
    """Find the published value of a setting; None if its data or its metric differ from ours."""
    if numbers is None or numbers.spec.value != key:
        return None
    if describe_data(samples.spec) not in numbers.measured_as:
        return None
    row = numbers.find(samples.axes)
    parsed = parse_printed(row.get(key)) if row is not None else None
    return None if parsed is None else parsed[1]
