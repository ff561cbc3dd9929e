"""Builds the `Table` of a matrix from its records.

It refuses a cell that would mix settings, a table with two evaluation protocols, and a baseline or
a metric that does not exist. A cell without a value has a status in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.errors import UsageError, describe_unknown_name
from protoseg.report import metrics, wording
from protoseg.report.imported_rows import make_imported_rows
from protoseg.report.level_metrics import with_levels
from protoseg.report.metrics import COUNTS, METRICS, QUALITIES, Metric
from protoseg.report.tables import published
from protoseg.report.tables.baseline import make_baselines
from protoseg.report.tables.bold import find_bold_cells
from protoseg.report.tables.cells import (
    FootnoteMarks,
    make_delta_cell,
    make_measured_cell,
    make_missing_cell,
    make_published_cell,
    make_verdict_cell,
)
from protoseg.report.tables.comparisons import NamedSamples, compare_settings
from protoseg.report.tables.footnotes import describe_published, make_footnotes
from protoseg.report.tables.model import Cell, CellKind, Column, Footnote, Row, Table
from protoseg.report.tables.parameter_cells import (
    make_parameters_cell,
    make_published_parameters_cell,
)
from protoseg.report.tables.provenance import ProvenanceCount
from protoseg.report.tables.samples import (
    Key,
    Samples,
    check_protocols,
    collect_samples,
    list_class_results,
)
from protoseg.runs.store import RecordStore


def build_table(matrix: Matrix, store: RecordStore, published_folders: Sequence[Path]) -> Table:
    """Build the table of a matrix from the existing records.

    Args:
        published_folders: folders of published numbers.

    Raises:
        UsageError: a metric, axis, baseline or published file does not exist, or a cell would mix
            settings.
        ProtosegError: the runs have two evaluation protocols, or a run has two different results.
    """
    return _Builder(matrix, store, published_folders).build()


class _Builder:
    """Builds one table; its attributes are shared by all cells."""

    def __init__(
        self, matrix: Matrix, store: RecordStore, published_folders: Sequence[Path]
    ) -> None:
        self.matrix, self.spec, self.store = matrix, matrix.table, with_levels(matrix, store)
        self._check_names()
        self.columns: Key = tuple(self.spec.columns)
        self.rows: Key = tuple(self.spec.rows) or tuple(
            axis for axis in matrix.axes if axis not in self.columns
        )
        self.main = self.spec.metrics[0]
        self.qualities = [name for name in self.spec.metrics if name in QUALITIES]
        check_protocols(matrix, (*self.rows, *self.columns))
        self.published = published.load_published(matrix, published_folders)
        if self.columns and self.published is not None and self.published.spec.labels:
            raise UsageError(
                f"{matrix.name}: table: published.labels name rows, but with table.columns a row "
                "has several published values. Keep one of the two."
            )
        self.provenance = ProvenanceCount()
        self.grid = collect_samples(
            matrix, self.store, self.rows, self.columns, self.provenance.add
        )
        self.groups: dict[Key, Samples] = {}
        for cells in self.grid.values():
            for column, samples in cells.items():
                self.groups.setdefault(column, samples)
        self.all = [samples for cells in self.grid.values() for samples in cells.values()]
        self.baselines = make_baselines(matrix, self.all)
        counts = Counter(len(v) for s in self.all if (v := s.values.get(self.main)))
        self.common_n = max(counts, key=lambda n: (counts[n], n), default=0)
        self.marks = FootnoteMarks()

    def _check_names(self) -> None:
        where, spec = f"{self.matrix.name}: table", self.spec
        if not self.matrix.runs:
            raise UsageError(f"{self.matrix.name}: has no runs, so it has no table.")
        metrics.check_metrics(spec.metrics, f"{where}.metrics")
        for part in ("rows", "columns", "baseline"):
            for axis in getattr(spec, part):
                if axis not in self.matrix.axes:
                    raise UsageError(
                        describe_unknown_name("axis", axis, f"{where}.{part}", self.matrix.axes)
                    )
        if spec.baseline and spec.metrics[0] in COUNTS:
            raise UsageError(
                f"{where}.baseline: Δ needs a measured metric. Put one first in metrics."
            )

    def build(self) -> Table:
        header = list(self._label_columns())
        for group, samples in self.groups.items():
            header += self._value_columns(group, samples)
        bold = {m: find_bold_cells(self.grid, METRICS[m]) for m in self.qualities}
        rows, spec = self._reference_rows(header), self.all[0].spec
        rows += make_imported_rows(self.matrix, self.store, header, spec, self.common_n, self.marks)
        references, previous_block = len(rows), None
        for key, cells in self.grid.items():
            axes = next(iter(cells.values())).axes
            labels = self._labels(axes)
            row: list[Cell] = [Cell("label", label) for label in labels]
            for group in self.groups:
                row += self._value_cells(
                    cells.get(group), {m for m in self.qualities if (key, group) in bold[m].cells}
                )
            names = [
                wording.name_value(axis, axes.get(axis), self.spec.names) for axis in self.rows
            ]
            block = key[0] if len(key) > 1 else ""
            rule = bool(rows) and (len(rows) == references or block != previous_block)
            previous_block = block
            values = key if self._published_labels is None else tuple(labels)
            rows.append(Row(", ".join(names) or self.matrix.name, tuple(row), values, rule))
        self._check_titles(header)
        duplicates = [label for label, n in Counter(row.label for row in rows).items() if n > 1]
        if duplicates:
            raise UsageError(
                f"{self.matrix.name}: table.names: several rows are called '{duplicates[0]}'. "
                "Give each its own name."
            )
        family = compare_settings(self.matrix, list(self._named_settings(rows)), self.baselines)
        notes = make_footnotes(
            self.matrix,
            self.all,
            self.common_n,
            self.baselines,
            self.published,
            any(values.cells for values in bold.values()),
            [METRICS[m].title for m, values in bold.items() if values.lacks_spread],
            family,
        )
        provenance = self.provenance.summarise()
        return Table(
            self.matrix.name,
            wording.clean_text(self.matrix.title or self.matrix.name),
            wording.clean_text(self.spec.caption),
            tuple(header),
            tuple(rows),
            (*notes, Footnote(provenance.sentence), *self.marks.footnotes()),
            provenance,
            self.columns,
            tuple(list_class_results(rows[references:], self.grid, self.columns, self.spec.names)),
            self.matrix.overrides,
            family,
        )

    def _named_settings(self, rows: Sequence[Row]) -> Iterator[NamedSamples]:
        names = self.spec.names
        # The first rows are published ones without runs.
        measured = rows[len(rows) - len(self.grid) :]
        for row, cells in zip(measured, self.grid.values(), strict=True):
            for samples in cells.values():
                axes = samples.axes
                group = ", ".join(wording.name_group(a, axes.get(a), names) for a in self.columns)
                yield NamedSamples(row.label, group, samples)

    def _check_titles(self, header: Sequence[Column]) -> None:
        titles = Counter(c.plain for c in header)
        duplicates = next((c.group for c in header if c.group and titles[c.plain] > 1), "")
        if duplicates:
            raise UsageError(
                f"{self.matrix.name}: table.names: several columns are called '{duplicates}'. "
                "Give each its own name."
            )

    @property
    def _published_labels(self) -> dict[str, str] | None:
        """Field -> title of the label columns that published rows fill; None if they do not."""
        return (self.published.spec.labels or None) if self.published is not None else None

    def _label_columns(self) -> Iterator[Column]:
        titles = self._published_labels
        if titles is None:
            titles = {axis: wording.name_axis(axis, self.spec.names) for axis in self.rows}
        for field, title in titles.items():
            yield Column(field, wording.clean_text(title), "label", metric=field)

    def _labels(self, axes: Mapping[str, Any]) -> list[str]:
        names = [wording.name_value(axis, axes.get(axis), self.spec.names) for axis in self.rows]
        titles = self._published_labels
        if titles is None or self.published is None:
            return names
        row = self.published.find(axes)
        if row is not None:
            return list(self.published.labels(row))
        # An unpublished setting is labelled with its name; its parts fill the label columns.
        name = ", ".join(names)
        parts = name.split(", ")
        return parts if len(parts) == len(titles) else [name, *[""] * (len(titles) - 1)]

    def _reference_rows(self, header: Sequence[Column]) -> list[Row]:
        """Rows of published settings that no run of the matrix matches."""
        if self.published is None:
            return []
        rows = []
        for row in self.published.references(s.axes for s in self.all):
            labels = self.published.labels(row)
            cells = [Cell("label", label) for label in labels]
            for column in header[len(labels) :]:
                if column.kind != "published":
                    cells.append(Cell("status", ""))
                elif column.metric == self.main:
                    cells.append(make_published_cell(self.published, row, None, self.marks))
                else:
                    cells.append(make_published_parameters_cell(self.published, row))
            rows.append(Row(", ".join(filter(None, labels)), tuple(cells), labels))
        return rows

    def _value_columns(self, group: Key, samples: Samples) -> Iterator[Column]:
        names = self.spec.names
        title = ", ".join(wording.name_group(a, samples.axes.get(a), names) for a in self.columns)
        name = ", ".join(wording.name_value(a, samples.axes.get(a), names) for a in self.columns)
        prefix = f"{name}/" if self.columns else ""
        mark = ""
        if self.published is not None:
            mark = self.marks.mark(describe_published(self.published, self.all))
        for metric in self.spec.metrics:
            cell_kind: CellKind = "parameters" if metric in COUNTS else "measured"
            yield Column(prefix + metric, METRICS[metric].title, cell_kind, metric, title, group)
            if metric == self.main and self.baselines is not None:
                yield Column(prefix + "delta", "Δ", "delta", metric, title, group)
            if metric == self.main and self.published is not None:
                heading = self.published.title(self.main)
                yield Column(prefix + "published", heading, "published", metric, title, group, mark)
                yield Column(prefix + "verdict", "Verdict", "verdict", metric, title, group)
            if self._has_published_count(metric):
                key = f"{prefix}published_{metric}"
                yield Column(key, "Published (M)", "published", metric, title, group, mark)

    def _has_published_count(self, metric: str) -> bool:
        """Whether the table has a column for the published number of parameters."""
        has_numbers = self.published is not None and bool(self.published.spec.parameters)
        return has_numbers and metric in COUNTS

    def _value_cells(self, samples: Samples | None, bold: set[str]) -> Iterator[Cell]:
        for name in self.spec.metrics:
            metric, is_main = METRICS[name], name == self.main
            if samples is None:
                extra = is_main * (bool(self.baselines) + 2 * bool(self.published))
                extra += self._has_published_count(name)
                yield from [Cell("status", "not planned")] * (1 + extra)
                continue
            if name in COUNTS:
                yield make_parameters_cell(samples, metric) or make_missing_cell(
                    samples, name, is_main
                )
            else:
                yield make_measured_cell(
                    samples, metric, self.common_n, self.marks, is_main, name in bold
                )
            if is_main:
                yield from self._comparison_cells(samples, metric)
            if self._has_published_count(name) and self.published is not None:
                row = self.published.find(samples.axes)
                yield make_published_parameters_cell(self.published, row)

    def _comparison_cells(self, samples: Samples, metric: Metric) -> Iterator[Cell]:
        """Yield the cells Δ, published value and verdict, as far as the table has them."""
        baseline = self.baselines.find(samples) if self.baselines is not None else None
        if self.baselines is not None:
            arrows = self.baselines.arrows
            yield make_delta_cell(samples, baseline, metric, self.common_n, self.marks, arrows)
        if self.published is None:
            return
        row = self.published.find(samples.axes)
        paired = self.baselines is not None and self.baselines.arrows and baseline is not samples
        theirs = self.published.find(baseline.axes) if paired and baseline is not None else None
        cell = make_published_cell(self.published, row, theirs, self.marks)
        yield cell
        yield make_verdict_cell(samples, self.published, cell, metric, bool(self.matrix.changes))
