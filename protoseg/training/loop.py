"""The training loop, which can stop and resume at any iteration.

mmengine's loop replays all past iterations when it resumes; this one starts at the next iteration.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import torch

from protoseg.core import collective
from protoseg.errors import UsageError
from protoseg.runs.folder import RunFolder, now
from protoseg.training import checkpoint
from protoseg.training.builders.components import TrainingComponents
from protoseg.training.distributed.process_group import Processes
from protoseg.training.evaluation.metric_curve import MetricCurve
from protoseg.training.reporting.progress_file import ProgressFile
from protoseg.training.reporting.run_log import RunLog, read_learning_rate
from protoseg.training.rng import get_random_state, pack_state, set_random_state, unpack_state
from protoseg.training.signals import StopRequest, StopRequested

CURVE_POINTS = 100
"""Points of the loss curve in the record, each the mean since the previous point."""


class TrainingLoop:
    """Trains to the last iteration, and writes progress, checkpoints and a loss curve.

    Args:
        parts: model, optimiser, schedulers and loaders.
        folder: the run folder, for checkpoints and progress.
        iterations: number of iterations to train.
        checkpoint_seconds: minimum time between two periodic checkpoints.
        stop: checked after each iteration.
        processes: the processes that train together. Rank 0 writes; all stop and save at the same
            iteration.
        metrics: evaluates the model on the way; by default it does not.
        scheduled: iterations of the whole schedule, if the training ends earlier. The loss curve
            has the points of the whole one, so that another run can continue it.
        run_log: the loggers; by default there are none.
        step_every: iterations of one step of the optimiser. A checkpoint is saved after a whole
            step, because it has no gradients.
    """

    def __init__(
        self,
        parts: TrainingComponents,
        folder: RunFolder,
        iterations: int,
        checkpoint_seconds: float,
        stop: StopRequest,
        processes: Processes | None = None,
        metrics: MetricCurve | None = None,
        *,
        scheduled: int = 0,
        run_log: RunLog | None = None,
        step_every: int = 1,
    ) -> None:
        self.processes = processes or Processes()
        self.metrics = metrics or MetricCurve()
        self.run_log = run_log or RunLog()
        self.progress = ProgressFile(folder, iterations)
        self.parts = parts
        self.folder = folder
        self._checkpoints = folder.checkpoints
        self.iterations = iterations
        self.scheduled = scheduled or iterations
        self.step_every = step_every
        self.checkpoint_seconds = checkpoint_seconds
        self.stop = stop
        self.curve: list[Any] = []
        self.continued: dict[str, Any] | None = None
        """``run_id`` and ``iteration`` of the run whose training this one continues."""
        self.seconds = 0.0
        """Time spent in iterations, over all attempts that contributed to this run."""
        self._sums: dict[str, float] = {}
        self._count = 0
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
        # The checkpoint was saved before the evaluation that is due at its iteration.
        signal_number = self._evaluate(start)
        if signal_number is not None:
            raise StopRequested(signal_number)
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
            learning_rate = read_learning_rate(parts.optimizer) if self.run_log.is_active else 0.0
            for scheduler in parts.schedulers:
                scheduler.step()
            done = iteration + 1
            if parts.averaged:
                parts.averaged.update(done)
            is_due = time.monotonic() - save_time >= self.checkpoint_seconds
            self.stop.raise_if_taken_over()
            loss_values, signal_number, is_due = self._exchange(losses, is_due)
            self._note(done, loss_values)
            seconds = time.perf_counter() - iteration_start
            self.seconds += seconds
            self.progress.add_iteration(seconds)
            self.run_log.add_losses(
                done,
                loss_values,
                learning_rate=learning_rate,
                iterations_per_second=self.progress.rate,
            )
            if signal_number is None:
                signal_number = self._evaluate(done)
            if done % self.step_every:
                self._report(done)
                continue
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
        if self.continued:
            extra["continued"] = self.continued
        if self.metrics.every:
            extra["metrics"] = self.metrics.state_dict()
        checkpoint.save(
            self.parts,
            self._checkpoints,
            iteration,
            extra,
            other_states,
            self.stop.check_ownership,
        )
        self._remove_other_models()

    def save_best(self) -> None:
        """Keep the model of the newest point of the metrics if it is the best one so far.

        The model that was the best before is kept until the next checkpoint: a run that is killed
        before it resumes from a checkpoint without the newest point.
        """
        best = self.metrics.best
        if self.processes.rank == 0 and best is not None and best is self.metrics.points[-1]:
            checkpoint.save_best(
                self.parts, self._checkpoints, best["iteration"], self.stop.check_ownership
            )

    def finish_metrics(self, overall: dict[str, Any], per_class: list[dict[str, Any]]) -> None:
        """Add the evaluation at the end to the metrics, if there are any on the way.

        Args:
            overall: its overall metrics.
            per_class: its metrics of each class.
        """
        if self.metrics.every:
            self.metrics.add_point(self.iterations, overall, per_class)
            self.save_best()
            self._remove_other_models()
            best = self.metrics.best
            if self.processes.rank == 0 and best and not checkpoint.find_best(self._checkpoints):
                print(f"the model of the best evaluation ({best['iteration']}) is lost", flush=True)

    def _remove_other_models(self) -> None:
        """Remove the models that were the best one earlier."""
        best = self.metrics.best
        if self.processes.rank == 0 and best is not None:
            self.stop.check_ownership()
            checkpoint.remove_other_models(self._checkpoints, best["iteration"])

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Restore the state of a checkpoint."""
        extra = checkpoint.restore(self.parts, saved)
        is_of_other_run = saved.path.parent != self._checkpoints
        origin = {"run_id": saved.run_id, "iteration": saved.iteration}
        self.continued = origin if is_of_other_run else extra.get("continued")
        self.curve = extra["curve"]
        self._sums = extra["sums"]
        self._count = extra["count"]
        self.seconds = extra["seconds"]
        if self.metrics.every:
            self.metrics.load_state_dict(extra["metrics"])
            best = self.metrics.best
            if is_of_other_run and self.processes.rank == 0 and best is not None:
                checkpoint.copy_best(saved.path.parent, self._checkpoints, best["iteration"])

    def _evaluate(self, iteration: int) -> int | None:
        """Evaluate the model on the way if it is due, in all processes.

        Returns:
            The number of the signal that cut the evaluation short, or None.
        """
        if not self.metrics.is_due(iteration):
            return None
        try:
            with self.parts.use_evaluated_weights():
                self.metrics.evaluate(iteration, self.parts.model)
        except StopRequested as stopped:
            return stopped.signal_number
        self.save_best()
        point = self.metrics.points[-1]
        self.run_log.log_metrics(iteration, point)
        if self.processes.rank == 0:
            with contextlib.suppress(OSError):
                print(
                    f"{now()}  iteration {iteration}/{self.iterations}  mIoU {point['miou']:.2f}  "
                    f"evaluation {self.metrics.last_seconds:.1f} s",
                    flush=True,
                )
        self.progress.make_due()
        return None

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
        self.metrics.add_loss(self._last_loss)
        self._count += 1
        interval = max(1, self.scheduled // CURVE_POINTS)
        if iteration % interval == 0 or iteration == self.scheduled:
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
        """Write progress.json from time to time."""
        if self.processes.rank == 0:
            self.progress.write(iteration, self._last_loss, self.curve, self.metrics)
