"""``protoseg compare``: compares two runs, or two rows of a matrix."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_operands, add_record_options, count, positive
from protoseg.errors import UsageError

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.runs.store import RecordStore

EXAMPLE = "protoseg compare quickstart 'ProtoSeg, K = 1' 'ProtoSeg, K = 4'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "RUN RUN | MATRIX ROW ROW [COLUMN]",
        "two runs; or a matrix and two of its rows, each a label or a number from 1",
    )
    add_record_options(parser)
    group = parser.add_argument_group("bootstrap of the confidence intervals")
    group.add_argument(
        "--draws",
        type=positive,
        default=10_000,
        metavar="N",
        help="number of bootstrap samples (default: 10,000)",
    )
    group.add_argument(
        "--generator-seed",
        type=count,
        default=0,
        metavar="N",
        help="seed of the random generator (default: 0)",
    )


def run(context: Context) -> int:
    """Compare the two sides."""
    from protoseg.cli.views.comparison import render_comparison
    from protoseg.report.comparison import compare_runs, find_runs
    from protoseg.runs.store import RecordStore

    store = RecordStore(context.record_folders, context.paths.runs)
    sides = [(name, *find_runs(run_ids, store)) for name, run_ids in _find_sides(context, store)]
    comparison = compare_runs(
        sides[0][:2],
        sides[1][:2],
        draws=context.arguments.draws,
        generator_seed=context.arguments.generator_seed,
        missing=[message for _, _, missing in sides for message in missing],
    )
    if context.json:
        context.print_json(comparison.to_dict())
    else:
        context.console.print(render_comparison(comparison))
    return context.print_errors(store.warnings)


def _find_sides(context: Context, store: RecordStore) -> list[tuple[str, tuple[str, ...]]]:
    """Name and run ids of both sides."""
    from protoseg.cli.run_lookup import find_run, started_or_recorded_runs
    from protoseg.report.explanation import find_column, find_row
    from protoseg.report.tables.builder import build_table

    operands = context.arguments.operands
    if len(operands) == 2:
        known_runs = started_or_recorded_runs(context)
        where = " and ".join(map(str, [*context.record_folders, context.paths.runs]))
        run_ids = [find_run(operand, known_runs, where) for operand in operands]
        return [(run_id, (run_id,)) for run_id in run_ids]
    if not 2 <= len(operands) <= 4:
        raise UsageError(
            "compare: name two runs, or a matrix and two of its rows. Add a column if the table "
            "has several mIoU columns."
        )
    matrix = context.load_matrix(operands[0])
    table = build_table(matrix, store, context.paths.published)
    column = find_column(table, operands[3] if len(operands) == 4 else "#1")
    rows = [find_row(table, operand) for operand in operands[1:3]]
    for row in rows:
        if not any(cell.run_ids for cell in row.cells):
            raise UsageError(
                f"compare: '{row.label}' is quoted from the literature and has no runs. "
                "Name a row with runs."
            )
    group = table.header[column].group
    names = [f"{row.label}, {group}" if group else row.label for row in rows]
    return [(name, row.cells[column].run_ids) for name, row in zip(names, rows, strict=True)]
