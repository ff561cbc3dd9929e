"""What the loggers of a run get: means of the losses, the learning rate, the speed, the metrics.

The loggers are processes apart (`protoseg.loggers.client`): they can neither change, nor slow down,
nor end the training. Without loggers, nothing here does anything.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.errors import ProtosegError
from protoseg.loggers.client import LoggerProcess
from protoseg.runs.folder import RunFolder, now
from protoseg.training.worker_log import print_log

if TYPE_CHECKING:
    from protoseg.config.schema import RunSpec

POINTS = 1000
"""Points of the values of a whole training, each the mean since the previous point."""
DONE_SECONDS, STOPPED_SECONDS = 30.0, 5.0
"""How long a worker waits for its loggers after the end of a run, or of an attempt that was cut
off: SLURM may kill the worker soon after a signal."""


class RunLog:
    """The loggers of one attempt.

    Args:
        names: of the loggers; empty for none.
        folder: the run folder.
        attempt: the folder of the attempt, for the output of the loggers.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        folder: RunFolder | None = None,
        attempt: Path | None = None,
    ) -> None:
        self._names = tuple(names)
        self._folder, self._attempt = folder, attempt
        self._loggers: list[LoggerProcess] = []
        self._interval = 1
        self._iterations = 0
        self._sums: dict[str, float] = {}
        self._count = 0

    @property
    def is_active(self) -> bool:
        """Whether a logger still logs."""
        return any(logger.is_active for logger in self._loggers)

    def start(self, spec: RunSpec, iterations: int, start: int) -> None:
        """Start the processes of the loggers; does not wait for them.

        Args:
            spec: of the run.
            iterations: of the run.
            start: number of iterations that are trained already.
        """
        if not self._names or self._folder is None or self._attempt is None:
            return
        from protoseg.config.fields import to_plain  # after the worker has limited its threads

        self._iterations = iterations
        self._interval = max(1, iterations // POINTS)
        for name in self._names:
            log = self._attempt / f"logger-{name}.txt"
            self._loggers.append(LoggerProcess(name, log, _print_warning))
        self._send_call(
            "start",
            run_id=self._folder.run_id,
            folder=str(self._folder.path),
            spec=to_plain(spec, identity=True),
            iterations=iterations,
            start=start,
            attempt=int(self._attempt.name) if self._attempt.name.isdigit() else 1,
        )

    def add_losses(self, iteration: int, losses: Mapping[str, float], **values: float) -> None:
        """Add the losses of an iteration; log a point if one is due.

        Args:
            iteration: number of finished iterations.
            losses: the total ``loss`` and its terms, finite.
            values: other values of this iteration, for instance ``learning_rate``.
        """
        if not self.is_active:
            return
        for name, number in losses.items():
            short_name = name.removeprefix("decode.")
            self._sums[short_name] = self._sums.get(short_name, 0.0) + number
        self._count += 1
        if iteration % self._interval == 0 or iteration == self._iterations:
            means = {name: total / self._count for name, total in self._sums.items()}
            self._send_call("log", iteration=iteration, values={**means, **values})
            self._sums, self._count = {}, 0

    def log_metrics(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Log the overall metrics of an evaluation, in percent."""
        if self.is_active:
            numbers = {name: metrics[name] for name in ("miou", "macc", "aacc")}
            self._send_call("log_metrics", iteration=iteration, metrics=numbers)

    def finish(self, reason: str) -> None:
        """Let the loggers finish, and wait for them, but not for long.

        Args:
            reason: ``done``, or the reason of the end of the attempt.
        """
        self._send_call("finish", reason=reason)
        end = time.monotonic() + (DONE_SECONDS if reason == "done" else STOPPED_SECONDS)
        for logger in self._loggers:
            logger.close(end)

    def _send_call(self, call: str, **arguments: Any) -> None:
        for logger in self._loggers:
            logger.send_call(call, **arguments)


def read_learning_rate(optimizer: Any) -> float:
    """The learning rate of an optimiser of mmengine, without the factors of single layers."""
    rates = optimizer.get_lr()
    return float((rates.get("base_lr") or rates["lr"])[0])


def _print_warning(line: str) -> None:
    with contextlib.suppress(ProtosegError, OSError):
        print_log(f"{now()}  {line}")
