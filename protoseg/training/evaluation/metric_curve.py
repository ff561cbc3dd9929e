"""The metrics of a run during its training: one point every ``evaluation.every`` iterations.

An evaluation on the way changes nothing in the training: the model predicts in evaluation mode, and
the states of all random generators are restored. A run with it has the same weights as without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from protoseg.training.rng import get_random_state, set_random_state

Metrics = tuple[dict[str, Any], list[dict[str, Any]]]
"""Overall metrics and metrics of each class, as `protoseg.training.evaluation.evaluate` gives."""


class MetricCurve:
    """Evaluates a model during its training and collects the metrics.

    Args:
        every: iterations between two evaluations; 0 for none.
        iterations: of the run. Its last evaluation is not made here, but added with `add_point`.
        evaluate: evaluates the model.
    """

    def __init__(
        self, every: int = 0, iterations: int = 0, evaluate: Callable[[], Metrics] | None = None
    ) -> None:
        self.every = every
        self.iterations = iterations
        self.points: list[dict[str, Any]] = []
        """One for each evaluation, as `add_point` makes them; the ``curve`` of the record."""
        self.seconds = 0.0
        """Time of the evaluations on the way, over all attempts that contributed to this run."""
        self.last_seconds = 0.0
        """Time of the last one."""
        self._evaluate = evaluate
        self._loss, self._count = 0.0, 0

    @property
    def best(self) -> dict[str, Any] | None:
        """The point with the highest mIoU, the first of equal ones; None without a point."""
        return max(self.points, key=lambda point: point["miou"], default=None)

    def is_due(self, iteration: int) -> bool:
        """Whether an evaluation on the way is due after ``iteration`` and not made yet."""
        if not self.every or iteration % self.every or not 0 < iteration < self.iterations:
            return False
        return not self.points or self.points[-1]["iteration"] < iteration

    def add_loss(self, loss: float | None) -> None:
        """Add the total loss of an iteration to the mean of the next point."""
        if self.every and loss is not None:
            self._loss += loss
            self._count += 1

    def evaluate(self, iteration: int, model: Any) -> None:
        """Evaluate the model and add a point; all processes call this.

        Args:
            iteration: number of finished iterations.
            model: in training mode before and after.

        Raises:
            StopRequested: a process received a signal; there is no new point.
            ClaimLost: another worker took the run over.
        """
        assert self._evaluate is not None
        start, state = time.perf_counter(), get_random_state()
        try:
            overall, per_class = self._evaluate()
        finally:
            model.train()
            # The iterator of the loader has drawn a seed from torch's generator.
            set_random_state(state)
        self.last_seconds = time.perf_counter() - start
        self.seconds += self.last_seconds
        self.add_point(iteration, overall, per_class)

    def add_point(
        self, iteration: int, overall: dict[str, Any], per_class: Sequence[dict[str, Any]]
    ) -> None:
        """Add the metrics of an evaluation, all in percent but the loss.

        A point has ``iteration``, ``miou``, ``macc``, ``aacc``; ``miou_present``, the mean over the
        classes with ground truth; ``iou``, one value for each class in class order, None where it
        is undefined; and ``loss``, the mean of the training loss since the point before.
        """
        present = [entry["iou"] for entry in per_class if entry["pixels"]]
        point = {
            "iteration": iteration,
            **{name: overall[name] for name in ("miou", "macc", "aacc")},
            "miou_present": sum(present) / len(present) if present else 0.0,
            "iou": [entry["iou"] for entry in per_class],
            "loss": self._loss / self._count if self._count else None,
        }
        self.points.append(point)
        self._loss, self._count = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {
            "points": self.points,
            "seconds": self.seconds,
            "loss": self._loss,
            "count": self._count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.points, self.seconds = state["points"], state["seconds"]
        self._loss, self._count = state["loss"], state["count"]
