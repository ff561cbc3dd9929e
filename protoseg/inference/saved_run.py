"""The run and the checkpoint that a user names, for prediction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg.config.identity import read_spec
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.paths import Paths, find_paths
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.runs.run_names import find_run
from protoseg.training.checkpoint import locate
from protoseg.training.evaluation.saved_model import TRAIN_AGAIN, find_last_model

SUFFIX = ".pth"
REPRODUCTIONS = ".reproductions"
"""Folder in the folder of runs in which ``protoseg reproduce`` trains."""


@dataclass(frozen=True)
class SavedRun:
    """A run with a checkpoint."""

    spec: RunSpec
    run_id: str
    path: Path
    """The checkpoint."""
    iteration: int
    record: dict[str, Any] | None
    """The record of the run; None if it has not finished."""

    @property
    def state_sha256(self) -> str | None:
        """The recorded digest of the state; None for another iteration than the recorded one."""
        if self.record is None or self.path.name.startswith("best_"):
            return None
        if self.iteration != self.spec.schedule.last_iteration:
            return None
        digest: str = self.record["provenance"]["state_sha256"]
        return digest


def find_saved_run(name: str | Path, runs: str | Path | None = None) -> SavedRun:
    """Find a run and the checkpoint to load.

    Args:
        name: a run id or a unique part of it; a run folder; or a checkpoint in a run folder.
        runs: the folder of runs; by default PROTOSEG_RUNS, or ``runs`` in the checkout.

    Raises:
        UsageError: no run matches, or several; or a path that is neither.
        ProtosegError: the run has not finished, or has no valid checkpoint.
    """
    path = Path(name).expanduser()
    if path.suffix == SUFFIX or path.is_file():
        return _find_checkpoint(path)
    if (path / "spec.json").is_file():
        return _find_last(RunFolder(path.resolve()))
    if path.is_dir() and len(path.parts) > 1:
        raise UsageError(
            f"{path}: is no run folder, it has no spec.json. Name a run id, a run folder, or a "
            "checkpoint in it."
        )
    paths = find_paths(runs=None if runs is None else str(runs))
    folders: dict[str, list[Path]] = {}
    for folder in _list_folders(paths.runs):
        folders.setdefault(folder.name, []).append(folder)
    recorded = _list_recorded(paths)
    is_recorded_only = not any(str(name) in run_id for run_id in folders)
    if is_recorded_only and any(str(name) in run_id for run_id in recorded):
        run_id = find_run(str(name), recorded, "records")
        raise ProtosegError(
            f"{run_id}: has a record, but no run folder with a checkpoint in {paths.runs}. "
            f"{TRAIN_AGAIN} {run_id}."
        )
    run_id = find_run(str(name), _prefer_finished(str(name), folders), str(paths.runs))
    return _find_first(folders[run_id])


def _list_folders(runs: Path) -> list[Path]:
    """Run folders; those of ``protoseg reproduce`` last, so that a run of the same id wins."""
    patterns = ("*/spec.json", f"{REPRODUCTIONS}/**/spec.json")
    return [path.parent for pattern in patterns for path in sorted(runs.glob(pattern))]


def _find_first(folders: Sequence[Path]) -> SavedRun:
    """The run in the first of its folders; another one only if it has the recorded model.

    Raises:
        ProtosegError: the first folder has no record or checkpoint. The message names another
            folder that has both: it was trained again, so its model may differ.
    """
    first, *others = map(RunFolder, folders)
    try:
        return _find_last(first)
    except ProtosegError as error:
        recorded = _read_state_digest(first)
        for other in others:
            try:
                saved = _find_last(other)
            except ProtosegError:
                continue
            if saved.state_sha256 is not None and saved.state_sha256 == recorded:
                return saved
            raise ProtosegError(
                f"{error} Or name {other.path}, where this run was trained again; its model "
                f"{'differs' if recorded else 'may differ'}."
            ) from error
        raise


def _read_state_digest(folder: RunFolder) -> str | None:
    """The digest of the model in the record of a run folder; None without a record."""
    if not folder.record.is_file():
        return None
    digest: str | None = read_record(folder.record)["provenance"].get("state_sha256")
    return digest


def _list_recorded(paths: Paths) -> set[str]:
    return {path.stem for folder in paths.record_folders for path in folder.glob("*.json")}


def _prefer_finished(name: str, folders: dict[str, list[Path]]) -> Collection[str]:
    """The ids to choose from: finished runs, unless the name is of others only."""
    if name in folders:
        return folders
    finished = {
        run_id
        for run_id, paths in folders.items()
        if name in run_id and any((path / "record.json").is_file() for path in paths)
    }
    return finished or folders


def _find_last(folder: RunFolder) -> SavedRun:
    """A finished run with its last checkpoint."""
    if not folder.record.is_file():
        newest = folder.checkpoint_iteration()
        hint = (
            f" To use its last checkpoint, name {folder.checkpoints}/iter_{newest:08d}{SUFFIX}."
            if newest
            else ""
        )
        raise ProtosegError(
            f"{folder.run_id}: has no record in {folder.path}, so it has not finished. Train it "
            f"first.{hint}"
        )
    record = read_record(folder.record)
    spec = read_spec(record["spec"], folder.run_id)
    saved = find_last_model(folder)
    return SavedRun(spec, record["run_id"], saved.path, saved.iteration, record)


def _find_checkpoint(path: Path) -> SavedRun:
    """The run of a checkpoint file, finished or not."""
    path = path.absolute()
    if not path.is_file():
        raise UsageError(f"{path}: this file does not exist. Name a checkpoint or a run.")
    folder = RunFolder(path.parent.parent)
    data = folder.read_spec()
    record = read_record(folder.record) if folder.record.is_file() else None
    if data is None and record is not None:
        data = record["spec"]
    if data is None or path.parent != folder.checkpoints or path.suffix != SUFFIX:
        raise UsageError(
            f"{path}: is not a checkpoint in a run folder, which has the network's settings. Name "
            "a run id, a run folder, or RUN/checkpoints/iter_*.pth or best_*.pth."
        )
    run_id = record["run_id"] if record is not None else folder.run_id
    spec = read_spec(data, run_id)
    try:
        iteration = locate(path).iteration
    except ValueError:
        raise UsageError(
            f"{path}: its name has no iteration. Allowed are iter_NUMBER.pth and best_NUMBER.pth. "
            "Give the file its name back."
        ) from None
    return SavedRun(spec, run_id, path, iteration, record)
