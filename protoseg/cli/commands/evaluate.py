"""``protoseg evaluate``: evaluates finished runs on another split of their data set."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import add_operands
from protoseg.cli.exit_status import OK
from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.evaluation import EVALUATIONS, check_origin, find_evaluation, write_evaluation
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg evaluate camvid_methods --split test"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "MATRIX | RUN | OVERRIDE",
        "matrices (all their runs), run ids, or unique parts of run ids",
    )
    parser.add_argument("--split", metavar="SPLIT", help="a split of the data set (required)")


def run(context: Context) -> int:
    """Evaluate runs that are not evaluated on this split yet; nothing is overwritten."""
    from protoseg.cli.run_lookup import is_single_run, load_matrices_and_runs
    from protoseg.training.evaluation.finished_run import evaluate_finished_run

    split = context.arguments.split
    if not split:
        raise UsageError("evaluate: no split is named. Add --split NAME, e.g. --split test.")
    if not context.arguments.operands:
        raise UsageError("evaluate: no matrix or run is named. Name one.")
    matrices = load_matrices_and_runs(context)
    wanted = [(run.run_id, matrix.choice_digest) for matrix in matrices for run in matrix.runs]
    folders = {run_id: RunFolder(context.paths.runs / run_id) for run_id, _ in wanted}
    for matrix in filter(is_single_run, matrices):
        _refuse_trial(matrix)
    _require_all(folders)
    results: list[dict[str, Any]] = []
    for run_id, choice in dict.fromkeys(wanted):
        existing = find_evaluation(context.evaluation_folders, run_id, split, choice)
        if existing is not None:
            path, evaluation = existing
            check_origin(evaluation, read_record(folders[run_id].record), path)
            results.append({"run_id": run_id, "new": False, **evaluation["metrics"]})
            continue
        with context.progress_bar(run_id) as bar:
            evaluation, counts = evaluate_finished_run(
                folders[run_id], split, context.paths.data, choice, bar.update
            )
        write_evaluation(evaluation, counts, context.paths.runs / EVALUATIONS)
        results.append({"run_id": run_id, "new": True, **evaluation["metrics"]})
        if not context.json:
            miou, images = evaluation["metrics"]["miou"], evaluation["metrics"]["images"]
            context.console.print(
                f"{run_id}  {split}: {images} images, mIoU {miou:.2f}", markup=False
            )
    if context.json:
        context.print_json({"split": split, "evaluations": results})
        return OK
    old = sum(not result["new"] for result in results)
    if old:
        context.console.print(f"Already evaluated on {split}: {old} of {len(results)} runs.")
    names = " ".join(matrix.name for matrix in matrices if len(matrix.runs) > 1)
    if names:
        context.console.print(f"To see the table: protoseg tables {names} --split {split}")
    return OK


def _require_all(folders: dict[str, RunFolder]) -> None:
    """Refuse to begin before all runs are trained, so that no result changes what is trained."""
    missing = [run_id for run_id, folder in folders.items() if not folder.record.is_file()]
    if missing:
        raise ProtosegError(
            f"{len(missing)} of {len(folders)} runs have no record, for example {missing[0]}. "
            "Train all of them first, so that no result on this split can change what is trained."
        )
    lost = [run_id for run_id, folder in folders.items() if not folder.checkpoint_iteration()]
    if lost:
        raise ProtosegError(
            f"{len(lost)} of {len(folders)} runs have no checkpoint, for example {lost[0]}. Train "
            "them again, for example with protoseg reproduce."
        )


def _refuse_trial(matrix: Matrix) -> None:
    """Refuse a single run that is a trial of a search: its results choose settings."""
    spec = matrix.runs[0].spec
    if spec.evaluation.holdout.is_set or spec.schedule.stop_after:
        raise UsageError(
            f"{matrix.name}: is evaluated on a holdout or ends early, as trials of a search are, "
            "so another split must not be seen with it. Name the matrix, whose final runs are "
            "evaluated after the choice."
        )
