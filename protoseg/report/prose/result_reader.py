"""Finds rows of tables and reads the values of their runs, for the numbers of a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.hierarchy.table_trees import needs_tree
from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.errors import ProtosegError, UsageError, join_names
from protoseg.report import wording
from protoseg.report.explanation import find_column, find_row
from protoseg.report.level_metrics import with_levels
from protoseg.report.metrics import METRICS
from protoseg.report.statistics.significance import Paired, has_variance
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.model import Cell, Column, Row, Table, TableComparison
from protoseg.report.tables.pairing import pair_settings
from protoseg.report.tables.samples import (
    Samples,
    collect_records,
    extract_protocol,
    find_differing_fields,
)
from protoseg.runs.store import RecordStore


@dataclass(frozen=True)
class Setting:
    """A row of a matrix in one column."""

    matrix: Matrix
    table: Table
    row: Row
    column: Column
    cell: Cell

    @property
    def name(self) -> str:
        """Matrix and row, for a message."""
        group = f", {self.column.group}" if self.column.group else ""
        return f"{self.matrix.name}: '{self.row.label}{group}'"

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """The planned runs of the cell, one for each seed."""
        runs = {run.run_id: run for run in self.matrix.runs}
        return tuple(runs[run_id] for run_id in self.cell.run_ids)


class ResultReader:
    """Reads tables and records; each table is built once and each record is read once.

    Args:
        load: loads a matrix by its name.
        store: the records.
        published: folders of published numbers, for tables that show them.
    """

    def __init__(
        self, load: Callable[[str], Matrix], store: RecordStore, published: Sequence[Path]
    ) -> None:
        self._load, self._store, self._published = load, store, published
        self._matrices: dict[str, Matrix] = {}
        self._tables: dict[str, Table] = {}
        self._records: dict[str, dict[str, Any] | None] = {}

    def load_matrix(self, name: str) -> Matrix:
        """Load a matrix."""
        if name not in self._matrices:
            self._matrices[name] = self._load(name)
        return self._matrices[name]

    def load_table(self, name: str) -> Table:
        """Build the table of a matrix."""
        if name not in self._tables:
            self._tables[name] = build_table(self.load_matrix(name), self._store, self._published)
        return self._tables[name]

    def read_record(self, run_id: str) -> dict[str, Any] | None:
        """Read the record of a run; None without one."""
        if run_id not in self._records:
            self._records[run_id] = self._store.find(run_id).record
        return self._records[run_id]

    def find_setting(self, matrix: str, row: str, column: str = "#1") -> Setting:
        """Find a row with finished runs.

        Raises:
            UsageError: an unknown matrix, row or column, or a column without measured values.
            ProtosegError: the row has no finished run.
        """
        prefix = re.fullmatch(r"(\w+):(.+)", row)
        if prefix:
            matrix, row = prefix[1], prefix[2]
        table = self.load_table(matrix)
        table_row, index = find_row(table, row), find_column(table, column)
        header, cell = table.header[index], table_row.cells[index]
        if header.kind != "measured":
            measured = [each.key for each in table.header if each.kind == "measured"]
            raise UsageError(
                f"{matrix}: column '{header.key}' has no measured values. "
                f"Name one of {join_names(measured)}."
            )
        setting = Setting(self.load_matrix(matrix), table, table_row, header, cell)
        if cell.kind != "measured":
            raise ProtosegError(
                f"{setting.name} has no finished run in the records. "
                f"Train it and keep its records: protoseg tables {matrix} --keep-records."
            )
        return setting

    def read_values(self, setting: Setting) -> dict[int, float]:
        """Read the values of a setting: seed -> value."""
        return self._collect(setting).values.get(setting.column.metric, {})

    def pair_rows(self, operands: Sequence[str], fewest: int) -> tuple[Paired, int]:
        """Pair two rows by seed.

        Args:
            operands: MATRIX BASELINE ROW [COLUMN].
            fewest: number of shared seeds that are needed.

        Returns:
            Row minus baseline over the shared seeds, and the decimals of the metric.

        Raises:
            UsageError: as `find_setting`.
            ProtosegError: fewer than ``fewest`` shared seeds, or two different evaluations.
        """
        matrix, *rows = operands[:3]
        theirs, ours = (self.find_setting(matrix, row, *operands[3:]) for row in rows)
        pair = f"{ours.name} and {theirs.name}"
        specs = [setting.runs[0].spec for setting in (ours, theirs)]
        if extract_protocol(specs[0]) != extract_protocol(specs[1]):
            fields = find_differing_fields(*map(to_plain, specs))
            raise ProtosegError(
                f"{pair} have different evaluations (they differ in {', '.join(fields)}). "
                "Compare rows of one data set and one evaluation."
            )
        metric = METRICS[ours.column.metric]
        paired = pair_settings(self._collect(ours), self._collect(theirs), metric).pairs
        if paired.n < fewest:
            raise ProtosegError(
                f"{pair} share {wording.format_seeds(paired.n)}, and {fewest} are needed. "
                "Train more seeds, or remove this number."
            )
        if fewest > 1 and not has_variance(paired.values):
            raise ProtosegError(
                f"{pair} differ by the same number for each seed, so there is no interval and "
                "no p. Remove this number."
            )
        return paired, metric.decimals

    def find_comparison(self, operands: Sequence[str]) -> TableComparison:
        """Find the tested comparison of two rows in the family of their table.

        Args:
            operands: MATRIX BASELINE ROW [COLUMN], or with the two rows exchanged.

        Raises:
            UsageError: as `find_setting`; or the table does not test this comparison.
        """
        matrix, *rows = operands[:3]
        theirs, ours = (self.find_setting(matrix, row, *operands[3:]) for row in rows)
        family = self.load_table(matrix).family
        wanted = {ours.row.label, theirs.row.label}
        is_tested = family is not None and family.metric.key == ours.column.metric
        for comparison in family.comparisons if family is not None and is_tested else ():
            is_wanted = {comparison.ours, comparison.theirs} == wanted
            if is_wanted and comparison.group == ours.column.group and comparison.p is not None:
                return comparison
        raise UsageError(
            f"{matrix}: its table does not test '{ours.row.label}' against '{theirs.row.label}' in "
            f"{METRICS[ours.column.metric].title}. "
            "Name rows of table.comparisons, or use the source p."
        )

    def _collect(self, setting: Setting) -> Samples:
        if needs_tree(setting.column.metric):
            store = with_levels(setting.matrix, self._store)
            records = [store.find(run.run_id).record for run in setting.runs]
        else:
            records = [self.read_record(run.run_id) for run in setting.runs]
        return collect_records(record for record in records if record is not None)
