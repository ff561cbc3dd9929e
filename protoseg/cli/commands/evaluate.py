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
    from protoseg.cli.run_lookup import load_matrices_and_runs
    from protoseg.training.evaluation.finished_run import evaluate_finished_run

    split = context.arguments.split
    if not split:
        raise UsageError("evaluate: no split is named. Add --split NAME, e.g. --split test.")
    if not context.arguments.operands:
        raise UsageError("evaluate: no matrix or run is named. Name one.")
    matrices = load_matrices_and_runs(context)
    choices = {run.run_id: _read_choice(matrix) for matrix in matrices for run in matrix.runs}
    folders = {run_id: RunFolder(context.paths.runs / run_id) for run_id in choices}
    _require_all(folders)
    results: list[dict[str, Any]] = []
    for run_id, choice in choices.items():
        existing = find_evaluation(context.evaluation_folders, run_id, split)
        if existing is not None:
            path, evaluation = existing
            check_origin(evaluation, folders[run_id].status().record or {}, path)
            _check_choice(evaluation, choice, path.name)
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


def _read_choice(matrix: Matrix) -> str:
    """The digest of the choice of a matrix with a search; empty without one."""
    choice = matrix.tuning.choice if matrix.tuning is not None else None
    return "" if choice is None else str(choice["digest"])


def _require_all(folders: dict[str, RunFolder]) -> None:
    """Refuse to begin before all runs are trained, so that no result changes what is trained."""
    missing = [run_id for run_id, folder in folders.items() if not folder.record.is_file()]
    if missing:
        raise ProtosegError(
            f"{len(missing)} of {len(folders)} runs have no record, for example {missing[0]}. "
            "Train all of them first, so that no result on this split can change what is trained."
        )


def _check_choice(evaluation: dict[str, Any], choice: str, name: str) -> None:
    if choice and evaluation["choice"] != choice:
        raise ProtosegError(
            f"{name}: was evaluated for another choice of settings (digest "
            f"{evaluation['choice'][:10] or 'none'}, now {choice[:10]}). Move it away and "
            "evaluate again, or restore the choice."
        )
