"""The runs behind a cell: every number of a table leads back to its records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.errors import UsageError, unknown
from protoseg.report import metrics, wording
from protoseg.report.metrics import METRICS
from protoseg.report.statistics.significance import (
    MIN_SEEDS,
    pair_by_seed,
    prediction_interval,
    t_interval,
)
from protoseg.report.tables.model import Row, Table
from protoseg.report.tables.provenance import describe_device
from protoseg.runs.store import RecordStore


@dataclass(frozen=True)
class RunLine:
    """One run behind a cell."""

    run_id: str
    seed: int
    state: str
    """In words: done, not run, failed: out_of_memory, ..."""
    value: float | None
    baseline: bool
    """It belongs to the baseline that Δ is taken against."""
    commit: str
    dirty: bool | None
    device: str
    finished: str
    attempts: int
    record: str
    """The file, relative to the current folder where it lies below it; empty where none is."""
    message: str


@dataclass(frozen=True)
class Pair:
    """One seed of a Δ."""

    seed: int
    value: float
    baseline: float
    difference: float


@dataclass(frozen=True)
class Explanation:
    """What stands behind one cell."""

    table: str
    row: str
    column: str
    shown: str
    unit: str
    runs: tuple[RunLine, ...]
    pairs: tuple[Pair, ...]
    interval: tuple[float, float] | None
    """95 % Student t interval of the mean difference, from two pairs on."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def explain(matrix: Matrix, table: Table, row: str, column: str, store: RecordStore) -> Explanation:
    """The runs behind a cell of the table of a matrix.

    ``row`` is a label and ``column`` a key or title, as they stand in the table, or numbers from 1
    (columns of labels are not counted); "#2" is a number whatever the labels are.

    Raises:
        UsageError: there is no such row or column.
    """
    found_row, column_index = find_row(table, row), find_column(table, column)
    shown, cell = table.header[column_index], found_row.cells[column_index]
    seeds = {planned.run_id: planned.spec.seed for planned in matrix.runs}
    lines = [
        _line(run_id, seeds[run_id], shown.metric, of_baseline, store)
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
    notes = [note.text for note in table.footnotes if note.mark and note.mark == cell.mark]
    if shown.kind == "published":
        notes += [note.text for note in table.footnotes if note.mark == shown.mark]
    if cell.kind == "verdict" and len(ours) >= MIN_SEEDS:
        for name, of in (("the mean", t_interval), ("one more run", prediction_interval)):
            low, high = of(ours.values())
            notes.append(f"95 % interval of {name}: {low:.4f} to {high:.4f}.")
    return Explanation(
        table=table.name,
        row=found_row.label,
        column=shown.key,
        shown=cell.plain,
        unit="" if cell.kind == "status" else METRICS[shown.metric].unit,
        runs=tuple(lines),
        pairs=tuple(Pair(s, ours[s], theirs[s], d) for s, d in comparison.differences),
        interval=comparison.interval() if comparison.n > 1 else None,
        notes=tuple(notes),
    )


def _line(run_id: str, seed: int, metric: str, baseline: bool, store: RecordStore) -> RunLine:
    found = store.find(run_id)
    record: dict[str, Any] = found.record or {}
    provenance = record.get("provenance", {})
    dirty = provenance.get("dirty")
    return RunLine(
        run_id=run_id,
        seed=seed,
        state="done" if record else wording.describe_state(found),
        value=metrics.read_metric(record, METRICS[metric]) if record else None,
        baseline=baseline,
        commit=str(provenance.get("commit") or ""),
        dirty=dirty if isinstance(dirty, bool) else None,
        device=describe_device(provenance.get("device")) if record else "",
        finished=record.get("finished", ""),
        attempts=found.status.attempts,
        record=_relative(found.source),
        message=wording.clean_text(found.status.message),
    )


def _relative(path: Path | None) -> str:
    if path is None:
        return ""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else path)


def find_row(table: Table, name: str) -> Row:
    """The row of a label, or of a number from 1; UsageError where there is none."""
    labels = [row.label for row in table.rows]
    return table.rows[_index("row", name, labels, labels, table.name)]


def find_column(table: Table, name: str) -> int:
    """The place of a column by its key, title or number from 1; UsageError where there is none."""
    places = [i for i, column in enumerate(table.header) if column.kind != "label"]
    columns = [table.header[place] for place in places]
    keys = [column.key for column in columns]
    titles = [" ".join(part for part in (c.group, c.title) if part) for c in columns]
    return places[_index("column", name, keys, titles, table.name)]


def _index(kind: str, name: str, keys: list[str], titles: list[str], where: str) -> int:
    wanted = wording.clean_text(name)
    for names in (keys, titles, [k.casefold() for k in keys], [t.casefold() for t in titles]):
        for spelling in (wanted, wanted.casefold()):
            if names.count(spelling) == 1:
                return names.index(spelling)
    digits = wanted.removeprefix("#")
    # Where labels are numbers (K = 1, 5, 10), 2 may be meant as one that does not exist.
    marked = wanted.startswith("#") or not any(name.isdecimal() for name in (*keys, *titles))
    if digits.isdecimal() and marked and 1 <= int(digits) <= len(keys):
        return int(digits) - 1
    sentence = unknown(kind, wanted, where, keys, in_order=True)
    raise UsageError(f"{sentence} Or a number, #1 to #{len(keys)}.")
