"""Checkpoints: saved atomically with a digest; the last two are kept.

checkpoints/iter_00000100.pth    the state of a training
checkpoints/iter_00000100.json   iteration and digest; written last, so it marks a complete file
checkpoints/best_00000100.pth    the model with the best mIoU on the way, without the optimiser
checkpoints/best_00000100.json   as above; both only with ``evaluation.every``
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from protoseg import files
from protoseg.core.collective import rank, world_size
from protoseg.training.builders.components import TrainingComponents
from protoseg.training.rng import get_random_state, seed_generators, set_random_state

KEEP = 2
"""Number of checkpoints kept; the older one is used if the newer one is damaged."""
LAST, BEST = "iter", "best"
"""First parts of the names of checkpoints and of the best model."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk with a valid digest."""

    path: Path
    iteration: int

    @property
    def run_id(self) -> str:
        """The run that it belongs to."""
        return self.path.parent.parent.name


def save(
    parts: TrainingComponents,
    folder: Path,
    iteration: int,
    extra: dict[str, Any],
    other_states: Sequence[dict[str, Any]] = (),
    check_ownership: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Write a checkpoint after ``iteration`` finished iterations, then remove the oldest.

    Args:
        extra: state of the training loop.
        other_states: results of `get_random_state` in the other processes, by rank.
        check_ownership: raises if another worker owns the run. Called before each change, because
            a disk may hang in any of them until the claim expires.

    Raises:
        StorageError: no space or no permission; the existing checkpoints are unchanged.
    """
    files.make_folder(folder)
    path = _path(folder, iteration)
    state = {
        "iteration": iteration,
        "model": parts.read_state(),
        "optimizer": parts.optimizer.state_dict(),
        "schedulers": [scheduler.state_dict() for scheduler in parts.schedulers],
        "random": get_random_state(),
        "extra": extra,
    }
    if parts.averaged:
        state["average"] = parts.averaged.state_dict()
    if other_states:
        state["others"] = list(other_states)
    files.write_with(path, lambda file: _write_state(state, file), check_ownership)
    digest_entry = _make_digest_entry(path)
    check_ownership()
    files.write_json(path.with_suffix(".json"), digest_entry)
    check_ownership()
    _remove_old(folder, path)
    return Checkpoint(path, iteration)


def save_best(
    parts: TrainingComponents,
    folder: Path,
    iteration: int,
    check_ownership: Callable[[], None] = lambda: None,
) -> None:
    """Write the model after ``iteration`` as the best one; earlier ones are kept.

    Args:
        check_ownership: as for `save`.

    Raises:
        StorageError: no space or no permission.
    """
    files.make_folder(folder)
    path = _path(folder, iteration, BEST)
    state = {"iteration": iteration, "model": parts.read_state()}
    files.write_with(path, lambda file: _write_state(state, file), check_ownership)
    digest_entry = _make_digest_entry(path)
    check_ownership()
    files.write_json(path.with_suffix(".json"), digest_entry)


def copy_best(source: Path, folder: Path, iteration: int) -> None:
    """Copy the best model of the run that is continued; without a valid one, do nothing.

    Args:
        source: folder of the checkpoints of that run.
        folder: of this run.
        iteration: of the model.
    """
    path, best = _path(folder, iteration, BEST), find_best(source)
    if path.exists() or best is None or best.iteration != iteration:
        return
    files.make_folder(folder)
    files.write_bytes(path, best.path.read_bytes())
    files.write_json(path.with_suffix(".json"), _make_digest_entry(path))


def remove_other_models(folder: Path, iteration: int) -> None:
    """Remove the best models of other iterations, and files of killed writers."""
    for path in sorted(folder.glob(f"{BEST}_*.pth")):
        if path != _path(folder, iteration, BEST):
            _remove(path)
    for temporary in folder.glob(f".{BEST}_*.tmp"):
        temporary.unlink(missing_ok=True)


def find_best(folder: Path) -> Checkpoint | None:
    """The valid best model of the latest iteration; None if there is none."""
    return _find_last(folder, BEST)[0]


def find_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint or None, and one sentence for each newer invalid one."""
    return _find_last(folder, LAST)


def _find_last(folder: Path, prefix: str) -> tuple[Checkpoint | None, list[str]]:
    problems: list[str] = []
    for path in sorted(folder.glob(f"{prefix}_*.pth"), reverse=True):
        problem = find_problem(path)
        if not problem:
            return locate(path), problems
        problems.append(f"{path.name}: {problem}; skipped")
    return None, problems


def find_problem(path: Path) -> str:
    """Why a checkpoint cannot be used, by its digest file; empty if it is whole."""
    digest_entry = files.read_json(path.with_suffix(".json"))
    if not isinstance(digest_entry, dict):
        return "no digest file, possibly incomplete"
    if digest_entry != _make_digest_entry(path):
        return "damaged, it does not match its digest"
    return ""


def locate(path: Path) -> Checkpoint:
    """The checkpoint in a file, which another process has verified."""
    return Checkpoint(path, _read_iteration(path))


def restore(parts: TrainingComponents, checkpoint: Checkpoint) -> dict[str, Any]:
    """Load a checkpoint into the parts of a training.

    The checkpoint may come from another number of processes. A process whose generator state it
    lacks gets a new seed.

    Returns:
        The ``extra`` state that the checkpoint was saved with.
    """
    state = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
    parts.module.load_state_dict(state["model"])
    if parts.averaged:
        parts.averaged.load_state_dict(state["average"], state["model"])
    parts.optimizer.load_state_dict(state["optimizer"])
    for scheduler, scheduler_state in zip(parts.schedulers, state["schedulers"], strict=True):
        scheduler.load_state_dict(scheduler_state)
    random_states = [state["random"], *state.get("others", ())]
    if len(random_states) != world_size():
        print(
            f"{checkpoint.path.name} was saved by {len(random_states)} processes, now there are "
            f"{world_size()}: dropout and Gumbel samples differ from an uninterrupted run",
            flush=True,
        )
    if rank() < len(random_states):
        set_random_state(random_states[rank()])
    else:
        seed_generators(torch.initial_seed(), rank(), checkpoint.iteration)
    # All newer checkpoints are damaged: `find_newest` selects the newest valid one.
    for path in checkpoint.path.parent.glob("iter_*.pth"):
        if path.name > checkpoint.path.name and rank() == 0:
            _remove(path)
    extra: dict[str, Any] = state["extra"]
    return extra


def _path(folder: Path, iteration: int, prefix: str = LAST) -> Path:
    return folder / f"{prefix}_{iteration:08d}.pth"


def _make_digest_entry(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's JSON file; its iteration detects a damaged JSON file."""
    return {"iteration": _read_iteration(path), "sha256": files.file_digest(path)}


def _read_iteration(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _write_state(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # torch raises its own error on top of the file's error, for example a full disk.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _remove_old(folder: Path, newest: Path) -> None:
    """Keep the last `KEEP` checkpoints up to ``find_newest``; remove files of killed writers."""
    complete = []
    for path in sorted(folder.glob("iter_*.pth")):
        # A newer checkpoint belongs to an attempt that was discarded.
        if path.name > newest.name or not path.with_suffix(".json").exists():
            _remove(path)
        else:
            complete.append(path)
    for old in complete[:-KEEP]:
        _remove(old)
    for temporary in folder.glob(".iter_*.tmp"):
        temporary.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    # The digest file first: a checkpoint without one counts as incomplete.
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)
