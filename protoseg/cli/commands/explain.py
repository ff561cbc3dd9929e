"""``protoseg explain``: shows the runs, seeds and commits behind a table cell, or one run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_operands, add_record_options
from protoseg.errors import UsageError, join_names

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg explain quickstart 'ProtoSeg, K = 4' miou"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "MATRIX ROW [COLUMN] [OVERRIDE] | RUN [METRIC]",
        "a matrix, the label of a row or its number from 1, a column, e.g. miou or delta "
        "(default: the first), and changes of the matrix; or a run id or a part of it",
    )
    add_record_options(parser)


def run(context: Context) -> int:
    """Show the runs behind a cell."""
    from protoseg.cli.arguments import is_override
    from protoseg.cli.run_lookup import (
        is_single_run,
        load_matrices_and_runs,
        split_row_overrides,
    )
    from protoseg.cli.views.explanation import render_explanation
    from protoseg.report.explanation import explain_cell
    from protoseg.report.tables.builder import build_table
    from protoseg.runs.store import RecordStore

    name, *others = context.arguments.operands or [""]
    overrides, cell = split_row_overrides(others)
    if not name or is_override(name) or len(cell) > 2:
        raise UsageError(
            "explain: name a matrix, a row and a column, or one run, e.g. "
            "protoseg explain quickstart 'ProtoSeg, K = 4' miou."
        )
    context.arguments.operands = [name, *overrides]
    matrices = load_matrices_and_runs(context)
    if len(matrices) != 1:
        names = ", ".join(matrix.name for matrix in matrices)
        raise UsageError(f"explain: {name} has several tables. Name one of them: {names}.")
    matrix = matrices[0]
    store = RecordStore(context.record_folders, context.paths.runs)
    table = build_table(matrix, store, context.paths.published)
    if is_single_run(matrix):
        cell = ["#1", *cell]
    if not cell:
        rows = join_names(row.label for row in table.rows)
        raise UsageError(f"explain: name a row of {matrix.name}. Rows: {rows}.")
    explanation = explain_cell(matrix, table, cell[0], [*cell, "#1"][1], store)
    if context.json:
        context.print_json(explanation.to_dict())
    else:
        context.console.print(render_explanation(explanation))
    return context.print_errors(store.warnings)
