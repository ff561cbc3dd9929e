"""Lists the metrics that a table can show, and reads them from records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from protoseg.errors import UsageError, describe_unknown_name


@dataclass(frozen=True)
class Metric:
    """One metric of a record."""

    key: str
    title: str
    part: str
    """The part of the record that contains it."""
    unit: str
    decimals: int
    higher_is_better: bool = True


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("miou", "mIoU", "metrics", "%", 2),
        Metric("miou_present", "mIoU (present)", "metrics", "%", 2),
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
MIOU, MIOU_PRESENT = "miou", "miou_present"
"""The mean over the classes with ground truth or predictions, as in mmseg, and the mean over those
with ground truth. A class that is only predicted has an IoU of 0 in the first."""
QUALITIES = tuple(metric.key for metric in METRICS.values() if metric.part == "metrics")
PARAMETERS, LEARNABLE = "parameters", "learnable"
COUNTS = (PARAMETERS, LEARNABLE)
"""Both are the learnable parameters, never a mean over seeds. In brackets: the numbers stored in
prototypes, or the parameters of the classifier (Table 4 of the paper)."""


def check_metrics(names: Sequence[str], where: str) -> None:
    """Check that a table has metrics, and that all of them exist.

    Args:
        where: position in the config, for the message.

    Raises:
        UsageError: no metric, or an unknown one.
    """
    if not names:
        raise UsageError(f"{where}: name at least one of {', '.join(METRICS)}.")
    for name in names:
        if name not in METRICS:
            raise UsageError(describe_unknown_name("metric", name, where, METRICS))


def read_number(part: Any, key: str) -> float | None:
    """Read a finite number from a part of a record; None if it is missing or not a number."""
    value = part.get(key) if isinstance(part, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def read_metric(record: dict[str, Any], metric: Metric) -> float | None:
    """Read the value of a metric from a record, in its unit; None if the record has none."""
    if metric.key == MIOU_PRESENT:
        present = [iou for iou, pixels in _read_classes(record).values() if pixels > 0]
        return math.fsum(present) / len(present) if present else None
    if metric.key in COUNTS:
        learnable = read_number(record["parameters"], "learnable")
        return None if learnable is None else learnable / 1e6
    return read_number(record[metric.part], metric.key)


def read_averaged_classes(record: dict[str, Any]) -> frozenset[str]:
    """Read the names of the classes that the mIoU of a record averages."""
    return frozenset(_read_classes(record))


def _read_classes(record: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Class -> (IoU in percent, pixels of its ground truth), of the classes with an IoU."""
    classes = {}
    for entry in record["per_class"]:
        iou, name = read_number(entry, "iou"), entry.get("name") if isinstance(entry, dict) else ""
        if iou is not None and isinstance(name, str):
            classes[name] = iou, read_number(entry, "pixels") or 0.0
    return classes
