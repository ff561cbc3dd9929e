"""The file progress.json of a run folder, which ``protoseg status`` and a sweep show."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from protoseg import files
from protoseg.runs.folder import RunFolder, now
from protoseg.training.evaluation.metric_curve import MetricCurve

PROGRESS_SECONDS = 1.0
"""Shortest time between two writes."""
EVALUATIONS = 100
"""Most evaluations that the file has."""


class ProgressFile:
    """Writes iteration, speed, losses and evaluations of a run, at most once a second.

    Args:
        folder: the run folder.
        iterations: of the run.
    """

    def __init__(self, folder: RunFolder, iterations: int) -> None:
        self.path = folder.progress
        self.iterations = iterations
        self._recent: deque[float] = deque(maxlen=20)
        self._last_write = -math.inf

    @property
    def rate(self) -> float:
        """Iterations per second, over the last 20 iterations."""
        return len(self._recent) / sum(self._recent)

    def add_iteration(self, seconds: float) -> None:
        """Add the duration of an iteration."""
        self._recent.append(seconds)

    def make_due(self) -> None:
        """Let the next `write` write, whatever the time since the last one."""
        self._last_write = -math.inf

    def write(
        self, iteration: int, loss: float | None, curve: Sequence[Any], metrics: MetricCurve
    ) -> None:
        """Write the file if it is due, or the training has ended; a full disk is no error.

        Args:
            iteration: number of finished iterations.
            loss: total loss of this iteration.
            curve: the loss curve so far, ``[iteration, {name: mean}]``; at most 200 points.
            metrics: the evaluations so far.
        """
        finished = iteration == self.iterations
        if time.monotonic() - self._last_write < PROGRESS_SECONDS and not finished:
            return
        self._last_write = time.monotonic()
        progress: dict[str, Any] = {
            "iteration": iteration,
            "iterations": self.iterations,
            "iterations_per_second": round(self.rate, 4),
            "loss": loss,
            "losses": [[n, _shorten(means["loss"])] for n, means in curve if "loss" in means],
            "phase": "evaluation" if finished else "training",
            "time": now(),
        }
        if metrics.points:
            point = metrics.points[-1]
            recent = metrics.points[-EVALUATIONS:]
            progress["evaluations"] = [[p["iteration"], _shorten(p["miou"])] for p in recent]
            progress["evaluation"] = {
                "iteration": point["iteration"],
                "miou": point["miou"],
                "seconds": round(metrics.last_seconds, 2),
            }
        with contextlib.suppress(files.StorageError):
            files.write_json(self.path, progress, durable=False)


def _shorten(number: float) -> float:
    """A number with five digits: enough for a curve on a screen."""
    return float(f"{number:.5g}")
