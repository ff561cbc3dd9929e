"""``protoseg tables``: builds the tables of matrices from the records of their runs."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import (
    add_augmentation_options,
    add_operands,
    add_output_folder,
    add_record_options,
    choose_scales,
)
from protoseg.cli.outputs import choose_output_folder, display_path
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.record import publish
from protoseg.runs.results.evaluation import (
    EVALUATIONS,
    FILES,
    name_evaluation,
    name_variant,
    publish_evaluation,
)
from protoseg.runs.results.imported import FORMAT, IMPORTED

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.config.matrix import Matrix
    from protoseg.report.tables.model import Table
    from protoseg.runs.store import RecordStore

EXAMPLE = "protoseg tables quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "MATRIX | OVERRIDE | BENCHMARK.json",
        "matrices, and changes of their values; or saved benchmark results, for latency tables",
    )
    add_record_options(parser)
    add_output_folder(parser, "RESULTS/tables")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument(
        "--trials", action="store_true", help="list the trials of matrices with a search instead"
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="the best evaluation of each run on the way, an oracle; written as MATRIX_best",
    )
    parser.add_argument(
        "--split",
        metavar="SPLIT",
        help="a split on which the runs were evaluated (protoseg evaluate); written as "
        "MATRIX_on_SPLIT",
    )
    add_augmentation_options(parser)
    parser.add_argument(
        "--keep-records",
        action="store_true",
        help="also copy the records of these runs to RESULTS/records, to commit them; with a "
        "search, those of its trials and its choice too; with --split, the evaluations",
    )


def run(context: Context) -> int:
    """Build the table of each matrix, print it, and write it in all formats."""
    saved_runs = [operand for operand in context.operands if operand.endswith(".json")]
    if saved_runs:
        return _write_latency_tables(context, saved_runs)
    from protoseg.cli.views.table import render_table
    from protoseg.report.formats.files import split_parts, to_csv, to_markdown, write_table_files
    from protoseg.runs.store import RecordStore

    matrices, overrides = context.matrices()
    if context.arguments.trials:
        return _print_trials(context, matrices)
    base = Path(context.arguments.out or context.paths.results / "tables")
    folder = choose_output_folder(base, overrides)
    content: dict[str, list[dict[str, str]]] = {}
    comparisons: dict[str, dict[str, Any]] = {}
    written: dict[str, list[str]] = {}
    warnings: list[str] = []
    for matrix in matrices:
        warnings += _publish(context, matrix)
        store = RecordStore(context.record_folders, context.paths.runs)
        table = _choose_builder(context)(matrix, store, context.paths.published)
        written[matrix.name] = [display_path(path) for path in write_table_files(table, folder)]
        warnings += store.warnings
        if context.json:
            content[matrix.name] = list(csv.DictReader(io.StringIO(to_csv(table))))
            if table.family is not None:
                comparisons[matrix.name] = asdict(table.family)
        elif context.arguments.markdown:
            print("\n".join(map(to_markdown, split_parts(table))))
        else:
            for part in split_parts(table):
                context.console.print(render_table(part))
            context.console.print(f"written: {', '.join(written[matrix.name])}\n", markup=False)
    if context.json:
        context.print_json(
            {
                "tables": content,
                "comparisons": comparisons,
                "written": written,
                "warnings": warnings,
            }
        )
    return context.print_errors(list(dict.fromkeys(warnings)))


def _choose_builder(context: Context) -> Callable[[Matrix, RecordStore, Sequence[Path]], Table]:
    """The function that builds the tables of this call."""
    from protoseg.report.curves import build_best_table
    from protoseg.report.split_table import build_split_table
    from protoseg.report.tables.builder import build_table

    best, split = context.arguments.best, context.arguments.split
    if best and split:
        raise UsageError("tables: --best and --split exclude each other. Keep one of the two.")
    if split:
        folders, variant = context.evaluation_folders, _name_variant(context)
        return partial(build_split_table, split=split, folders=folders, variant=variant)
    if _name_variant(context):
        raise UsageError("tables: --tta shows evaluations of a split. Add --split NAME.")
    return build_best_table if best else build_table


def _name_variant(context: Context) -> str:
    """The part of the names of evaluations for ``--tta``; empty without it."""
    scales = choose_scales(context.arguments)
    return name_variant(prediction={"scales": scales, "flip": True}) if scales else ""


def _print_trials(context: Context, matrices: list[Matrix]) -> int:
    """Print the trials of each matrix with a search; no table is written."""
    from protoseg.cli.views.table import render_table
    from protoseg.report.formats.files import to_markdown
    from protoseg.report.tuning.trial_table import build_trial_table
    from protoseg.runs.store import RecordStore

    tuned = [matrix for matrix in matrices if matrix.tuning is not None]
    if not tuned:
        names = ", ".join(matrix.name for matrix in matrices)
        raise UsageError(f"tables --trials: no search in {names}. Name a matrix with a block tune.")
    useless = [name for name in ("best", "split", "tta", "out") if getattr(context.arguments, name)]
    if useless:
        raise UsageError(f"tables --trials: --{useless[0]} has no effect with it. Remove it.")
    warnings = [problem for matrix in tuned for problem in _publish(context, matrix)]
    store = RecordStore(context.record_folders, context.paths.runs)
    tables = {matrix.name: build_trial_table(matrix, store) for matrix in tuned}
    if context.json:
        content = {name: table_to_dicts(table) for name, table in tables.items()}
        context.print_json({"trials": content, "warnings": [*warnings, *store.warnings]})
    for table in tables.values() if not context.json else ():
        if context.arguments.markdown:
            print(to_markdown(table))
        else:
            context.console.print(render_table(table))
    return context.print_errors([*warnings, *store.warnings])


def table_to_dicts(table: Table) -> list[dict[str, Any]]:
    """The rows of a table as plain data: column key -> text, or the unrounded value."""
    return [
        {
            column.key: cell.text if cell.value is None else cell.value
            for column, cell in zip(table.header, row.cells, strict=True)
        }
        for row in table.rows
    ]


def _write_latency_tables(context: Context, saved_runs: list[str]) -> int:
    """Write the latency tables of saved benchmark runs, beside them or to ``--out``."""
    from protoseg.report.tables.benchmarks import read_benchmark_run, write_latency_files

    others = [operand for operand in context.operands if operand not in saved_runs]
    if others:
        raise UsageError(
            f"tables: {', '.join(others)} cannot be combined with a saved benchmark run. "
            "Use two calls."
        )
    content: dict[str, Any] = {}
    written: dict[str, list[str]] = {}
    for path in map(Path, saved_runs):
        saved = read_benchmark_run(path)
        markdown, files = write_latency_files(
            path, saved, Path(context.arguments.out or path.parent)
        )
        content[path.stem] = saved["cases"]
        written[path.stem] = [display_path(file) for file in files]
        if not context.json:
            print(markdown)
        if not context.json and not context.arguments.markdown:
            context.console.print(f"written: {', '.join(written[path.stem])}\n", markup=False)
    if context.json:
        context.print_json({"tables": content, "written": written, "warnings": []})
    return context.print_errors([])


def _publish(context: Context, matrix: Matrix) -> list[str]:
    """Copy all records of a matrix to the committed ones if this is asked; return problems."""
    if not context.arguments.keep_records:
        return []
    from protoseg.cli.stages import list_stages, publish_choice

    runs = [planned.run_id for stage in list_stages([matrix]) for planned in stage.runs]
    return [
        *_publish_records(context, list(dict.fromkeys(runs))),
        *publish_choice(context, matrix),
        *_publish_evaluations(context, matrix),
        *_publish_imported(context, matrix),
    ]


def _publish_records(context: Context, run_ids: list[str]) -> list[str]:
    """Copy records to the committed ones; return the messages of those that are damaged."""
    problems = []
    for run_id in run_ids:
        folder = context.paths.runs / run_id
        if (folder / "record.json").exists():
            try:
                publish(folder, context.paths.records)
            except ProtosegError as error:
                problems.append(str(error))
    return problems


def _publish_imported(context: Context, matrix: Matrix) -> list[str]:
    """Copy the evaluations of a table's imported rows to the committed ones."""
    problems, runs = [], context.paths.runs
    for row in matrix.table.imported:
        for name, files in ((IMPORTED, FORMAT), (EVALUATIONS, FILES)):
            path = runs / name / f"{row.evaluation}.json"
            try:
                if path.exists():
                    if name == EVALUATIONS:  # of a run, perhaps of another matrix
                        run_id = FILES.read_evaluation(path)["run_id"]
                        problems += _publish_records(context, [run_id])
                    files.publish_evaluation(path, context.paths.results / name)
            except ProtosegError as error:
                problems.append(str(error))
    return problems


def _publish_evaluations(context: Context, matrix: Matrix) -> list[str]:
    """Copy the evaluations of a matrix's runs, if a split is named; return the problems."""
    split, problems = context.arguments.split, []
    for run in matrix.runs if split else ():
        name = name_evaluation(
            run.run_id, split, matrix.choice_digest, variant=_name_variant(context)
        )
        path = context.paths.runs / EVALUATIONS / f"{name}.json"
        try:
            if path.exists():
                publish_evaluation(path, context.paths.results / EVALUATIONS)
        except ProtosegError as error:
            problems.append(str(error))
    return problems
