"""The quantities a table can show: their place in a record, unit and decimals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from protoseg.errors import UsageError, unknown


@dataclass(frozen=True)
class Metric:
    """One quantity of a record."""

    key: str
    title: str
    part: str
    """The part of the record it stands in."""
    unit: str
    decimals: int
    higher_is_better: bool = True


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("miou", "mIoU", "metrics", "%", 2),
        Metric("macc", "mAcc", "metrics", "%", 2),
        Metric("aacc", "aAcc", "metrics", "%", 2),
        Metric("parameters", "Params (M)", "parameters", "millions", 2, False),
        Metric("learnable", "Params (M)", "parameters", "millions", 2, False),
        Metric("seconds", "Time (s)", "cost", "seconds", 0, False),
        Metric("iterations_per_second", "Iterations/s", "cost", "1/s", 2),
        Metric("images_per_second", "Images/s", "cost", "1/s", 1),
        Metric("peak_memory_mib", "Peak memory (MiB)", "cost", "MiB", 0, False),
        Metric("gpu_hours", "GPU-hours", "cost", "h", 2, False),
    )
}
PARAMETERS, LEARNABLE = "parameters", "learnable"
COUNTS = (PARAMETERS, LEARNABLE)
"""Shown in their own way and never as a mean over seeds: both the learnable parameters, with the
numbers held in prototypes in brackets, or with those of the classifier (the paper's Table 4)."""

COSTS = tuple(key for key, metric in METRICS.items() if metric.part == "cost")


def check(names: Sequence[str], where: str) -> None:
    """Refuse a table without metrics, or with one that no record has.

    Raises:
        UsageError: it names ``where`` and the known metrics.
    """
    if not names:
        raise UsageError(f"{where}: name at least one of {', '.join(METRICS)}.")
    for name in names:
        if name not in METRICS:
            raise UsageError(unknown("metric", name, where, METRICS))


def read_number(part: Any, key: str) -> float | None:
    """A finite number in a part of a record; None where it is missing or no number."""
    value = part.get(key) if isinstance(part, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def read_metric(record: dict[str, Any], metric: Metric) -> float | None:
    """The value of a metric in a record, in its unit; None where the record has none."""
    if metric.key in COUNTS:
        learnable = read_number(record["parameters"], "learnable")
        return None if learnable is None else learnable / 1e6
    return read_number(record[metric.part], metric.key)
