"""Run folders in every state that workers leave them in."""

from __future__ import annotations

import json
from pathlib import Path

from report.lab import make_spec

from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason, State

SPEC = make_spec()
DIED = "died"
"""The ending of an attempt whose worker recorded none."""


def add_attempt(
    run: RunFolder, ending: str | None, iteration: int = 0, message: str = "a message"
) -> Path:
    """Add an attempt to a run folder and return the folder of the attempt.

    Args:
        ending: value of a `Reason`, None for a success, `DIED` for no ending.
        iteration: that the attempt resumed from.
    """
    folder = run.start_attempt({"iteration": iteration})
    if ending != DIED:
        (folder / "end.json").write_text(json.dumps({"reason": ending, "message": message}))
    return folder


def add_checkpoint(run: RunFolder, iteration: int) -> None:
    """Add a whole checkpoint: its file and its digest."""
    run.checkpoints.mkdir(exist_ok=True)
    (run.checkpoints / f"iter_{iteration:08d}.pth").touch()
    (run.checkpoints / f"iter_{iteration:08d}.json").write_text("{}")


def state_of(run: RunFolder) -> tuple[State, Reason | None]:
    """The state of a run and the reason of its last attempt."""
    status = run.status()
    return status.state, status.reason
