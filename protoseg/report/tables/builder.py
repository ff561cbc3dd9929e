"""From a matrix and its records to a `Table`.

What it refuses rather than prints: a cell that would pool different settings, a table of two
evaluation protocols, a baseline or a metric that does not exist. What is not measured is a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.errors import UsageError, unknown
from protoseg.report import metrics, wording
from protoseg.report.metrics import COUNTS, METRICS, Metric
from protoseg.report.statistics.significance import best, mean, sample_std
from protoseg.report.tables import published
from protoseg.report.tables.baseline import baselines
from protoseg.report.tables.cells import (
    FootnoteMarks,
    delta_cell,
    measured_cell,
    no_value,
    published_cell,
    verdict_cell,
)
from protoseg.report.tables.footnotes import published_words, sentences
from protoseg.report.tables.model import (
    Cell,
    CellKind,
    ClassResult,
    Column,
    Footnote,
    Row,
    Table,
)
from protoseg.report.tables.parameter_cells import parameters_cell, published_parameters_cell
from protoseg.report.tables.provenance import ProvenanceCount
from protoseg.report.tables.samples import Key, Samples, check_protocols, collect
from protoseg.runs.store import RecordStore


def build_table(matrix: Matrix, store: RecordStore, published_folder: Path) -> Table:
    """The table of a matrix, from the records that are there.

    Raises:
        UsageError: a metric, axis, baseline or published file that does not exist, or a cell that
            would mix settings.
        ProtosegError: two evaluation protocols, or two different results of one run.
    """
    return _Builder(matrix, store, published_folder).table()


class _Builder:
    """What the cells of one table share."""

    def __init__(self, matrix: Matrix, store: RecordStore, published_folder: Path) -> None:
        self.matrix, self.spec = matrix, matrix.table
        self._check_names()
        self.columns: Key = tuple(self.spec.columns)
        self.rows: Key = tuple(self.spec.rows) or tuple(
            axis for axis in matrix.axes if axis not in self.columns
        )
        self.main = self.spec.metrics[0]
        check_protocols(matrix, (*self.rows, *self.columns))
        self.published = published.load(matrix, published_folder)
        if self.columns and self.published is not None and self.published.spec.labels:
            raise UsageError(
                f"{matrix.name}: table: published.labels name whole rows; with 'columns' a row "
                "has several published ones. Keep one of the two."
            )
        self.provenance = ProvenanceCount()
        self.grid = collect(matrix, store, self.rows, self.columns, self.provenance.add)
        self.groups: dict[Key, Samples] = {}
        for cells in self.grid.values():
            for column, samples in cells.items():
                self.groups.setdefault(column, samples)
        self.all = [samples for cells in self.grid.values() for samples in cells.values()]
        self.baselines = baselines(matrix, self.all)
        counts = Counter(len(v) for s in self.all if (v := s.values.get(self.main)))
        self.common_n = max(counts, key=lambda n: (counts[n], n), default=0)
        self.marks = FootnoteMarks()

    def _check_names(self) -> None:
        where, spec = f"{self.matrix.name}: table", self.spec
        if not self.matrix.runs:
            raise UsageError(f"{self.matrix.name}: has no runs, so there is no table to make.")
        metrics.check(spec.metrics, f"{where}.metrics")
        for part in ("rows", "columns", "baseline"):
            for axis in getattr(spec, part):
                if axis not in self.matrix.axes:
                    raise UsageError(unknown("axis", axis, f"{where}.{part}", self.matrix.axes))
        if spec.baseline and spec.metrics[0] in COUNTS:
            raise UsageError(f"{where}.baseline: put a measured metric first; Δ is taken of it.")

    def table(self) -> Table:
        header = list(self._label_columns())
        for group, samples in self.groups.items():
            header += self._columns(group, samples)
        bold = {group: self._bold(group) for group in self.groups}
        rows = self._references(header)
        references, before = len(rows), None
        for key, cells in self.grid.items():
            axes = next(iter(cells.values())).axes
            labels = self._labels(axes)
            row: list[Cell] = [Cell("label", label) for label in labels]
            for group in self.groups:
                row += self._cells(cells.get(group), key in bold[group])
            names = [
                wording.value_name(axis, axes.get(axis), self.spec.names) for axis in self.rows
            ]
            block = key[0] if len(key) > 1 else ""
            rule = bool(rows) and (len(rows) == references or block != before)
            before = block
            values = key if self._published_labels is None else tuple(labels)
            rows.append(Row(", ".join(names) or self.matrix.name, tuple(row), values, rule))
        self._check_groups(header)
        twice = [label for label, n in Counter(row.label for row in rows).items() if n > 1]
        if twice:
            raise UsageError(
                f"{self.matrix.name}: table.names: several rows are called '{twice[0]}'. "
                "Give each its own name."
            )
        notes = sentences(
            self.matrix, self.all, self.common_n, self.baselines, self.published, any(bold.values())
        )
        provenance = self.provenance.summary()
        return Table(
            self.matrix.name,
            wording.clean(self.matrix.title or self.matrix.name),
            wording.clean(self.spec.caption),
            tuple(header),
            tuple(rows),
            (*notes, Footnote(provenance.words), *self.marks.footnotes()),
            provenance,
            self.columns,
            tuple(self._per_class(rows[references:])),
            self.matrix.overrides,
        )

    def _check_groups(self, header: Sequence[Column]) -> None:
        titles = Counter(c.plain for c in header)
        twice = next((c.group for c in header if c.group and titles[c.plain] > 1), "")
        if twice:
            raise UsageError(
                f"{self.matrix.name}: table.names: several columns are called '{twice}'. "
                "Give each its own name."
            )

    @property
    def _published_labels(self) -> dict[str, str] | None:
        """Field -> title of the columns that name a row, where the published rows give them."""
        return (self.published.spec.labels or None) if self.published is not None else None

    def _label_columns(self) -> Iterator[Column]:
        titles = self._published_labels
        if titles is None:
            titles = {axis: wording.axis_name(axis, self.spec.names) for axis in self.rows}
        for field, title in titles.items():
            yield Column(field, wording.clean(title), "label", metric=field)

    def _labels(self, axes: Mapping[str, Any]) -> list[str]:
        names = [wording.value_name(axis, axes.get(axis), self.spec.names) for axis in self.rows]
        titles = self._published_labels
        if titles is None or self.published is None:
            return names
        row = self.published.find(axes)
        if row is not None:
            return list(self.published.labels(row))
        # A setting that nobody has published goes by its own name, part by part where that fits.
        name = ", ".join(names)
        parts = name.split(", ")
        return parts if len(parts) == len(titles) else [name, *[""] * (len(titles) - 1)]

    def _references(self, header: Sequence[Column]) -> list[Row]:
        """Published rows that no run of ours matches."""
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
                    cells.append(published_cell(self.published, row, None, self.marks))
                else:
                    cells.append(published_parameters_cell(self.published, row))
            rows.append(Row(", ".join(filter(None, labels)), tuple(cells), labels))
        return rows

    def _columns(self, group: Key, samples: Samples) -> Iterator[Column]:
        names = self.spec.names
        above = ", ".join(wording.group_name(a, samples.axes.get(a), names) for a in self.columns)
        address = ", ".join(wording.value_name(a, samples.axes.get(a), names) for a in self.columns)
        prefix = f"{address}/" if self.columns else ""
        mark = ""
        if self.published is not None:
            mark = self.marks.of(published_words(self.published, self.all))
        for metric in self.spec.metrics:
            kind: CellKind = "parameters" if metric in COUNTS else "measured"
            yield Column(prefix + metric, METRICS[metric].title, kind, metric, above, group)
            if metric == self.main and self.baselines is not None:
                yield Column(prefix + "delta", "Δ", "delta", metric, above, group)
            if metric == self.main and self.published is not None:
                title = self.published.title(self.main)
                yield Column(prefix + "published", title, "published", metric, above, group, mark)
                yield Column(prefix + "verdict", "Verdict", "verdict", metric, above, group)
            if self._with_published_count(metric):
                key = f"{prefix}published_{metric}"
                yield Column(key, "Published (M)", "published", metric, above, group, mark)

    def _with_published_count(self, metric: str) -> bool:
        """Whether the published number of parameters stands beside ours."""
        known = self.published is not None and bool(self.published.spec.parameters)
        return known and metric in COUNTS

    def _bold(self, group: Key) -> set[Key]:
        """The rows whose main value is bold; values of different protocols are not compared."""
        if self.main in COUNTS:
            return set()
        places = [(key, cells[group]) for key, cells in self.grid.items() if group in cells]
        protocols: list[Any] = []
        for _, samples in places:
            if samples.protocol not in protocols:
                protocols.append(samples.protocol)
        chosen = set()
        for protocol in protocols:
            values = {
                index: samples.values.get(self.main, {})
                for index, (_, samples) in enumerate(places)
                if samples.protocol == protocol
            }
            leader = best(values, METRICS[self.main].higher_is_better)
            if leader is not None:
                chosen.add(places[leader][0])
        return chosen

    def _cells(self, samples: Samples | None, bold: bool) -> Iterator[Cell]:
        for name in self.spec.metrics:
            metric, is_main = METRICS[name], name == self.main
            if samples is None:
                extra = is_main * (bool(self.baselines) + 2 * bool(self.published))
                extra += self._with_published_count(name)
                yield from [Cell("status", "not planned")] * (1 + extra)
                continue
            if name in COUNTS:
                yield parameters_cell(samples, metric) or no_value(samples, name, is_main)
            else:
                shown = bold and is_main
                yield measured_cell(samples, metric, self.common_n, self.marks, is_main, shown)
            if is_main:
                yield from self._beside(samples, metric)
            if self._with_published_count(name) and self.published is not None:
                row = self.published.find(samples.axes)
                yield published_parameters_cell(self.published, row)

    def _beside(self, samples: Samples, metric: Metric) -> Iterator[Cell]:
        """Δ, the published value and the verdict, as far as the table has them."""
        baseline = self.baselines.of(samples) if self.baselines is not None else None
        if self.baselines is not None:
            arrows = self.baselines.arrows
            yield delta_cell(samples, baseline, metric, self.common_n, self.marks, arrows)
        if self.published is None:
            return
        row = self.published.find(samples.axes)
        paired = self.baselines is not None and self.baselines.arrows and baseline is not samples
        theirs = self.published.find(baseline.axes) if paired and baseline is not None else None
        cell = published_cell(self.published, row, theirs, self.marks)
        yield cell
        yield verdict_cell(samples, self.published, cell, metric, bool(self.matrix.changes))

    def _per_class(self, rows: list[Row]) -> Iterator[ClassResult]:
        names = self.spec.names
        for row, cells in zip(rows, self.grid.values(), strict=True):
            for samples in cells.values():
                axes = samples.axes
                group = ", ".join(wording.value_name(a, axes.get(a), names) for a in self.columns)
                for name, values in samples.per_class.items():
                    n = len(values)
                    centre = mean(values) if n else None
                    spread = sample_std(values) if n > 1 else None
                    yield ClassResult(row.label, group, wording.clean(name), centre, spread, n)
