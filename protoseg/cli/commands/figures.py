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
    count,
    positive,
)
from protoseg.cli.exit_status import FAILED
from protoseg.cli.outputs import choose_output_folder, display_path
from protoseg.errors import ProtosegError, UsageError

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.report.figures.builder import FigureBuilder
    from protoseg.report.figures.contents import Figure
    from protoseg.report.figures.samples.pictures import PictureSource
    from protoseg.report.figures.samples.plots import SampleOptions

EXAMPLE = "protoseg figures quickstart --kind metric --kind loss"

SAMPLE_FIGURES = ("examples", "prototypes", "disagreement", "embeddings", "confusion")
"""Types with options of rows, classes and images; all but the last need samples of runs."""
RARE_TYPES = ("budget", *SAMPLE_FIGURES, *TRIAL_FIGURES)
"""Types that few matrices can have: those with several budgets, samples, or a search."""


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
    group = parser.add_argument_group(
        f"options of the types {', '.join(SAMPLE_FIGURES)} (protoseg samples makes their data)"
    )
    group.add_argument(
        "--choose",
        choices=("random", "worst", "best", "disagreement"),
        default="",
        help="rule that chooses images: random, lowest or highest mIoU, or where most pixels are "
        "predicted differently (default: random; for disagreement: disagreement)",
    )
    group.add_argument(
        "--images", type=positive, default=0, metavar="N", help="number of images (default: 3)"
    )
    group.add_argument(
        "--row", action="append", default=[], help="a row, by its label; repeat it for several"
    )
    group.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="NAME",
        help="a class, for prototypes and embeddings; repeat it (default: the most frequent ones)",
    )
    group.add_argument(
        "--projection",
        choices=("tsne", "umap"),
        default="tsne",
        help="of embeddings to two dimensions (default: tsne)",
    )
    group.add_argument(
        "--seed", type=count, default=0, help="of the random choice and the projection (default: 0)"
    )


def run(context: Context) -> int:
    """Draw the figures of each matrix that has records, and write them in all formats."""
    from protoseg.report.figures.builder import FigureBuilder
    from protoseg.report.figures.save import write_figure_files
    from protoseg.runs.store import RecordStore

    options = _read_options(context)
    are_matrices_named = bool(context.operands)
    matrices, overrides = context.matrices()
    base = Path(context.arguments.out or context.paths.results / "figures")
    folder = choose_output_folder(base, overrides)
    source = _find_pictures(context)
    content: dict[str, dict[str, Any]] = {}
    written: dict[str, list[str]] = {}
    warnings: list[str] = []
    without_records: list[str] = []
    for matrix in matrices:
        store = RecordStore(context.record_folders, context.paths.runs)
        try:
            builder = FigureBuilder(matrix, store, context.paths.published)
            types = context.arguments.kind or builder.list_default_types()
            figures = list(_build_figures(builder, types, options, are_matrices_named))
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
            try:
                paths = write_figure_files(figure, folder, source)
            except ProtosegError as error:
                if len(matrices) == 1 and len(figures) == 1:
                    raise
                warnings.append(str(error))
                continue
            files = [display_path(path) for path in paths]
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


def _find_pictures(context: Context) -> PictureSource | None:
    """Where the pictures of the call are read from; None if no type shows pictures."""
    if not set(context.arguments.kind or ()) & set(SAMPLE_FIGURES):
        return None
    from protoseg.datasets.readers.photographs import read_photograph
    from protoseg.report.figures.samples.pictures import PictureSource

    return PictureSource(context.paths.data, read_photograph)


def _read_options(context: Context) -> SampleOptions:
    """The options of the call; refused if no type of figure uses them."""
    from protoseg.report.figures.samples.plots import SampleOptions

    arguments = context.arguments
    options = SampleOptions(
        arguments.choose,
        arguments.seed,
        arguments.images,
        tuple(arguments.row),
        tuple(arguments.classes),
        arguments.projection,
    )
    if options != SampleOptions() and not set(arguments.kind or ()) & set(SAMPLE_FIGURES):
        option = options.list_arguments().split()[0]
        raise UsageError(
            f"figures: {option} has no effect without --kind of one of these types: "
            f"{', '.join(SAMPLE_FIGURES)}. Add one, or remove the option."
        )
    return options


def _build_figures(
    builder: FigureBuilder, types: Iterable[str], options: SampleOptions, is_named: bool
) -> Iterator[Figure]:
    """Build the figures of a matrix; one that few matrices can have is an error only if named."""
    for name in dict.fromkeys(types):
        try:
            yield builder.build(name, options)
        except UsageError:
            if is_named or name not in RARE_TYPES:
                raise
