"""What a logger is: a class with four methods, called in a process of the logger.

A worker starts one process for each logger (`protoseg.loggers.process`), so a logger can neither
change, nor slow down, nor end a training. docs/your_logger.md has an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from protoseg import files


@dataclass(frozen=True)
class RunInfo:
    """The run that a logger logs."""

    run_id: str
    """A readable name and the first digits of the digest of the spec."""
    folder: Path
    """The run folder; a logger may write files of its name below it."""
    spec: dict[str, Any]
    """The spec as plain data: the config of the run."""
    iterations: int
    """Number of iterations of the whole training."""
    start: int = 0
    """Iterations that are trained already, above 0 for a resumed run. Points of later iterations
    are logged again, if an earlier attempt was killed after it had logged them."""
    attempt: int = 1
    """Number of the attempt, from 1."""


class Logger(Protocol):
    """Receives the values of one run.

    An exception in any method turns this logger off until the attempt ends; the training continues
    and its log has one line about it.
    """

    def start(self, run: RunInfo) -> None:
        """Open the run; called once, before all other methods. Import other packages here."""

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log values of the training.

        Args:
            iteration: number of finished iterations.
            values: ``loss`` and its terms, means over the iterations since the last call;
                ``learning_rate``; ``iterations_per_second``.
        """

    def log_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Log an evaluation, on the way or at the end.

        Args:
            iteration: number of finished iterations.
            metrics: ``miou``, ``macc`` and ``aacc`` in percent.
        """

    def finish(self, reason: str) -> None:
        """Close the run; called once.

        Args:
            reason: ``done``, or why the attempt ended, for instance ``preempted``
                (`protoseg.runs.states.Reason`). ``lost``: the worker was killed.
        """


class LoggedPoints:
    """Which points a service has received, for services that cannot remove a point.

    The state is a JSON file, so that a resumed run does not log a point twice.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = files.read_json(path)
        self.state: dict[str, Any] = content if isinstance(content, dict) else {}

    def add_point(self, name: str, iteration: int) -> bool:
        """Add a point; False if it was added before, in this or an earlier attempt.

        Args:
            name: of the series, whose points come in ascending order.
            iteration: of the point.
        """
        last = self.state.get(name)
        if isinstance(last, int) and iteration <= last:
            return False
        self.set_value(name, iteration)
        return True

    def set_value(self, name: str, value: Any) -> None:
        """Keep a value, also for later attempts.

        Raises:
            protoseg.files.StorageError: the file cannot be written.
        """
        self.state[name] = value
        files.write_json(self.path, self.state, durable=False)
