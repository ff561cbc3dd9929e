"""``protoseg figures``: draws the figures of matrices from the records of their runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import (
    TRIAL_FIGURES,
    add_matrix_operands,
    add_output_folder,
    add_record_options,
)
from protoseg.cli.exit_status import FAILED
from protoseg.cli.outputs import choose_output_folder, display_path
from protoseg.errors import ProtosegError, UsageError

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.report.figures.builder import FigureBuilder
    from protoseg.report.figures.contents import Figure

EXAMPLE = "protoseg figures quickstart --kind metric --kind loss"

RARE_TYPES = ("budget", *TRIAL_FIGURES)
"""Types that few matrices can have: those with several budgets, or with a search."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_matrix_operands(parser)
    add_record_options(parser)
    add_output_folder(parser, "RESULTS/figures")
    parser.add_argument(
        "--kind",
        action="append",
        choices=("metric", "loss", "curves", "classes", *RARE_TYPES),
        help="type of figure (default: metric, and those of curves, budget, trials and "
        "tuning_curves that the records have); repeat the option for several types",
    )


def run(context: Context) -> int:
    """Draw the figures of each matrix that has records, and write them in all formats."""
    from protoseg.report.figures.builder import FigureBuilder
    from protoseg.report.figures.save import write_figure_files
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
            builder = FigureBuilder(matrix, store, context.paths.published)
            types = context.arguments.kind or builder.list_default_types()
            figures = list(_build_figures(builder, types, are_matrices_named))
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


def _build_figures(
    builder: FigureBuilder, types: Iterable[str], is_named: bool
) -> Iterator[Figure]:
    """Build the figures of a matrix; one that few matrices can have is an error only if named."""
    for name in dict.fromkeys(types):
        try:
            yield builder.build(name)
        except UsageError:
            if is_named or name not in RARE_TYPES:
                raise
