"""Builds the content of a page of one matrix from its records and run folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.report import wording
from protoseg.report.figures.builder import FigureBuilder
from protoseg.report.level_metrics import with_levels
from protoseg.report.page.cell_details import detail_comparisons, detail_table, detail_trials
from protoseg.report.page.charts import RESULT_TYPES, TRIAL_TYPES, build_charts
from protoseg.report.page.examples import read_examples
from protoseg.report.page.missing import list_failures, list_missing
from protoseg.report.page.model import Chart, Page, PageTable, Search
from protoseg.report.page.origins import list_commands, list_origins, make_command
from protoseg.report.page.summary import summarise_table
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.model import Cell, Column, Footnote, Provenance, Row, Table
from protoseg.report.tuning.notes import describe_inequality, describe_search, list_choices
from protoseg.report.tuning.trial_table import build_trial_table
from protoseg.runs.store import CachedStore, RecordStore


def build_page(
    matrix: Matrix,
    store: RecordStore,
    published_folders: Sequence[Path],
    operand: str = "",
) -> Page:
    """Build the page of a matrix.

    A matrix without any record has a page too: it lists what is missing. Before the settings of a
    search are chosen, the page shows its trials only.

    Args:
        published_folders: folders of published numbers.
        operand: how the matrix is named on the command line, if not by its name.

    Raises:
        UsageError: as `build_table`.
        ProtosegError: as `build_table`.
    """
    store = CachedStore(with_levels(matrix, store))
    seeds = {run.run_id: run.spec.seed for run in _list_runs(matrix)}
    records = {i: record for i in seeds if (record := store.find(i).record) is not None}
    figures = FigureBuilder(matrix, store, published_folders)
    table = build_table(matrix, store, published_folders) if matrix.runs else None
    final = {run.run_id for run in matrix.runs}
    finished = sum(run_id in records for run_id in final)
    tried = {run.run_id for run in (matrix.tuning.list_trial_runs() if matrix.tuning else ())}
    trials = sum(run_id in records for run_id in tried), len(tried)
    is_measured = table is not None and finished > 0
    examples, unshown = read_examples(figures, store, final & records.keys())
    last = max((record["finished"] for record in records.values()), default="")
    return Page(
        matrix.name,
        wording.clean_text(matrix.title or matrix.name),
        wording.clean_text(matrix.table.caption),
        summarise_table(matrix, table, finished, len(final), trials),
        tuple(_list_tables(matrix, table, seeds, store)) if table is not None else (),
        tuple(build_charts(figures, RESULT_TYPES)) if is_measured else (),
        examples,
        _build_search(matrix, seeds, store, figures),
        list_origins(records.values()),
        list_commands(table, records) if table is not None else (),
        make_command("tables", matrix, operand),
        make_command("sweep", matrix, operand),
        list_missing(matrix, store),
        list_failures(matrix, store),
        tuple(map(wording.clean_text, [*store.warnings, *unshown])),
        len(final),
        finished,
        last[:10],
    )


def _list_runs(matrix: Matrix) -> Iterator[PlannedRun]:
    """The final runs, then all runs of the trials."""
    yield from matrix.runs
    for row in matrix.tuning.rows if matrix.tuning is not None else ():
        for trial in row.trials:
            yield from trial.runs


def _list_tables(
    matrix: Matrix, table: Table, seeds: dict[str, int], store: RecordStore
) -> Iterator[PageTable]:
    """The table, its comparisons, and the IoU of each class."""
    yield detail_table("main", matrix, table, store)
    comparisons = detail_comparisons("compared", table, seeds, store)
    if comparisons is not None:
        yield comparisons
    if table.per_class:
        yield PageTable("classes", make_class_table(table), {}, ())


def make_class_table(table: Table) -> Table:
    """Make the table of the IoU of each class, one column for each setting of another table."""
    settings: dict[str, dict[str, Cell]] = {}
    for result in table.per_class:
        name = ", ".join(part for part in (result.row, result.group) if part)
        cell = Cell("status", "")
        if result.mean is not None:
            spread = "" if result.std is None else wording.format_number(result.std, 1)
            text = wording.format_number(result.mean, 1)
            cell = Cell("measured", text, spread, value=result.mean, std=result.std, n=result.n)
        settings.setdefault(name, {})[result.name] = cell
    header = [Column("class", "Class", "label")]
    header += [Column(f"setting{i}", name, "measured", "miou") for i, name in enumerate(settings)]
    classes = dict.fromkeys(result.name for result in table.per_class)
    rows = [
        Row(
            name,
            (Cell("label", name), *(c.get(name, Cell("status", "")) for c in settings.values())),
        )
        for name in classes
    ]
    note = "IoU in percent; mean ± sample standard deviation over seeds."
    return Table(
        f"{table.name}_classes",
        f"{table.title}: IoU of each class",
        "",
        tuple(header),
        tuple(rows),
        (Footnote(note),),
        Provenance(),
    )


def _build_search(
    matrix: Matrix, seeds: dict[str, int], store: RecordStore, figures: FigureBuilder
) -> Search | None:
    if matrix.tuning is None:
        return None
    charts = build_charts(figures, TRIAL_TYPES)
    inequality = describe_inequality(matrix)
    notes: list[Any] = [inequality] if inequality else []
    metric = matrix.tuning.selection.metric
    store = with_levels(matrix, store, [metric])
    return Search(
        tuple(map(wording.clean_text, [*notes, *describe_search(matrix)])),
        tuple(map(wording.clean_text, list_choices(matrix))),
        detail_trials("trials", build_trial_table(matrix, store), seeds, metric, store),
        tuple(chart for chart in charts if isinstance(chart, Chart)),
    )
