"""Runs that are trained in one part and in two, to compare the bits of their last checkpoints."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from protoseg.config.schema import RunSpec
from protoseg.runs.folder import Launch, RunFolder
from protoseg.training import checkpoint
from protoseg.training.run import execute_run
from protoseg.training.signals import StopRequest, StopRequested
from training.small import make_folder, record_of


class StopAfter(StopRequest):
    """A stop request that gets a signal during an iteration of this process."""

    def __init__(self, iteration: int) -> None:
        super().__init__()
        self._left = iteration

    def raise_if_taken_over(self) -> None:
        """Called once in each iteration, after the step of the optimiser."""
        super().raise_if_taken_over()
        self._left -= 1
        if self._left == 0:
            self.signal_number = signal.SIGTERM


def train(folder: RunFolder, spec: RunSpec, data: Path, *stops: int) -> dict[str, Any]:
    """Train a run, interrupted after these numbers of iterations.

    Returns:
        The state in its last checkpoint.
    """
    launch = Launch(str(data), str(data / "weights"), threads=1)
    for stop_at in stops:
        with pytest.raises(StopRequested):
            execute_run(spec, folder, launch, StopAfter(stop_at))
    execute_run(spec, folder, launch, StopRequest())
    saved, problems = checkpoint.find_newest(folder.checkpoints)
    assert saved is not None
    assert not problems
    state: dict[str, Any] = torch.load(saved.path, weights_only=True)
    return state


def list_leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of each value of nested data, tensors as lists."""
    if isinstance(value, dict):
        for key in value:
            yield from list_leaves(value[key], f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from list_leaves(item, f"{path}[{index}]")
    else:
        yield path, value.tolist() if isinstance(value, torch.Tensor) else value


def check_resume(spec: RunSpec, data: Path, tmp_path: Path, *stops: int) -> dict[str, Any]:
    """Check that a run that is interrupted has the bits of one that is not.

    Args:
        stops: numbers of iterations of the attempts that are interrupted.

    Returns:
        The state in the last checkpoint.
    """
    whole = make_folder(tmp_path / "whole", spec, data)
    parts = make_folder(tmp_path / "parts", spec, data)
    states = [train(whole, spec, data), train(parts, spec, data, *stops)]
    one, other = (
        {path: v for path, v in list_leaves(state) if not path.endswith(".seconds")}
        for state in states
    )
    assert one == other
    records = [record_of(whole), record_of(parts)]
    for key in ("metrics", "per_class", "losses", "confusion", "parameters"):
        assert records[0][key] == records[1][key], key
    hashes = [record["provenance"]["state_sha256"] for record in records]
    assert hashes[0] == hashes[1]
    return states[0]
