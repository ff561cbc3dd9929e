"""From a matrix and its records to a `Table`.

What it refuses rather than prints: a cell that would pool different settings, a table of two
evaluation protocols, a baseline or a metric that does not exist. What is not measured is a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protoseg.errors import UsageError, unknown
from protoseg.report import metrics, published, text
from protoseg.report.baseline import Baselines
from protoseg.report.cells import Marks, delta_cell, measured_cell, parameters_cell, published_cell
from protoseg.report.metrics import METRICS, PARAMETERS
from protoseg.report.model import (
    Cell,
    CellKind,
    ClassResult,
    Column,
    Footnote,
    Provenance,
    Row,
    Table,
)
from protoseg.report.samples import Key, Samples, check_protocols, collect, protocol_words
from protoseg.report.statistics import BOLD_RULE, best, mean, sample_std
from protoseg.report.store import RecordStore
from protoseg.spec.matrix import Matrix


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
        self.provenance = _ProvenanceCount()
        self.grid = collect(matrix, store, self.rows, self.columns, self.provenance.add)
        self.groups: dict[Key, Samples] = {}
        for cells in self.grid.values():
            for column, samples in cells.items():
                self.groups.setdefault(column, samples)
        self.baselines = Baselines(matrix, self._all()) if self.spec.baseline else None
        counts = Counter(len(v) for s in self._all() if (v := s.values.get(self.main)))
        self.common_n = max(counts, key=lambda n: (counts[n], n), default=0)
        self.marks = Marks()

    def _check_names(self) -> None:
        where, spec = f"{self.matrix.name}: table", self.spec
        if not self.matrix.runs:
            raise UsageError(f"{self.matrix.name}: has no runs, so there is no table to make.")
        metrics.check(spec.metrics, f"{where}.metrics")
        for part in ("rows", "columns", "baseline"):
            for axis in getattr(spec, part):
                if axis not in self.matrix.axes:
                    raise UsageError(unknown("axis", axis, f"{where}.{part}", self.matrix.axes))
        if spec.baseline and spec.metrics[0] == PARAMETERS:
            raise UsageError(f"{where}.baseline: put a measured metric first; Δ is taken of it.")

    def _all(self) -> Iterator[Samples]:
        for cells in self.grid.values():
            yield from cells.values()

    def table(self) -> Table:
        names = self.spec.names
        header = [Column(a, text.axis_name(a, names), "label", metric=a) for a in self.rows]
        for group, samples in self.groups.items():
            header += self._columns(group, samples)
        bold = {group: self._bold(group) for group in self.groups}
        rows = []
        for key, cells in self.grid.items():
            axes = next(iter(cells.values())).axes
            labels = [text.value_name(axis, axes.get(axis), names) for axis in self.rows]
            row: list[Cell] = [Cell("label", label) for label in labels]
            for group in self.groups:
                row += self._cells(cells.get(group), key in bold[group])
            rows.append(Row(", ".join(labels) or self.matrix.name, tuple(row), key))
        twice = [label for label, n in Counter(row.label for row in rows).items() if n > 1]
        if twice:
            raise UsageError(
                f"{self.matrix.name}: table.names: several rows are called '{twice[0]}'. "
                "Give each its own name."
            )
        return Table(
            self.matrix.name,
            text.clean(self.matrix.title or self.matrix.name),
            text.clean(self.spec.caption),
            tuple(header),
            tuple(rows),
            tuple(self._footnotes(any(bold.values()))),
            self.provenance.summary(),
            self.columns,
            tuple(self._per_class(rows)),
        )

    def _columns(self, group: Key, samples: Samples) -> Iterator[Column]:
        names = self.spec.names
        above = ", ".join(text.group_name(a, samples.axes.get(a), names) for a in self.columns)
        address = ", ".join(text.value_name(a, samples.axes.get(a), names) for a in self.columns)
        prefix = f"{address}/" if self.columns else ""
        for metric in self.spec.metrics:
            kind: CellKind = "parameters" if metric == PARAMETERS else "measured"
            yield Column(prefix + metric, METRICS[metric].title, kind, metric, above, group)
            if metric != self.main:
                continue
            if self.baselines is not None:
                yield Column(prefix + "delta", "Δ", "delta", metric, above, group)
            if self.published is not None:
                mark = self.marks.of(self._published_words())
                title = self.published.title(self.main)
                yield Column(prefix + "published", title, "published", metric, above, group, mark)

    def _bold(self, group: Key) -> set[Key]:
        """The rows whose main value is bold; values of different protocols are not compared."""
        if self.main == PARAMETERS:
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
                extra = is_main * (bool(self.baselines) + bool(self.published))
                yield from [Cell("status", "not planned")] * (1 + extra)
                continue
            if name == PARAMETERS:
                yield parameters_cell(samples, is_main)
            else:
                shown = bold and is_main
                yield measured_cell(samples, metric, self.common_n, self.marks, is_main, shown)
            if is_main and self.baselines is not None:
                baseline = self.baselines.of(samples)
                yield delta_cell(samples, baseline, metric, self.common_n, self.marks)
            if is_main and self.published is not None:
                yield published_cell(self.published, samples, self.marks)

    def _published_words(self) -> str:
        assert self.published is not None
        data = f" for {self.published.data}" if self.published.data else ""
        ours = {f"{s.spec.dataset.name} {s.spec.evaluation.split}": None for s in self._all()}
        # Names are all there is to compare; where they differ the reader is told both.
        other = "" if {self.published.data} == {*ours} else f" (measured here: {', '.join(ours)})"
        return f"Published{data}{other}, not measured by this project: {self.published.source}."

    def _footnotes(self, any_bold: bool) -> Iterator[Footnote]:
        metrics = [metric for metric in self.spec.metrics if metric != PARAMETERS]
        percent = [METRICS[m].title for m in metrics if METRICS[m].unit == "%"]
        units = f"{', '.join(percent)} in percent" if percent else ""
        if self.common_n:
            spread = "mean ± sample standard deviation over n = " if self.common_n > 1 else "n = "
            sentence = f"{spread}{text.seeds(self.common_n)} unless a cell says otherwise"
            sentence = f"{units}; {sentence}" if units else sentence[0].upper() + sentence[1:]
            yield Footnote(f"{sentence}.")
        elif units:
            yield Footnote(f"{units}.")
        if self.baselines is not None:
            yield Footnote(
                f"Δ: difference in {METRICS[self.main].title} to {self.baselines.words}, on shared "
                "seeds only; ± is the sample standard deviation of the paired differences."
            )
        if PARAMETERS in self.spec.metrics:
            yield Footnote(
                "Parameters: learnable, in millions; in brackets the numbers held in prototypes."
            )
        if any_bold:
            yield Footnote(BOLD_RULE)
        elif sum(bool(s.values.get(self.main)) for s in self._all()) > 1 and metrics:
            yield Footnote(f"{BOLD_RULE} Here none is.")
        protocols = {protocol_words(samples.spec): None for samples in self._all()}
        yield Footnote(f"Evaluation, single scale, no flip: {'; '.join(protocols)}.")
        if self.spec.note:
            yield Footnote(text.clean(self.spec.note))
        yield Footnote(self.provenance.summary().words)
        yield from self.marks.footnotes()

    def _per_class(self, rows: list[Row]) -> Iterator[ClassResult]:
        names = self.spec.names
        for row, cells in zip(rows, self.grid.values(), strict=True):
            for samples in cells.values():
                axes = samples.axes
                group = ", ".join(text.value_name(a, axes.get(a), names) for a in self.columns)
                for name, values in samples.per_class.items():
                    n = len(values)
                    centre = mean(values) if n else None
                    spread = sample_std(values) if n > 1 else None
                    yield ClassResult(row.label, group, text.clean(name), centre, spread, n)


class _ProvenanceCount:
    """Gathers `Provenance` while the records pass by."""

    def __init__(self) -> None:
        self.commits: Counter[str] = Counter()
        self.devices: Counter[str] = Counter()
        self.finished: list[str] = []
        self.dirty = 0

    def add(self, record: dict[str, Any]) -> None:
        provenance = record["provenance"]
        self.commits[str(provenance.get("commit") or "unknown")] += 1
        self.devices[device_words(provenance.get("device"))] += 1
        self.dirty += bool(provenance.get("dirty"))
        self.finished.append(record["finished"])

    def summary(self) -> Provenance:
        return Provenance(
            len(self.finished),
            tuple(sorted(self.commits)),
            self.dirty,
            min(self.finished, default=""),
            max(self.finished, default=""),
            tuple(sorted(self.devices)),
        )


def device_words(device: Any) -> str:
    """A device as a record names it, in words."""
    if isinstance(device, dict):
        device = device.get("name") or text.plain_value(device)
    return text.clean(device or "an unknown device")
