"""Lists the metrics that a table can show, and reads them from records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from protoseg.config.hierarchy.table_trees import (
    LEVEL_METRICS,
    LEVELS,
    MISTAKE_DISTANCE,
    name_level_metric,
    needs_tree,
)
from protoseg.errors import UsageError, find_nearest_name


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


LEVEL_PART = "levels"
"""The part that `protoseg.report.level_metrics.with_levels` adds to a record."""
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
        Metric(MISTAKE_DISTANCE, "Mistake distance", LEVEL_PART, "edges", 3, False),
    )
}
METRICS |= {
    key: Metric(key, f"{METRICS[name].title}, level {level}", LEVEL_PART, "%", 2)
    for level in LEVELS
    for name in LEVEL_METRICS
    for key in [name_level_metric(name, level)]
}
UNRECORDED = "not in the record"
LACK, AVERAGED = "lack", "averaged"
"""Keys of the part of levels: why it has no values, and level -> the groups that mIoU averages."""
MIOU, MIOU_PRESENT = "miou", "miou_present"
"""The mean over the classes with ground truth or predictions, as in mmseg, and the mean over those
with ground truth. A class that is only predicted has an IoU of 0 in the first."""
QUALITIES = tuple(m.key for m in METRICS.values() if m.part in ("metrics", LEVEL_PART))
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
        raise UsageError(f"{where}: name at least one of {list_names(METRICS)}.")
    for name in names:
        if name not in METRICS:
            raise UsageError(describe_unknown_metric(name, where, METRICS))


def list_names(allowed: Iterable[str]) -> str:
    """List the names of metrics for a message; those of levels in short."""
    allowed = list(allowed)
    short = ", ".join(name for name in allowed if not needs_tree(name))
    if not any(map(needs_tree, allowed)):
        return short
    first, last = (name_level_metric(MIOU, level) for level in (LEVELS[0], LEVELS[-1]))
    return (
        f"{short}; with a tree of classes {MISTAKE_DISTANCE}, and {', '.join(LEVEL_METRICS)} on a "
        f"level, as {first} to {last}"
    )


def describe_unknown_metric(name: str, where: str, allowed: Iterable[str]) -> str:
    """Make the message for an unknown metric.

    Args:
        name: the unknown name.
        where: position in the config.
        allowed: names of metrics.
    """
    allowed = sorted(allowed)
    base, _, level = name.partition("@")
    guess = base if level == "1" and base in allowed else find_nearest_name(name, allowed)
    hint = f" Did you mean '{guess}'?" if guess else ""
    return f"{where}: unknown metric '{name}'.{hint} Known: {list_names(allowed)}."


def read_number(part: Any, key: str) -> float | None:
    """Read a finite number from a part of a record; None if it is missing or not a number."""
    value = part.get(key) if isinstance(part, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def read_metric(record: dict[str, Any], metric: Metric) -> float | None:
    """Read the value of a metric from a record, in its unit; None if the record has none.

    Only a record of a store `protoseg.report.level_metrics.with_levels` has metrics of levels.
    """
    if metric.key == MIOU_PRESENT:
        present = [iou for iou, pixels in _read_classes(record).values() if pixels > 0]
        return math.fsum(present) / len(present) if present else None
    if metric.key in COUNTS:
        learnable = read_number(record["parameters"], "learnable")
        return None if learnable is None else learnable / 1e6
    return read_number(record.get(metric.part), metric.key)


def describe_lack(record: dict[str, Any], metric: Metric) -> str:
    """Describe why a record has no value of a metric, as the status of a cell."""
    levels = record.get(LEVEL_PART, {}) if metric.part == LEVEL_PART else {}
    if LACK in levels:
        return str(levels[LACK])
    return "no mistakes" if levels and metric.key == MISTAKE_DISTANCE else UNRECORDED


def read_averaged_classes(record: dict[str, Any], level: int = 1) -> frozenset[str]:
    """Read the names of the classes, or groups of a level, that the mIoU of a record averages."""
    if level == 1:
        return frozenset(_read_classes(record))
    averaged = record.get(LEVEL_PART, {}).get(AVERAGED, {})
    return frozenset(averaged.get(level, ()))


def list_read_metrics(record: dict[str, Any]) -> Iterable[Metric]:
    """List the metrics that a record can have."""
    return (m for m in METRICS.values() if m.part != LEVEL_PART or LEVEL_PART in record)


def _read_classes(record: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Class -> (IoU in percent, pixels of its ground truth), of the classes with an IoU."""
    classes = {}
    for entry in record["per_class"]:
        iou, name = read_number(entry, "iou"), entry.get("name") if isinstance(entry, dict) else ""
        if iou is not None and isinstance(name, str):
            classes[name] = iou, read_number(entry, "pixels") or 0.0
    return classes
