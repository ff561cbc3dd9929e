"""``protoseg explain``: shows the runs, seeds and commits behind a table cell."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_record_options
from protoseg.errors import UsageError

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg explain quickstart 'ProtoSeg, K = 4' miou"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("operands", nargs=1, metavar="TABLE", help="the matrix of the table")
    parser.add_argument("row", metavar="ROW", help="label of the row, or its number from 1")
    parser.add_argument(
        "column",
        metavar="COLUMN",
        nargs="?",
        default="#1",
        help="the column, e.g. miou or delta (default: the first)",
    )
    add_record_options(parser)


def run(context: Context) -> int:
    """Show the runs behind a cell."""
    from protoseg.cli.views.explanation import render_explanation
    from protoseg.config.load_matrix import list_matrices
    from protoseg.report.explanation import explain_cell
    from protoseg.report.tables.builder import build_table
    from protoseg.runs.store import RecordStore

    matrices, _ = context.matrices()
    if len(matrices) != 1 or not context.arguments.operands:
        names = ", ".join(list_matrices(context.paths.experiments))
        raise UsageError(
            "explain: name one table, e.g. protoseg explain camvid_methods "
            f"'ProtoSeg (paper), K = 10' miou. Tables: {names}."
        )
    store = RecordStore(context.record_folders, context.paths.runs)
    table = build_table(matrices[0], store, context.paths.published)
    arguments = context.arguments
    explanation = explain_cell(matrices[0], table, arguments.row, arguments.column, store)
    if context.json:
        context.print_json(explanation.to_dict())
    else:
        context.console.print(render_explanation(explanation))
    return context.print_errors(store.warnings)
