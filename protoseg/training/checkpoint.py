"""Checkpoints: written aside and renamed, with a digest; at least two are kept.

checkpoints/iter_00000100.pth    what training needs to go on
checkpoints/iter_00000100.json   its digest; written after it, so that its presence means whole
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from protoseg import files
from protoseg.core.collective import rank, world_size
from protoseg.training.build.components import TrainingComponents
from protoseg.training.rng import random_state, seed_apart, set_random_state

KEEP = 2
"""Checkpoints kept; the older one is for the day the newer one turns out damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose digest is right."""

    path: Path
    iteration: int


def save(
    parts: TrainingComponents,
    folder: Path,
    iteration: int,
    extra: dict[str, Any],
    others: Sequence[dict[str, Any]] = (),
    check_ownership: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Write a checkpoint after ``iteration`` finished iterations, then drop the oldest.

    Args:
        others: what `random_state` gave in the other processes, by rank.
        confirm: raises if the run is another worker's by now. It is asked before each change: the
            disk may hang in any of them for longer than a claim lasts.

    Raises:
        StorageError: no space or no permission; the checkpoints already there are whole.
    """
    files.make_folder(folder)
    path = _path(folder, iteration)
    state = {
        "iteration": iteration,
        "model": parts.module.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "schedulers": [scheduler.state_dict() for scheduler in parts.schedulers],
        "random": random_state(),
        "extra": extra,
    }
    if others:
        state["others"] = list(others)
    files.write_with(path, lambda file: _write(state, file), check_ownership)
    note = _note(path)
    check_ownership()
    files.write_json(path.with_suffix(".json"), note)
    check_ownership()
    _clear_away(folder, path)
    return Checkpoint(path, iteration)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not."""
    problems = []
    for path in sorted(folder.glob("iter_*.pth"), reverse=True):
        note = files.read_json(path.with_suffix(".json"))
        if not isinstance(note, dict):
            problems.append(f"{path.name}: without its digest, so perhaps torn; passed over")
        elif note != _note(path):
            problems.append(f"{path.name}: damaged, it does not match its digest; passed over")
        else:
            return Checkpoint(path, note["iteration"]), problems
    return None, problems


def at(folder: Path, iteration: int) -> Checkpoint:
    """The checkpoint of an iteration, which another process found to be whole."""
    return Checkpoint(_path(folder, iteration), iteration)


def restore(parts: TrainingComponents, checkpoint: Checkpoint) -> dict[str, Any]:
    """Load a checkpoint into the parts of a training; the ``extra`` it was saved with.

    It may be of another number of processes: generators whose state it lacks start anew.
    """
    state = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
    parts.module.load_state_dict(state["model"])
    parts.optimizer.load_state_dict(state["optimizer"])
    for scheduler, saved in zip(parts.schedulers, state["schedulers"], strict=True):
        scheduler.load_state_dict(saved)
    generators = [state["random"], *state.get("others", ())]
    if len(generators) != world_size():
        print(
            f"{checkpoint.path.name} is of {len(generators)} processes, here are {world_size()}: "
            "what they draw (dropout, Gumbel) goes on another way",
            flush=True,
        )
    if rank() < len(generators):
        set_random_state(generators[rank()])
    else:
        seed_apart(torch.initial_seed(), rank(), checkpoint.iteration)
    # Whatever is newer was found damaged, or this one would not have been chosen.
    for path in checkpoint.path.parent.glob("iter_*.pth"):
        if path.name > checkpoint.path.name and rank() == 0:
            _remove(path)
    extra: dict[str, Any] = state["extra"]
    return extra


def _path(folder: Path, iteration: int) -> Path:
    return folder / f"iter_{iteration:08d}.pth"


def _note(path: Path) -> dict[str, Any]:
    """What the note of a checkpoint says, the iteration too: a note can rot as well."""
    iteration = int(path.stem.removeprefix("iter_"))
    return {"iteration": iteration, "sha256": files.file_digest(path)}


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # torch hides what the file said, a full disk for instance, behind an error of its own.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _clear_away(folder: Path, newest: Path) -> None:
    """Keep `KEEP` checkpoints up to ``newest``, and nothing that a killed writer left."""
    whole = []
    for path in sorted(folder.glob("iter_*.pth")):
        # One that is newer belongs to an attempt whose work was given up.
        if path.name > newest.name or not path.with_suffix(".json").exists():
            _remove(path)
        else:
            whole.append(path)
    for old in whole[:-KEEP]:
        _remove(old)
    for remains in folder.glob(".iter_*.tmp"):
        remains.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    # The note first: a checkpoint without one is known to be no longer whole.
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)
