"""``protoseg figures``: draws the figures of matrices from the records of their runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import add_matrix_operands, add_output_folder, add_record_options
from protoseg.cli.exit_status import FAILED
from protoseg.cli.outputs import choose_output_folder, display_path
from protoseg.errors import ProtosegError

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg figures quickstart --kind metric --kind loss"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_matrix_operands(parser)
    add_record_options(parser)
    add_output_folder(parser, "RESULTS/figures")
    parser.add_argument(
        "--kind",
        action="append",
        choices=("metric", "loss", "curves", "classes"),
        help="type of figure (default: metric, and curves if a record has metrics on the way); "
        "repeat the option for several types",
    )


def run(context: Context) -> int:
    """Draw the figures of each matrix that has records, and write them in all formats."""
    from protoseg.report.figures.data import read_figure_input
    from protoseg.report.figures.save import write_figure_files
    from protoseg.report.figures.types import build_figure, has_curves
    from protoseg.runs.store import RecordStore

    are_matrices_named = bool(context.operands)
    matrices, overrides = context.matrices()
    base = Path(context.arguments.out or context.paths.results / "figures")
    folder = choose_output_folder(base, overrides)
    content: dict[str, dict[str, Any]] = {}
    written: dict[str, list[str]] = {}
    warnings: list[str] = []
    without_records: list[str] = []
    for matrix in matrices:
        store = RecordStore(context.record_folders, context.paths.runs)
        try:
            figure_input = read_figure_input(matrix, store, context.paths.published)
            types = context.arguments.kind
            if types is None:
                types = ["metric", "curves"] if has_curves(figure_input) else ["metric"]
            figures = [build_figure(figure_input, name) for name in dict.fromkeys(types)]
        except ProtosegError as error:
            # A matrix without records is an error only if the user named it.
            if not are_matrices_named and error.exit_code == FAILED:
                without_records.append(matrix.name)
                continue
            if len(matrices) == 1 and not store.warnings:
                raise
            warnings.append(str(error))
            continue
        finally:
            warnings += store.warnings
        for figure in figures:
            files = [display_path(path) for path in write_figure_files(figure, folder)]
            content.setdefault(matrix.name, {})[figure.kind] = figure.to_dict()
            written.setdefault(matrix.name, []).extend(files)
            if not context.json:
                context.console.print(f"{figure.title} ({figure.kind})", markup=False)
                context.console.print("  " + " ".join(figure.notes), markup=False)
                context.console.print(f"written: {', '.join(files)}\n", markup=False)
    if context.json:
        context.print_json({"figures": content, "written": written, "warnings": warnings})
    elif without_records:
        context.console.print(f"without records: {', '.join(without_records)}", markup=False)
    return context.print_errors(list(dict.fromkeys(warnings)))
