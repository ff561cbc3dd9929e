"""``protoseg compare``: compares two runs, or two rows of a matrix."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import add_operands, add_record_options, count, positive
from protoseg.errors import ProtosegError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from protoseg.cli.context import Context
    from protoseg.config.matrix import ImageGroupsSpec
    from protoseg.runs.store import RecordStore

EXAMPLE = "protoseg compare quickstart 'ProtoSeg, K = 1' 'ProtoSeg, K = 4'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "RUN RUN | MATRIX ROW ROW [COLUMN] [OVERRIDE]",
        "two runs; or a matrix, two of its rows, each a label or a number from 1, and changes of "
        "the matrix",
    )
    add_record_options(parser)
    group = parser.add_argument_group("what is compared")
    group.add_argument(
        "--by",
        action="append",
        choices=("seeds", "images", "groups"),
        metavar="UNIT",
        help="unit of the interval: seeds, images or groups of images; may be repeated "
        "(default: all)",
    )
    group.add_argument(
        "--classes",
        choices=("as-mmseg", "present"),
        metavar="SET",
        help="classes that mIoU averages: as-mmseg, those with ground truth or predictions; or "
        "present, those with ground truth (default: present if the runs average different "
        "classes)",
    )
    group.add_argument(
        "--block",
        type=positive,
        metavar="N",
        help="group N consecutive images, for frames of a video (default: table.image_groups of "
        "the matrix)",
    )
    group.add_argument(
        "--pattern",
        metavar="REGEX",
        help="group images by what the first parenthesis of REGEX matches in the file name; "
        "needs the data set in --data",
    )
    group = parser.add_argument_group("bootstrap of the intervals over images and groups")
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
    from protoseg.report.comparison import UNITS, Options, compare_runs, find_runs
    from protoseg.runs.store import RecordStore

    arguments = context.arguments
    store = RecordStore(context.record_folders, context.paths.runs)
    named, groups, column = _find_sides(context, store)
    sides = [(name, *find_runs(run_ids, store)) for name, run_ids in named]
    comparison = compare_runs(
        sides[0][:2],
        sides[1][:2],
        Options(
            draws=arguments.draws,
            generator_seed=arguments.generator_seed,
            units=tuple(arguments.by or UNITS),
            classes=arguments.classes,
            groups=_choose_groups(arguments, groups),
            column=column,
            list_names=functools.partial(_list_names, context.paths.data),
        ),
        missing=[message for _, _, missing in sides for message in missing],
    )
    if context.json:
        context.print_json(comparison.to_dict())
    else:
        context.console.print(render_comparison(comparison))
    return context.print_errors(store.warnings)


def _choose_groups(
    arguments: argparse.Namespace, declared: ImageGroupsSpec | None
) -> ImageGroupsSpec | None:
    """The groups of the options, else those of the matrix."""
    from protoseg.config.matrix import ImageGroupsSpec

    if arguments.block and arguments.pattern:
        raise UsageError("compare: --block and --pattern exclude each other; give one.")
    if arguments.block or arguments.pattern:
        return ImageGroupsSpec(arguments.block or 0, arguments.pattern or "")
    if declared is None and "groups" in (arguments.by or ()):
        raise UsageError(
            "compare: --by groups needs groups. Give --block or --pattern, or set "
            "table.image_groups in the matrix."
        )
    return declared


def _list_names(folder: Path, record: dict[str, Any], images: int) -> list[str]:
    """List the file names of the evaluated images of a record, in the order of its counts."""
    from protoseg.config.identity import read_spec
    from protoseg.datasets.layout import find_pairs, find_root

    spec = read_spec(record["spec"], record["run_id"])
    split = spec.evaluation.split
    where = f"compare: --pattern needs the file names of {spec.dataset.name} {split}"
    root = find_root(spec.dataset, folder)
    if not root.is_dir():
        raise ProtosegError(
            f"{where}, but the data set is not in {folder}. Name its folder with --data, or use "
            "--block."
        )
    pairs = find_pairs(root, spec.dataset, split)
    if len(pairs) != images:
        raise ProtosegError(
            f"{where}. The data folder has {len(pairs)} images of this split, but the record "
            f"counts {images}. Use the data of the record."
        )
    return [pair.image.name for pair in pairs]


def _find_sides(
    context: Context, store: RecordStore
) -> tuple[list[tuple[str, tuple[str, ...]]], ImageGroupsSpec | None, str]:
    """Find name and run ids of both sides, the groups of images of the matrix, and the metric."""
    from protoseg.cli.run_lookup import (
        find_run,
        split_row_overrides,
        started_or_recorded_runs,
    )
    from protoseg.report.explanation import find_column, find_row
    from protoseg.report.tables.builder import build_table

    overrides, operands = split_row_overrides(context.arguments.operands)
    if overrides and len(operands) == 2:
        raise UsageError(
            f"compare: '{overrides[0]}' changes a matrix, but two runs are named. Remove it, or "
            "name a matrix and two rows."
        )
    if len(operands) == 2:
        known_runs = started_or_recorded_runs(context)
        where = " and ".join(map(str, [*context.record_folders, context.paths.runs]))
        run_ids = [find_run(operand, known_runs, where) for operand in operands]
        return [(run_id, (run_id,)) for run_id in run_ids], None, ""
    if not 2 <= len(operands) <= 4:
        raise UsageError(
            "compare: name two runs, or a matrix and two of its rows. Add a column if the table "
            "has several mIoU columns."
        )
    matrix = context.load_matrix(operands[0], overrides)
    table = build_table(matrix, store, context.paths.published)
    column = find_column(table, operands[3] if len(operands) == 4 else "#1")
    rows = [find_row(table, operand) for operand in operands[1:3]]
    for row in rows:
        if not any(cell.run_ids for cell in row.cells):
            imported = [each.label for each in matrix.table.imported]
            is_imported = row.label in imported
            origin = "has imported weights" if is_imported else "is quoted from the literature"
            raise UsageError(
                f"compare: '{row.label}' {origin} and has no runs. Name a row with runs."
            )
    group = table.header[column].group
    names = [f"{row.label}, {group}" if group else row.label for row in rows]
    sides = [(name, row.cells[column].run_ids) for name, row in zip(names, rows, strict=True)]
    return sides, matrix.table.image_groups, table.header[column].metric
