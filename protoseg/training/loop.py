"""The training loop, which can stop and resume at any iteration.

mmengine's loop replays all past iterations when it resumes; this one starts at the next iteration.
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
from protoseg.training.builders.components import TrainingComponents
from protoseg.training.distributed.process_group import Processes
from protoseg.training.rng import get_random_state, pack_state, set_random_state, unpack_state
from protoseg.training.signals import StopRequest, StopRequested

PROGRESS_SECONDS = 1.0
CURVE_POINTS = 100
"""Points of the loss curve in the record, each the mean since the previous point."""


class TrainingLoop:
    """Trains to the last iteration, and writes progress, checkpoints and a loss curve.

    Args:
        parts: model, optimiser, schedulers and loaders.
        folder: the run folder, for checkpoints and progress.
        iterations: total number of iterations.
        checkpoint_seconds: minimum time between two periodic checkpoints.
        stop: checked after each iteration.
        processes: the processes that train together. Rank 0 writes; all stop and save at the same
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
        """Time spent in iterations, over all attempts that contributed to this run."""
        self._sums: dict[str, float] = {}
        self._count = 0
        self._recent: deque[float] = deque(maxlen=20)
        self._last_progress = -math.inf
        self._last_loss: float | None = None

    def run(self, start: int) -> None:
        """Train from iteration ``start`` to the last one.

        Raises:
            StopRequested: a signal arrived; a checkpoint was written after it.
            ClaimLost: another worker took the run over.
            UsageError: a loss is not finite.
        """
        parts = self.parts
        parts.model.train()
        # Each loader iterator draws a seed from torch's global generator. A resumed run creates one
        # iterator more than an uninterrupted run, so its draw is undone.
        state_before = get_random_state()
        batches = iter(parts.train_loader)
        if start:
            set_random_state(state_before)
        save_time = time.monotonic()
        for iteration in range(start, self.iterations):
            iteration_start = time.perf_counter()
            batch = next(batches)
            losses = parts.model.train_step(batch, optim_wrapper=parts.optimizer)
            for scheduler in parts.schedulers:
                scheduler.step()
            done = iteration + 1
            is_due = time.monotonic() - save_time >= self.checkpoint_seconds
            self.stop.raise_if_taken_over()
            loss_values, signal_number, is_due = self._exchange(losses, is_due)
            self._note(done, loss_values)
            seconds = time.perf_counter() - iteration_start
            self.seconds += seconds
            self._recent.append(seconds)
            if done == self.iterations or is_due or signal_number is not None:
                self.save(done)
                save_time = time.monotonic()
            self._report(done)
            if signal_number is not None:
                raise StopRequested(signal_number)

    def save(self, iteration: int) -> None:
        """Write a checkpoint from which this loop can resume; all processes call this."""
        other_states: list[dict[str, Any]] = []
        if self.processes.size > 1:
            states = self.processes.gather_bytes(pack_state(get_random_state()))
            other_states = [unpack_state(state) for state in states[1:]]
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
            self.parts,
            self.folder.checkpoints,
            iteration,
            extra,
            other_states,
            self.stop.check_ownership,
        )

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Restore the state of a checkpoint."""
        extra = checkpoint.restore(self.parts, saved)
        self.curve = extra["curve"]
        self._sums = extra["sums"]
        self._count = extra["count"]
        self.seconds = extra["seconds"]

    def _exchange(
        self, losses: dict[str, Any], is_due: bool
    ) -> tuple[dict[str, float], int | None, bool]:
        """Combine the losses and flags of all processes in one exchange.

        Returns:
            The mean of each loss, the highest signal number or None, and whether a checkpoint is
            due in any process.
        """
        values = [torch.as_tensor(value).detach() for value in losses.values()]
        signal_number = self.stop.signal_number
        if self.processes.size > 1:
            flags = [
                torch.tensor(float(flag)).to(values[0]) for flag in (signal_number or 0, is_due)
            ]
            row = torch.stack([value.double() for value in (*values, *flags)])
            table = collective.all_gather(row).cpu()
            values = list(table[:, :-2].mean(0))
            highest, any_due = table[:, -2:].amax(0).tolist()
            signal_number, is_due = int(highest) or None, bool(any_due)
        return dict(zip(losses, map(float, values), strict=True)), signal_number, is_due

    def _note(self, iteration: int, losses: dict[str, float]) -> None:
        """Add the losses of an iteration to the curve, and log each new point of it."""
        for name, number in losses.items():
            if not math.isfinite(number):
                raise UsageError(
                    f"{self.folder.run_id}: {name} is {number} at iteration {iteration}; the "
                    "training diverged. Lower schedule.learning_rate or raise "
                    "schedule.warmup_iterations."
                )
            short_name = name.removeprefix("decode.")
            self._sums[short_name] = self._sums.get(short_name, 0.0) + number
        self._last_loss = losses.get("loss")
        self._count += 1
        interval = max(1, self.iterations // CURVE_POINTS)
        if iteration % interval == 0 or iteration == self.iterations:
            means = {name: total / self._count for name, total in self._sums.items()}
            self.curve.append([iteration, means])
            text = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            # A full disk must not end the training here: it may have space again when the next
            # checkpoint is due.
            if self.processes.rank == 0:
                with contextlib.suppress(OSError):
                    print(f"{now()}  iteration {iteration}/{self.iterations}  {text}", flush=True)
            self._sums, self._count = {}, 0

    def _report(self, iteration: int) -> None:
        """Write progress.json, at most once in `PROGRESS_SECONDS`."""
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
