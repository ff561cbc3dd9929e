"""The time, GPU-hours and storage of planned runs, in sentences and as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from protoseg.planning.cost import STORAGE_RULE, CostEstimate
from protoseg.planning.plan import PlanEntry
from protoseg.planning.timings import Timing


def format_duration(seconds: float | None) -> str:
    """A duration in a readable unit: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def count_runs(number: int) -> str:
    """``1 run``, ``9 runs``."""
    return "1 run" if number == 1 else f"{number} runs"


def sum_seconds(entries: Iterable[PlanEntry]) -> float | None:
    """Seconds left to train, over runs; None if those of one are unknown."""
    known = [entry.seconds for entry in entries]
    return None if any(s is None for s in known) else sum(s for s in known if s is not None)


def describe_training_time(left: Sequence[PlanEntry], where: str) -> str:
    """How long the unfinished runs take, by records and timings, in sentences.

    Args:
        left: the unfinished runs.
        where: where and how they are trained, as a part of a sentence.
    """
    seconds = sum_seconds(left)
    known = [entry.seconds for entry in left if entry.seconds is not None]
    text = f"To train: {count_runs(len(left))}, {where}. "
    timed = [entry for entry in left if entry.timing]
    if timed:
        recorded = [e for e in left if e.seconds is not None and not e.timing]
        parts = [(recorded, "records of similar runs"), (timed, "timings")]
        known_by = " and ".join(
            f"{format_duration(sum_seconds(entries))} by {source} ({count_runs(len(entries))})"
            for entries, source in parts
            if entries
        )
        return text + f"Training time: {known_by}{_describe_unknown(len(left) - len(known))}."
    if seconds is not None:
        return (
            text + f"Training time by records of similar runs: {format_duration(seconds)} in all."
        )
    if known:
        takes = format_duration(sum(known)) + _describe_unknown(len(left) - len(known))
        return text + f"Known training time: {takes}."
    return text + "Training time unknown: no similar run has a record yet."


def describe_cost(cost: CostEstimate) -> Iterator[str]:
    """GPU-hours and storage in sentences."""
    hours, storage, timed = cost.gpu_hours, cost.storage, cost.timed
    unknown = _describe_unknown(hours.unknown)
    if timed.known:
        recorded = f"{hours.value - timed.value:.1f} by records of similar runs and "
        yield (
            f"GPU-hours: {recorded if hours.known > timed.known else ''}{timed.value:.1f} by "
            f"timings ({count_runs(timed.known)}), each run on one GPU{unknown}."
        )
    elif hours.known:
        yield f"GPU-hours by records of similar runs: {hours.value:.1f}{unknown}."
    else:
        yield "GPU-hours unknown: no similar run has a record made on a GPU."
    if storage.known:
        rest = _describe_unknown(storage.unknown)
        yield f"Storage at the end: about {_format_bytes(storage.value)}{rest} ({STORAGE_RULE})."
    else:
        yield "Storage unknown: no record or published table has the parameters of such a model."


def _describe_unknown(runs: int) -> str:
    return f"; {count_runs(runs)} unknown" if runs else ""


def describe_timings(timings: Iterable[Timing]) -> Iterator[str]:
    """How the timings were measured."""
    devices: dict[str, set[Timing]] = {}
    for timing in timings:
        devices.setdefault(timing.device, set()).add(timing)
    for device, of_device in devices.items():
        numbers = sorted({timing.iterations for timing in of_device})
        iterations = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        workloads = f"{len(of_device)} workload{'s' * (len(of_device) > 1)}"
        yield (
            f"Timings: {workloads} on {device}, the median of {iterations} iterations each, on "
            "synthetic crops: without reading images and without evaluation."
        )


def _format_bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def cost_to_dict(cost: CostEstimate) -> dict[str, Any]:
    """A cost as plain data: the known part, and the number of runs without a known cost."""
    return {
        "gpu_hours": cost.gpu_hours.value if cost.gpu_hours.known else None,
        "gpu_hours_unknown_runs": cost.gpu_hours.unknown,
        "gpu_hours_by_timings": cost.timed.value if cost.timed.known else None,
        "gpu_hours_timed_runs": cost.timed.known,
        "storage_bytes": cost.storage.value if cost.storage.known else None,
        "storage_unknown_runs": cost.storage.unknown,
    }
