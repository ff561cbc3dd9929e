"""The runs and checkpoints that ``protoseg evaluate`` evaluates; refused before the first image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import split_overrides
from protoseg.config.identity import run_id as make_run_id
from protoseg.config.matrix import Matrix
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.runs.store import RecordStore

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.inference.saved_run import SavedRun

CHECKPOINT = ".pth"


@dataclass(frozen=True)
class EvaluationTarget:
    """A run, or one of its checkpoints, and the data set on which it is evaluated."""

    run_id: str
    spec: RunSpec
    folder: Path
    """The run folder."""
    checkpoint: SavedRun | None = None
    """The named checkpoint; None for the last one, whose metrics are in the record."""
    choice: str = ""
    """Digest of the choice of the run's settings."""
    dataset: DatasetSpec | None = None
    """Another data set than that of the run."""

    @property
    def label(self) -> str:
        """The name in messages."""
        return f"{self.run_id} {self.checkpoint.path.stem}" if self.checkpoint else self.run_id

    def read_record(self) -> dict[str, Any] | None:
        """The record of the run; None if it has not finished."""
        if self.checkpoint is not None:
            return self.checkpoint.record
        return read_record(RunFolder(self.folder).record)

    def find_checkpoint(self) -> SavedRun:
        """Find the named checkpoint, or the one of the record.

        Raises:
            ProtosegError: there is no valid one, or only an older one than that of the record.
        """
        from protoseg.inference.saved_run import find_saved_run
        from protoseg.training.evaluation.saved_model import TRAIN_AGAIN

        if self.checkpoint is not None:
            return self.checkpoint
        saved = find_saved_run(self.folder)
        if saved.state_sha256 is None:
            raise ProtosegError(
                f"{saved.path.parent}: the newest valid checkpoint is {saved.path.name}, not the "
                f"one of the record. {TRAIN_AGAIN} {self.run_id}; or name this file, which is "
                "another model."
            )
        return saved


def list_targets(context: Context) -> tuple[list[EvaluationTarget], list[Matrix]]:
    """List what the operands name, each once, and the named matrices.

    Raises:
        UsageError: as `protoseg.cli.run_lookup.load_matrices_and_runs`; a path that is no
            checkpoint of a run; a trial of a search; or another split of an unfinished run.
        ProtosegError: a run has no record or no checkpoint.
    """
    from protoseg.cli.run_lookup import is_single_run, load_matrices_and_runs

    operands = context.arguments.operands
    checkpoints = [operand for operand in operands if operand.endswith(CHECKPOINT)]
    targets = [_name_checkpoint(context, operand) for operand in dict.fromkeys(checkpoints)]
    others = [operand for operand in operands if operand not in checkpoints]
    if checkpoints and others and not split_overrides(others)[1]:
        raise UsageError(
            f"evaluate: {others[0]}: changes a matrix or a run, but only checkpoints are named. "
            "Remove it."
        )
    context.arguments.operands = others
    matrices = load_matrices_and_runs(context) if context.arguments.operands else []
    for matrix in filter(is_single_run, matrices):
        _refuse_trial(matrix.name, matrix.runs[0].spec)
    runs = {
        (run.run_id, matrix.choice_digest): run.spec for matrix in matrices for run in matrix.runs
    }
    folders = {run_id: RunFolder(context.paths.runs / run_id) for run_id, _ in runs}
    _require_all(folders)
    for (run_id, choice), spec in runs.items():
        other = _find_other_data_set(context, spec)
        folder = folders[run_id].path
        targets.append(EvaluationTarget(run_id, spec, folder, choice=choice, dataset=other))
    return targets, matrices


def _name_checkpoint(context: Context, operand: str) -> EvaluationTarget:
    from protoseg.inference.saved_run import find_saved_run

    saved = find_saved_run(operand)
    _refuse_trial(saved.run_id, saved.spec)
    dataset, own = _find_other_data_set(context, saved.spec), saved.spec.evaluation.split
    if saved.record is None and (dataset is not None or context.arguments.split != own):
        raise UsageError(
            f"{operand}: its run has not finished, so it is evaluated on the split {own} of "
            f"{saved.spec.dataset.name} only. Name --split {own}, or finish the run first."
        )
    folder = saved.path.parents[1]
    _refuse_other_training(context, saved, operand)
    return EvaluationTarget(saved.run_id, saved.spec, folder, saved, dataset=dataset)


def _refuse_other_training(context: Context, saved: SavedRun, operand: str) -> None:
    """Refuse a checkpoint of a reproduction that gave another result: evaluations have run ids."""
    recorded = RecordStore(context.record_folders, context.paths.runs).find(saved.run_id).record
    own = saved.record and saved.record["digest"]
    is_elsewhere = saved.path.parents[1].resolve() != (context.paths.runs / saved.run_id).resolve()
    if is_elsewhere and recorded is not None and recorded["digest"] != own:
        raise UsageError(
            f"{operand}: {saved.run_id} has another record in the runs or results of this call. "
            "Its evaluation would take the name of that one. Name the folder above this run with "
            "--runs, and --ignore-records."
        )


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


def _find_other_data_set(context: Context, spec: RunSpec) -> DatasetSpec | None:
    """The data set of ``--dataset``; None without it, or if it is that of the run.

    Raises:
        UsageError: it has other classes than that of the run.
    """
    from protoseg.cli.commands.data import compose_data_set
    from protoseg.training.evaluation.finished_run import require_same_classes

    name = context.arguments.dataset
    if not name:
        return None
    dataset = compose_data_set(context, name, [])
    own = dataclasses.replace(spec.dataset, class_weights=dataset.class_weights)
    if own == dataset:
        return None
    require_same_classes(make_run_id(spec), spec.dataset, dataset)
    return dataset


def _refuse_trial(name: str, spec: RunSpec) -> None:
    """Refuse a single run that is a trial of a search: its results choose settings."""
    if spec.evaluation.holdout.is_set or spec.schedule.stop_after:
        raise UsageError(
            f"{name}: is evaluated on a holdout or ends early, as trials of a search are, so "
            "another split must not be seen with it. Name the matrix, whose final runs are "
            "evaluated after the choice."
        )
