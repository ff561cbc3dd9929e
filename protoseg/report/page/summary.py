"""Writes the summary of a page: what was measured, the verdicts, and what limits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from protoseg.config.matrix import Matrix
from protoseg.report import wording
from protoseg.report.metrics import COUNTS, METRICS
from protoseg.report.statistics.power import SIGNIFICANCE
from protoseg.report.statistics.significance import MIN_SEEDS, smallest_p
from protoseg.report.tables.comparisons import NO_DIFFERENCE
from protoseg.report.tables.footnotes import DIFFERENT_SETS, summarise_family
from protoseg.report.tables.model import Cell, Table
from protoseg.report.tables.samples import extract_protocol
from protoseg.report.tuning.notes import describe_inequality

NAMED_ROWS = 4
"""Rows that a line names; the others are counted."""


def summarise_table(
    matrix: Matrix, table: Table | None, finished: int, planned: int, trials: tuple[int, int]
) -> tuple[str, str, str]:
    """Summarise a table in three lines: measured, verdicts, limits.

    Args:
        table: the table of the matrix; None before the settings of its search are chosen.
        finished: number of final runs with a record.
        planned: number of final runs.
        trials: numbers of runs of trials with a record, and of all.
    """
    if table is None:
        return (
            f"{trials[0]} of {trials[1]} trials have a record. No final run is planned yet: the "
            "settings of the search are not chosen.",
            "No comparison is tested.",
            " ".join(_list_limits(matrix, None, finished, planned)),
        )
    measured = f"{finished} of {planned} runs have a record."
    best = _describe_best(matrix, table)
    return (
        f"{measured} {best}" if best else measured,
        " ".join(_list_verdicts(table)),
        " ".join(_list_limits(matrix, table, finished, planned)),
    )


def _describe_best(matrix: Matrix, table: Table) -> str:
    """The row with the best mean of the main metric; empty if values cannot be compared."""
    metric = METRICS[matrix.table.metrics[0]]
    protocols = [extract_protocol(run.spec) for run in matrix.runs]
    if metric.key in COUNTS or any(each != protocols[0] for each in protocols):
        return ""
    if any(note.text == DIFFERENT_SETS for note in table.footnotes):
        return ""
    cells = [(name, cell) for name, cell in _list_main_cells(table) if cell.value is not None]
    if len(cells) < 2:
        return ""
    sign = 1 if metric.higher_is_better else -1
    name, cell = max(cells, key=lambda item: sign * (item[1].value or 0.0))
    unit = " %" if metric.unit == "%" else ""
    spread = f" ± {cell.std_text}" if cell.std_text else ""
    order = "Highest" if metric.higher_is_better else "Lowest"
    what = f"mean {metric.title}" if cell.n > 1 else metric.title
    seeds = wording.format_seeds(cell.n)
    return f"{order} {what}: {cell.text}{spread}{unit}, {name} ({seeds})."


def _list_main_cells(table: Table) -> Iterator[tuple[str, Cell]]:
    """Row and group with the cell of the main metric, of all rows."""
    measured = [column for column in table.header if column.kind in ("measured", "parameters")]
    metric = measured[0].metric if measured else ""
    for row in table.rows:
        for column, cell in zip(table.header, row.cells, strict=True):
            is_main = column.kind in ("measured", "parameters") and column.metric == metric
            if is_main and cell.run_ids:
                yield ", ".join(part for part in (row.label, column.group) if part), cell


def _list_verdicts(table: Table) -> Iterator[str]:
    family = table.family
    if family is None:
        measured = any(cell.value is not None for _, cell in _list_main_cells(table))
        has_delta = any(column.kind == "delta" for column in table.header)
        if not measured:
            yield "No comparison is tested: no run has a record."
        elif not has_delta:
            yield "No comparison is tested: the table declares no baseline."
        else:
            yield "No comparison is tested: no row shares a finished seed with its baseline."
    else:
        yield summarise_family(family)
        same = sum(c.result.startswith(NO_DIFFERENCE) for c in family.comparisons)
        if same:
            yield (
                f"{'In' if same == family.tested else 'In the other'} {same} no difference was "
                "found, which does not show that there is none."
            )
        untested = [c for c in family.comparisons if c.adjusted_p is None]
        if untested and family.tested:
            names = _join_names([f"{c.ours} ({c.result})" for c in untested])
            yield f"Not tested: {names}."
    verdicts = Counter(
        cell.text
        for row in table.rows
        for cell in row.cells
        if cell.kind == "verdict" and cell.text
    )
    if verdicts:
        counted = ", ".join(f"{number} {text}" for text, number in verdicts.most_common())
        yield f"Against published values: {counted}."


def _list_limits(matrix: Matrix, table: Table | None, finished: int, planned: int) -> Iterator[str]:
    tuning = matrix.tuning
    if tuning is None:
        yield "Untuned: this matrix has no search, so each row has the settings of its file."
    elif inequality := describe_inequality(matrix):
        yield inequality
    elif tuning.choice is None:
        yield "The settings are not chosen yet, so nothing here compares the rows."
    else:
        yield "All rows were tuned with the same number of trials."
    if tuning is not None and tuning.is_oracle:
        yield "An oracle: settings are selected on images that the table reports."
    if matrix.changes:
        yield f"Made with overrides: {wording.clean_text(', '.join(matrix.changes))}."
    if table is None:
        return
    if finished < planned:
        yield f"{planned - finished} of {planned} runs have no record."
    cells = list(_list_main_cells(table))
    partial = [
        f"{name} ({cell.n} of {wording.format_seeds(cell.expected_n)})"
        for name, cell in cells
        if 0 < cell.n < cell.expected_n
    ]
    if partial:
        yield f"Seeds are missing: {_join_names(partial)}."
    numbers = {cell.n for _, cell in cells if cell.n and cell.kind == "measured"}
    if numbers and min(numbers) < MIN_SEEDS:
        yield f"With fewer than {MIN_SEEDS} seeds nothing is tested."
    tested = [len(c.seeds) for c in table.family.comparisons] if table.family else []
    tested = [number for number in tested if number >= MIN_SEEDS]
    if tested and smallest_p(min(tested)) > SIGNIFICANCE:
        yield (
            f"{wording.format_seeds(min(tested))}: the t test assumes normally distributed "
            "differences, which so few cannot check."
        )
    if table.provenance.dirty:
        yield f"{table.provenance.dirty} records were made with uncommitted changes."
    if any(note.text == DIFFERENT_SETS for note in table.footnotes):
        yield "The rows average different classes in mIoU."
    comparisons = table.family.comparisons if table.family is not None else ()
    for note, number in Counter(note for c in comparisons for note in c.notes).most_common():
        yield f"{number} of {len(comparisons)} comparisons: {note}"


def _join_names(names: Sequence[str]) -> str:
    more = len(names) - NAMED_ROWS
    return "; ".join(names[:NAMED_ROWS]) + (f"; and {more} more" if more > 0 else "")
