"""Collects the runs behind the cells of the tables of a page, as `protoseg explain` shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protoseg.config.matrix import Matrix
from protoseg.report import wording
from protoseg.report.explanation import Explanation, RunLine, explain_cell_at, read_run_line
from protoseg.report.metrics import METRICS
from protoseg.report.page.model import CellDetail, PageTable, RowDetails
from protoseg.report.tables.comparison_table import make_comparison_table
from protoseg.report.tables.model import Table, TableComparison
from protoseg.runs.store import RecordStore

DELTA = "delta"


def detail_table(key: str, matrix: Matrix, table: Table, store: RecordStore) -> PageTable:
    """Add the runs behind each cell to the table of a matrix.

    Args:
        key: identifies the table in the page.
    """
    anchors: dict[tuple[int, int], str] = {}
    rows = []
    for r, row in enumerate(table.rows):
        cells = []
        for c, (column, cell) in enumerate(zip(table.header, row.cells, strict=True)):
            # Of the baseline, Δ is "–": nothing is subtracted.
            if column.kind == "label" or not cell.run_ids or cell.plain in ("", wording.NONE):
                continue
            explanation = explain_cell_at(matrix, table, r, c, store)
            anchors[r, c] = _name_anchor(key, r, c)
            unit = (
                f" {explanation.shown_unit}" if explanation.unit and cell.value is not None else ""
            )
            cells.append(
                CellDetail(
                    anchors[r, c],
                    f"{row.label}: {column.plain}",
                    f"{cell.plain}{unit}",
                    METRICS[column.metric].title,
                    explanation.runs,
                    tuple(_list_facts(explanation)),
                )
            )
        rows += [RowDetails(row.label, tuple(cells))] * bool(cells)
    return PageTable(key, table, anchors, tuple(rows))


def detail_comparisons(
    key: str, table: Table, seeds: Mapping[str, int], store: RecordStore
) -> PageTable | None:
    """The table of the tested comparisons with the runs of both sides; None without comparisons.

    Args:
        key: identifies the table in the page.
        table: the table that tests them.
        seeds: run id -> seed.
    """
    family = table.family
    if family is None:
        return None
    compared = make_comparison_table(table, family)
    column = compared.column(DELTA)
    anchors, rows = {}, []
    for r, (row, comparison) in enumerate(zip(compared.rows, family.comparisons, strict=True)):
        anchors[r, column] = _name_anchor(key, r, column)
        detail = CellDetail(
            anchors[r, column],
            f"{row.label}: Δ",
            row.cells[column].plain,
            METRICS[comparison.metric].title,
            tuple(_read_sides(comparison, seeds, store)),
            (f"Result: {comparison.result}.", *comparison.notes),
        )
        rows.append(RowDetails(row.label, (detail,)))
    return PageTable(key, compared, anchors, tuple(rows))


def detail_trials(
    key: str, table: Table, seeds: Mapping[str, int], metric: str, store: RecordStore
) -> PageTable:
    """Add the run behind each result to the table of the trials of a search.

    Args:
        key: identifies the table in the page.
        table: the table of trials.
        seeds: run id -> seed.
        metric: the metric that selects, a key of `METRICS`.
    """
    column = table.column(metric)
    anchors, rows = {}, []
    for r, row in enumerate(table.rows):
        cell = row.cells[column]
        lines = [read_run_line(i, seeds[i], metric, False, store) for i in cell.run_ids]
        anchors[r, column] = _name_anchor(key, r, column)
        shown = f"{cell.plain} {METRICS[metric].unit}" if cell.value is not None else cell.plain
        name = METRICS[metric].title
        detail = CellDetail(
            anchors[r, column],
            f"{row.label}: {name}",
            shown,
            name,
            tuple(lines),
            (),
        )
        rows.append(RowDetails(row.label, (detail,)))
    return PageTable(key, table, anchors, tuple(rows))


def _name_anchor(key: str, row: int, column: int) -> str:
    return f"{key}-{row + 1}-{column + 1}"


def _read_sides(
    comparison: TableComparison, seeds: Mapping[str, int], store: RecordStore
) -> Iterator[RunLine]:
    for run_ids, is_baseline in ((comparison.our_runs, False), (comparison.their_runs, True)):
        for run_id in run_ids:
            yield read_run_line(run_id, seeds[run_id], comparison.metric, is_baseline, store)


def _list_facts(explanation: Explanation) -> Iterator[str]:
    """Sentences on the differences and the test of a cell, then its notes."""
    if explanation.pairs:
        listed = "; ".join(f"seed {p.seed}: {p.difference:+.4f}" for p in explanation.pairs)
        yield f"Differences: {listed.replace('-', wording.MINUS)}."
    if explanation.interval is not None:
        low, high = (wording.format_number(end, 4) for end in explanation.interval)
        yield f"95% t interval of the mean over seeds: {low} to {high}."
        yield (
            f"p of the paired t test: {wording.format_p(explanation.p)}, not corrected for other "
            "comparisons."
        )
    if explanation.detectable is not None:
        yield f"Detectable with 80% probability: a true difference of {explanation.detectable:.2f}."
    yield from explanation.notes
