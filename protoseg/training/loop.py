"""The training loop, made to stop and go on at any iteration.

mmengine's own loop replays all past iterations when it resumes; this one starts where it stopped.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

import torch

from protoseg.errors import UsageError
from protoseg.runs import atomic
from protoseg.runs.folder import RunFolder, now
from protoseg.training import checkpoint
from protoseg.training.parts import Parts
from protoseg.training.stop import StopRequest

PROGRESS_SECONDS = 1.0
CURVE_POINTS = 100
"""Points of the loss curve kept in the record, each the mean since the one before."""


class TrainingLoop:
    """Trains from iteration ``start`` to the end, with progress, checkpoints and a loss curve.

    Args:
        parts: model, optimiser, schedulers and loaders.
        folder: where checkpoints and progress go.
        iterations: length of the training.
        checkpoint_seconds: least time between two periodic checkpoints.
        stop: asked between iterations.
    """

    def __init__(
        self,
        parts: Parts,
        folder: RunFolder,
        iterations: int,
        checkpoint_seconds: float,
        stop: StopRequest,
    ) -> None:
        self.parts = parts
        self.folder = folder
        self.iterations = iterations
        self.checkpoint_seconds = checkpoint_seconds
        self.stop = stop
        self.curve: list[Any] = []
        self.seconds = 0.0
        """Time spent in iterations, over all attempts whose work is in this run."""
        self._sums: dict[str, float] = {}
        self._count = 0
        self._recent: deque[float] = deque(maxlen=20)
        self._last_progress = -math.inf

    def run(self, start: int) -> None:
        """Train; raises `Stopped` after a checkpoint where a signal asked to."""
        parts = self.parts
        parts.model.train()
        # torch draws a seed from the global generator for every iterator; the one that a resumed
        # run needs is one more than an uninterrupted run makes.
        before = checkpoint.random_state()
        batches = iter(parts.train_loader)
        if start:
            checkpoint.set_random_state(before)
        saved = time.monotonic()
        for iteration in range(start, self.iterations):
            begun = time.perf_counter()
            batch = next(batches)
            losses = parts.model.train_step(batch, optim_wrapper=parts.optimizer)
            for scheduler in parts.schedulers:
                scheduler.step()
            self._note(iteration + 1, losses)
            took = time.perf_counter() - begun
            self.seconds += took
            self._recent.append(took)
            done = iteration + 1
            due = time.monotonic() - saved >= self.checkpoint_seconds
            if done == self.iterations or due or self.stop.signal_number is not None:
                self.save(done)
                saved = time.monotonic()
            self._report(done)
            self.stop.check()

    def save(self, iteration: int) -> None:
        """Write a checkpoint that holds everything this loop needs to go on."""
        self.stop.confirm()
        extra = {
            "curve": self.curve,
            "sums": self._sums,
            "count": self._count,
            "seconds": self.seconds,
        }
        checkpoint.save(self.parts, self.folder.checkpoints, iteration, extra)

    def resume(self, found: checkpoint.Checkpoint) -> None:
        """Go back to the state of a checkpoint."""
        extra = checkpoint.restore(self.parts, found)
        self.curve = extra["curve"]
        self._sums = extra["sums"]
        self._count = extra["count"]
        self.seconds = extra["seconds"]

    def _note(self, iteration: int, losses: dict[str, Any]) -> None:
        for name, value in losses.items():
            number = float(torch.as_tensor(value).detach())
            if not math.isfinite(number):
                raise UsageError(
                    f"{self.folder.run_id}: {name} became {number} at iteration {iteration}; the "
                    "training diverged. Lower schedule.learning_rate or lengthen "
                    "schedule.warmup_iterations."
                )
            short = name.removeprefix("decode.")
            self._sums[short] = self._sums.get(short, 0.0) + number
        self._count += 1
        every = max(1, self.iterations // CURVE_POINTS)
        if iteration % every == 0 or iteration == self.iterations:
            means = {name: total / self._count for name, total in self._sums.items()}
            self.curve.append([iteration, means])
            text = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            print(f"{now()}  iteration {iteration}/{self.iterations}  {text}", flush=True)
            self._sums, self._count = {}, 0

    def _report(self, iteration: int) -> None:
        finished = iteration == self.iterations
        if time.monotonic() - self._last_progress < PROGRESS_SECONDS and not finished:
            return
        self._last_progress = time.monotonic()
        rate = len(self._recent) / sum(self._recent)
        progress = {
            "iteration": iteration,
            "iterations": self.iterations,
            "iterations_per_second": round(rate, 4),
            "phase": "evaluation" if finished else "training",
            "time": now(),
        }
        atomic.write_json(self.folder.progress, progress)
