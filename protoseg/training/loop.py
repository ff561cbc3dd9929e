"""The training loop, made to stop and go on at any iteration.

mmengine's own loop replays all past iterations when it resumes; this one starts where it stopped.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from typing import Any

import torch

from protoseg import files
from protoseg.core import collective
from protoseg.errors import UsageError
from protoseg.runs.folder import RunFolder, now
from protoseg.training import checkpoint
from protoseg.training.build.components import TrainingComponents
from protoseg.training.distributed.process_group import Processes
from protoseg.training.rng import (
    pack_state,
    random_state,
    set_random_state,
    unpack_state,
)
from protoseg.training.signals import StopRequest, StopRequested

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
        processes: those that train together; the first one writes, all stop and save at the same
            iteration.
    """

    def __init__(
        self,
        parts: TrainingComponents,
        folder: RunFolder,
        iterations: int,
        checkpoint_seconds: float,
        stop: StopRequest,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes()
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
        self._last_loss: float | None = None

    def run(self, start: int) -> None:
        """Train; raises `StopRequested` after a checkpoint where a signal asked to."""
        parts = self.parts
        parts.model.train()
        # torch draws a seed from the global generator for every iterator; the one that a resumed
        # run needs is one more than an uninterrupted run makes.
        before = random_state()
        batches = iter(parts.train_loader)
        if start:
            set_random_state(before)
        saved = time.monotonic()
        for iteration in range(start, self.iterations):
            begun = time.perf_counter()
            batch = next(batches)
            losses = parts.model.train_step(batch, optim_wrapper=parts.optimizer)
            for scheduler in parts.schedulers:
                scheduler.step()
            done = iteration + 1
            due = time.monotonic() - saved >= self.checkpoint_seconds
            self.stop.raise_if_taken_over()
            numbers, signal_number, due = self._agree(losses, due)
            self._note(done, numbers)
            took = time.perf_counter() - begun
            self.seconds += took
            self._recent.append(took)
            if done == self.iterations or due or signal_number is not None:
                self.save(done)
                saved = time.monotonic()
            self._report(done)
            if signal_number is not None:
                raise StopRequested(signal_number)

    def save(self, iteration: int) -> None:
        """Write a checkpoint that holds everything this loop needs to go on; in all processes."""
        others: list[dict[str, Any]] = []
        if self.processes.size > 1:
            states = self.processes.gather_bytes(pack_state(random_state()))
            others = [unpack_state(state) for state in states[1:]]
        if self.processes.rank > 0:
            return
        self.stop.check_ownership()
        extra = {
            "curve": self.curve,
            "sums": self._sums,
            "count": self._count,
            "seconds": self.seconds,
        }
        checkpoint.save(
            self.parts, self.folder.checkpoints, iteration, extra, others, self.stop.check_ownership
        )

    def resume(self, found: checkpoint.Checkpoint) -> None:
        """Go back to the state of a checkpoint."""
        extra = checkpoint.restore(self.parts, found)
        self.curve = extra["curve"]
        self._sums = extra["sums"]
        self._count = extra["count"]
        self.seconds = extra["seconds"]

    def _agree(
        self, losses: dict[str, Any], due: bool
    ) -> tuple[dict[str, float], int | None, bool]:
        """The losses as numbers, the signal to stop for, and whether a checkpoint is due.

        Of several processes: the means, the highest, and whether any says so, in one exchange.
        """
        values = [torch.as_tensor(value).detach() for value in losses.values()]
        signal_number = self.stop.signal_number
        if self.processes.size > 1:
            flags = [torch.tensor(float(flag)).to(values[0]) for flag in (signal_number or 0, due)]
            row = torch.stack([value.double() for value in (*values, *flags)])
            table = collective.all_gather(row).cpu()
            values = list(table[:, :-2].mean(0))
            highest, any_due = table[:, -2:].amax(0).tolist()
            signal_number, due = int(highest) or None, bool(any_due)
        return dict(zip(losses, map(float, values), strict=True)), signal_number, due

    def _note(self, iteration: int, losses: dict[str, float]) -> None:
        for name, number in losses.items():
            if not math.isfinite(number):
                raise UsageError(
                    f"{self.folder.run_id}: {name} became {number} at iteration {iteration}; the "
                    "training diverged. Lower schedule.learning_rate or lengthen "
                    "schedule.warmup_iterations."
                )
            short = name.removeprefix("decode.")
            self._sums[short] = self._sums.get(short, 0.0) + number
        self._last_loss = losses.get("loss")
        self._count += 1
        every = max(1, self.iterations // CURVE_POINTS)
        if iteration % every == 0 or iteration == self.iterations:
            means = {name: total / self._count for name, total in self._sums.items()}
            self.curve.append([iteration, means])
            text = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            # Neither line nor progress is worth a training: a disk that is full now may have room
            # when a checkpoint is due.
            if self.processes.rank == 0:
                with contextlib.suppress(OSError):
                    print(f"{now()}  iteration {iteration}/{self.iterations}  {text}", flush=True)
            self._sums, self._count = {}, 0

    def _report(self, iteration: int) -> None:
        finished = iteration == self.iterations
        if self.processes.rank > 0:
            return
        if time.monotonic() - self._last_progress < PROGRESS_SECONDS and not finished:
            return
        self._last_progress = time.monotonic()
        rate = len(self._recent) / sum(self._recent)
        progress = {
            "iteration": iteration,
            "iterations": self.iterations,
            "iterations_per_second": round(rate, 4),
            "loss": self._last_loss,
            "phase": "evaluation" if finished else "training",
            "time": now(),
        }
        with contextlib.suppress(files.StorageError):
            files.write_json(self.folder.progress, progress, durable=False)
