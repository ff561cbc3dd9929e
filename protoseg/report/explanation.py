"""Explains a table cell: the runs and records from which it is computed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.errors import UsageError, describe_unknown_name
from protoseg.report import metrics, wording
from protoseg.report.level_metrics import with_levels
from protoseg.report.metrics import METRICS, Metric
from protoseg.report.statistics.power import smallest_detectable
from protoseg.report.statistics.significance import (
    MIN_SEEDS,
    pair_by_seed,
    paired_t_p,
    prediction_interval,
    t_interval,
)
from protoseg.report.tables.model import Cell, Row, Table
from protoseg.report.tables.pairing import SettingPair, pair_settings
from protoseg.report.tables.provenance import describe_device
from protoseg.report.tables.samples import collect_records, describe_protocol
from protoseg.report.tuning.notes import describe_row_choice
from protoseg.runs.store import RecordStore


@dataclass(frozen=True)
class RunLine:
    """One run behind a cell."""

    run_id: str
    seed: int
    state: str
    """State as text: done, not run, failed: out_of_memory, ..."""
    value: float | None
    baseline: bool
    """Whether it is a run of the baseline of Δ."""
    commit: str
    dirty: bool | None
    device: str
    finished: str
    attempts: int
    record: str
    """Path of the record, relative if it is below the current folder; empty without a record."""
    message: str


@dataclass(frozen=True)
class Pair:
    """The difference of one seed in a Δ."""

    seed: int
    value: float
    baseline: float
    difference: float


@dataclass(frozen=True)
class Explanation:
    """The runs, differences and notes of one cell."""

    table: str
    row: str
    column: str
    shown: str
    unit: str
    """Of the metric, and of the values of the runs."""
    runs: tuple[RunLine, ...]
    pairs: tuple[Pair, ...]
    interval: tuple[float, float] | None
    """95% Student t interval of the mean difference over seeds; None with fewer than `MIN_SEEDS`
    pairs, and without spread."""
    p: float | None
    """Two-sided p of the paired t test, not corrected for other comparisons."""
    detectable: float | None
    """Smallest true difference that this test finds with 80% probability."""
    notes: tuple[str, ...]

    @property
    def shown_unit(self) -> str:
        """The unit of ``shown``: a difference of percentages is in points."""
        is_difference = any(run.baseline for run in self.runs)
        return "points" if is_difference and self.unit == "%" else self.unit

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain data for JSON."""
        return asdict(self)


def explain_cell(
    matrix: Matrix, table: Table, row: str, column: str, store: RecordStore
) -> Explanation:
    """Explain a cell of the table of a matrix.

    Args:
        row: a row label, or a number from 1; "#2" is always a number.
        column: a column key or title, or a number from 1 that does not count label columns.

    Raises:
        UsageError: there is no such row or column.
    """
    row_index = table.rows.index(find_row(table, row))
    return explain_cell_at(matrix, table, row_index, find_column(table, column), store)


def explain_cell_at(
    matrix: Matrix, table: Table, row_index: int, column_index: int, store: RecordStore
) -> Explanation:
    """Explain the cell at an index of the rows and of the header; see `explain_cell`."""
    store = with_levels(matrix, store)
    table_row = table.rows[row_index]
    header, cell = table.header[column_index], table_row.cells[column_index]
    specs = {planned.run_id: planned.spec for planned in matrix.runs}
    pair = _pair_sides(cell, METRICS[header.metric], store) if cell.baseline_run_ids else None
    metric = pair.metric.key if pair is not None else header.metric
    lines = [
        read_run_line(run_id, specs[run_id].seed, metric, of_baseline, store)
        for run_ids, of_baseline in ((cell.run_ids, False), (cell.baseline_run_ids, True))
        for run_id in run_ids
    ]
    ours, theirs = (
        {
            line.seed: line.value
            for line in lines
            if line.baseline is side and line.value is not None
        }
        for side in (False, True)
    )
    comparison = pair_by_seed(ours, theirs)
    is_tested = comparison.is_testable
    notes = [note.text for note in table.footnotes if note.mark and note.mark == cell.mark]
    if header.kind == "published":
        notes += [note.text for note in table.footnotes if note.mark == header.mark]
    if cell.kind == "verdict" and len(ours) >= MIN_SEEDS:
        for name, interval in (("the mean", t_interval), ("one more run", prediction_interval)):
            low, high = interval(ours.values())
            notes.append(f"95 % interval of {name}: {low:.4f} to {high:.4f}.")
    holdouts = [specs[i] for i in cell.run_ids if specs[i].evaluation.holdout.is_set]
    notes += dict.fromkeys(f"Evaluation: {describe_protocol(spec)}." for spec in holdouts)
    for axes in _list_axes(matrix, cell.run_ids):
        notes += describe_row_choice(matrix, axes)
    return Explanation(
        table=table.name,
        row=table_row.label,
        column=header.key,
        shown=cell.plain,
        unit="" if cell.kind == "status" else METRICS[header.metric].unit,
        runs=tuple(lines),
        pairs=tuple(Pair(s, ours[s], theirs[s], d) for s, d in comparison.differences),
        interval=comparison.interval() if is_tested else None,
        p=paired_t_p(comparison.values) if is_tested else None,
        detectable=smallest_detectable(comparison.std, comparison.n) if is_tested else None,
        notes=tuple(
            dict.fromkeys(
                (*notes, *(pair.notes if pair is not None else ()), *_describe_test(table, cell))
            )
        ),
    )


def _list_axes(matrix: Matrix, run_ids: Collection[str]) -> list[dict[str, Any]]:
    """The axis values of the rows of some runs, each once."""
    axes = [run.axes for run in matrix.runs if run.run_id in run_ids] if matrix.tuning else []
    return [each for index, each in enumerate(axes) if each not in axes[:index]]


def _describe_test(table: Table, cell: Cell) -> Iterator[str]:
    """Describe how the table tests the difference of a cell, as one of its comparisons."""
    family = table.family
    for comparison in family.comparisons if family is not None else ():
        sides = (comparison.our_runs, comparison.their_runs)
        if family is not None and sides == (cell.run_ids, cell.baseline_run_ids):
            if comparison.adjusted_p is None:
                yield f"{comparison.result[:1].upper()}{comparison.result[1:]}."
                return
            yield (
                f"The table has {family.tested} tests, {family.description}. Result of this one: "
                f"{comparison.result}, adjusted p {wording.format_p(comparison.adjusted_p)}. "
                f"Method: {family.method}."
            )


def _pair_sides(cell: Cell, metric: Metric, store: RecordStore) -> SettingPair | None:
    """Pair the runs of a cell with those of its baseline; None if a side has no record."""
    sides = [
        [record for run_id in run_ids if (record := store.find(run_id).record)]
        for run_ids in (cell.run_ids, cell.baseline_run_ids)
    ]
    if not all(sides):
        return None
    ours, theirs = map(collect_records, sides)
    return pair_settings(ours, theirs, metric)


def read_run_line(
    run_id: str, seed: int, metric: str, baseline: bool, store: RecordStore
) -> RunLine:
    """Read one run behind a cell and the value of a metric, a key of `METRICS`."""
    result = store.find(run_id)
    record: dict[str, Any] = result.record or {}
    provenance = record.get("provenance", {})
    dirty = provenance.get("dirty")
    return RunLine(
        run_id=run_id,
        seed=seed,
        state="done" if record else wording.describe_state(result),
        value=metrics.read_metric(record, METRICS[metric]) if record else None,
        baseline=baseline,
        commit=str(provenance.get("commit") or ""),
        dirty=dirty if isinstance(dirty, bool) else None,
        device=describe_device(provenance.get("device")) if record else "",
        finished=record.get("finished", ""),
        attempts=result.status.attempts,
        record=_relative_path(result.source),
        message=wording.clean_text(result.status.message),
    )


def _relative_path(path: Path | None) -> str:
    if path is None:
        return ""
    absolute, current = path.absolute(), Path.cwd()
    return str(absolute.relative_to(current) if absolute.is_relative_to(current) else path)


def find_row(table: Table, name: str) -> Row:
    """Find a row by its label, its name in figures, or its number from 1.

    Raises:
        UsageError: there is no such row.
    """
    labels = [row.label for row in table.rows]
    # Figures have no column titles: `ProtoSeg, K = 4` is the row `ProtoSeg, 4`.
    short = wording.clean_text(name)
    for column in table.header:
        short = short.replace(f"{column.title} = ", "") if column.kind == "label" else short
    name = short if labels.count(short) == 1 else name
    return table.rows[_find_index("row", name, labels, labels, table.name)]


def find_column(table: Table, name: str) -> int:
    """Find the index of a column by its key, title or number from 1.

    Raises:
        UsageError: there is no such column.
    """
    indices = [i for i, column in enumerate(table.header) if column.kind != "label"]
    columns = [table.header[index] for index in indices]
    keys = [column.key for column in columns]
    titles = [" ".join(part for part in (c.group, c.title) if part) for c in columns]
    return indices[_find_index("column", name, keys, titles, table.name)]


def _find_index(what: str, name: str, keys: list[str], titles: list[str], where: str) -> int:
    wanted = wording.clean_text(name)
    for names in (keys, titles, [k.casefold() for k in keys], [t.casefold() for t in titles]):
        for spelling in (wanted, wanted.casefold()):
            if names.count(spelling) == 1:
                return names.index(spelling)
    digits = wanted.removeprefix("#")
    # If labels are numbers (K = 1, 5, 10), "2" is an unknown label; only "#2" is the second row.
    is_number = wanted.startswith("#") or not any(name.isdecimal() for name in (*keys, *titles))
    if digits.isdecimal() and is_number and 1 <= int(digits) <= len(keys):
        return int(digits) - 1
    sentence = describe_unknown_name(what, wanted, where, keys, in_order=True)
    raise UsageError(f"{sentence} Or a number, #1 to #{len(keys)}.")
