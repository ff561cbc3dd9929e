"""The losses and metrics of a run so far, also while it trains; for sparklines and pages.

A running run keeps them in ``progress.json``, a finished one in its record. Nothing else is read,
so this is quick for many runs, and needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from protoseg import files
from protoseg.runs.folder import RunFolder, Status

Points = tuple[tuple[int, float], ...]
"""(iteration, value), in ascending order."""


@dataclass(frozen=True)
class LossHistory:
    """The curves of one run."""

    losses: Points = ()
    """Total loss, the mean since the previous point; at most 200 points, about 1% of the training
    apart."""
    metrics: Points = ()
    """mIoU in percent: of evaluations on the way, the last 100 of a run that is not finished, and
    of the one at the end."""


def read_loss_history(folder: RunFolder, status: Status) -> LossHistory:
    """Read the curves of a run.

    Args:
        folder: the run folder, which may be missing or damaged.
        status: of the run; its record is used if it has one.

    Returns:
        The curves; empty where there is no point yet.
    """
    if status.record is not None:
        return _read_record(status.record)
    progress = files.read_json(folder.progress)
    if not isinstance(progress, dict):
        return LossHistory()
    losses, metrics = progress.get("losses"), progress.get("evaluations")
    return LossHistory(tuple(_list_valid(losses)), tuple(_list_valid(metrics)))


def _read_record(record: dict[str, Any]) -> LossHistory:
    losses = [
        (iteration, means.get("loss"))
        for iteration, means in record.get("losses") or ()
        if isinstance(means, dict)
    ]
    metrics = [(point["iteration"], point["miou"]) for point in record.get("curve") or ()]
    schedule = record["spec"].get("schedule", {})
    end = schedule.get("stop_after") or schedule.get("iterations")
    if not metrics and end:
        metrics = [(end, record["metrics"]["miou"])]
    return LossHistory(tuple(_list_valid(losses)), tuple(_list_valid(metrics)))


def _list_valid(points: Any) -> Iterator[tuple[int, float]]:
    """The points of a list that may be damaged: it is only displayed."""
    for point in points if isinstance(points, Iterable) else ():
        match point:
            case [int(iteration), int(value) | float(value)] if math.isfinite(value):
                yield iteration, float(value)
