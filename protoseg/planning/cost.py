"""The cost of the runs left in a plan: GPU-hours from records or timings, storage by formula."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protoseg.config.matrix import PlannedRun
from protoseg.config.schema import RunSpec
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.planning.timings import Device, Timing
from protoseg.planning.workload import (
    Workload,
    has_prototypes,
    make_model_key,
    workload_digest,
    workload_of,
)

CHECKPOINTS = 2
"""Kept in a run folder: the newest two."""
BYTES = 4
"""Per number, in float32."""
ONE_STATE = ("SGD", "ASGD", "Adagrad", "Adafactor", "RMSprop")
"""Optimisers that hold one number for each parameter, e.g. a momentum; the others hold two."""

STORAGE_RULE = (
    "two checkpoints a run: 4 bytes × (parameters × 3 with AdamW, × 2 with SGD, one more with "
    "schedule.ema, and the numbers in prototypes and in the memory of pixel contrast); with "
    "evaluation.every also the best model: "
    "4 bytes × (parameters, prototypes and memory); records and counts are negligible"
)


@dataclass(frozen=True)
class PartialSum:
    """A sum over the runs whose value is known."""

    value: float
    known: int
    """Runs in the sum."""
    unknown: int
    """Runs without a value."""


NOTHING = PartialSum(0.0, 0, 0)
NO_TIMINGS: Mapping[str, Timing] = {}


@dataclass(frozen=True)
class CostEstimate:
    """The cost of the runs that a sweep would start."""

    gpu_hours: PartialSum
    """From records and from timings."""
    storage: PartialSum
    """Bytes in the run folders at the end."""
    timed: PartialSum = NOTHING
    """The part of the GPU-hours that comes from timings."""
    timings: tuple[Timing, ...] = ()
    """The timings in that part."""


def estimate_cost(
    plan: Plan,
    records: Iterable[Mapping[str, Any]],
    parameters: Mapping[Workload, float],
    timings: Mapping[str, Timing] = NO_TIMINGS,
) -> CostEstimate:
    """Estimate the cost of the runs left in a plan.

    Args:
        records: of any runs; a record gives the cost of runs with the same workload.
        parameters: model (`make_model_key`) -> its number of parameters as published, for models
            without a record.
        timings: digest of a workload -> its timing on a GPU, used without a record from a GPU.
    """
    left = plan.left()
    if not left:  # no record needs to be read
        return CostEstimate(NOTHING, NOTHING)
    records = [*records, *(e.status.record for e in plan.entries if e.status.record)]
    hours = _hours_per_iteration(records)
    # The count in a record wins over the published one.
    counted = {make_model_key(r["spec"]): float(r["parameters"]["learnable"]) for r in records}
    sizes = {**parameters, **counted}
    by_records = [_gpu_hours(entry, hours) for entry in left]
    used = [
        timings.get(workload_digest(entry.run.spec)) if timings and estimate is None else None
        for entry, estimate in zip(left, by_records, strict=True)
    ]
    by_timings = [
        None if timing is None else timing.seconds / 3600 * entry.iterations_left
        for entry, timing in zip(left, used, strict=True)
    ]
    return CostEstimate(
        _sum(a if b is None else b for a, b in zip(by_records, by_timings, strict=True)),
        _sum(_bytes(entry.run, sizes) for entry in left),
        _sum(hours for hours in by_timings if hours is not None),
        tuple(dict.fromkeys(timing for timing in used if timing is not None)),
    )


def workloads_to_time(
    plan: Plan, records: Iterable[Mapping[str, Any]], timings: Iterable[Timing], device: Device
) -> list[RunSpec]:
    """Select one run of each workload that has neither a record nor a timing on this device.

    On a GPU, only records made on a GPU count.

    Returns:
        The specs of the runs to time.
    """
    hours = _hours_per_iteration(records) if device.gpu else {}
    timed = {timing.kind for timing in timings if timing.device == device.name}
    unknown: dict[str, RunSpec] = {}
    for entry in plan.left():
        spec = entry.run.spec
        if entry.seconds is None if not device.gpu else workload_of(spec) not in hours:
            unknown.setdefault(workload_digest(spec), spec)
    return [spec for digest, spec in unknown.items() if digest not in timed]


def _sum(values: Iterable[float | None]) -> PartialSum:
    listed = list(values)
    known = [value for value in listed if value is not None]
    return PartialSum(sum(known), len(known), len(listed) - len(known))


def _hours_per_iteration(records: Iterable[Mapping[str, Any]]) -> dict[Workload, float]:
    """Median GPU-hours per iteration of each workload; records made on a CPU have none."""
    hours_by_workload: dict[Workload, list[float]] = defaultdict(list)
    for record in records:
        hours = record["cost"].get("gpu_hours")
        if hours:
            schedule = record["spec"]["schedule"]
            iterations = schedule.get("stop_after") or schedule["iterations"]
            hours_by_workload[workload_of(record["spec"])].append(hours / iterations)
    return {load: statistics.median(values) for load, values in hours_by_workload.items()}


def _gpu_hours(entry: PlanEntry, hours: Mapping[Workload, float]) -> float | None:
    rate = hours.get(workload_of(entry.run.spec))
    return None if rate is None else rate * entry.iterations_left


def _bytes(run: PlannedRun, sizes: Mapping[Workload, float]) -> float | None:
    """Bytes of a run's checkpoints (`STORAGE_RULE`); None for a model of unknown size."""
    size, spec = sizes.get(make_model_key(run.spec)), run.spec
    if size is None:
        return None
    classes, buffers = len(spec.dataset.classes), 0
    if has_prototypes(spec.method.kind):
        prototypes: int = getattr(spec.method, "num_prototypes", 0)
        buffers += prototypes * classes * spec.decoder.channels
    if spec.contrast.weight:
        queues = spec.contrast.pixel_queue + spec.contrast.region_queue
        buffers += classes * queues * spec.contrast.channels
    states = 1 if spec.schedule.optimizer in ONE_STATE else 2
    copies = 1 + states + bool(spec.schedule.ema.momentum)
    checkpoints = CHECKPOINTS * BYTES * (size * copies + buffers)
    return checkpoints + (BYTES * (size + buffers) if spec.evaluation.every else 0)
