"""What the rest of a plan costs: GPU-hours by records or timings, storage by a formula."""

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
from protoseg.planning.workload import Workload, workload_digest, workload_of

CHECKPOINTS = 2
"""A run folder keeps the newest two."""
BYTES = 4
STATES = {"AdamW": 2, "SGD": 1}
"""Numbers an optimiser holds beside each parameter: two moments, or one momentum."""

STORAGE_RULE = (
    "two checkpoints a run: 4 bytes × (parameters × 3 with AdamW, × 2 with SGD, and the numbers in "
    "prototypes and in the memory of pixel contrast); records and counts are small beside them"
)


@dataclass(frozen=True)
class Sum:
    """A sum over the runs for which it is known."""

    value: float
    known: int
    """Runs that it covers."""
    unknown: int


NOTHING = Sum(0.0, 0, 0)
NO_TIMINGS: Mapping[str, Timing] = {}


@dataclass(frozen=True)
class CostEstimate:
    """Of the runs that a sweep would start."""

    gpu_hours: Sum
    """By records and by timings."""
    storage: Sum
    """Bytes in the run folders at the end."""
    timed: Sum = NOTHING
    """What timings add to the GPU-hours."""
    timings: tuple[Timing, ...] = ()
    """Those."""


def estimate_cost(
    plan: Plan,
    records: Iterable[Mapping[str, Any]],
    parameters: Mapping[Workload, float],
    timings: Mapping[str, Timing] = NO_TIMINGS,
) -> CostEstimate:
    """The price of what is left of a plan.

    Args:
        records: of any runs; those whose model and data are like those of a run tell its price.
        parameters: model (`model_of`) -> its parameters as the literature prints them, for models
            that no record has yet.
        timings: kind -> what an iteration takes on a GPU, where no record made on one tells it.
    """
    left = plan.left()
    if not left:  # and no record is read
        return CostEstimate(NOTHING, NOTHING)
    records = [*records, *(e.status.record for e in plan.entries if e.status.record)]
    hours = _hours_an_iteration(records)
    # What was counted in a record wins over what is printed.
    counted = {model_of(r["spec"]): float(r["parameters"]["learnable"]) for r in records}
    sizes = {**parameters, **counted}
    by_records = [_gpu_hours(entry, hours) for entry in left]
    used = [
        timings.get(workload_digest(entry.run.spec)) if timings and told is None else None
        for entry, told in zip(left, by_records, strict=True)
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
    """One run of each kind whose cost neither a record nor a timing on that device tells.

    On a GPU that is a record made on one.
    """
    hours = _hours_an_iteration(records) if device.gpu else {}
    timed = {timing.kind for timing in timings if timing.device == device.name}
    found: dict[str, RunSpec] = {}
    for entry in plan.left():
        spec = entry.run.spec
        if entry.seconds is None if not device.gpu else workload_of(spec) not in hours:
            found.setdefault(workload_digest(spec), spec)
    return [spec for kind, spec in found.items() if kind not in timed]


def _sum(values: Iterable[float | None]) -> Sum:
    found = list(values)
    known = [value for value in found if value is not None]
    return Sum(sum(known), len(known), len(found) - len(known))


def _hours_an_iteration(records: Iterable[Mapping[str, Any]]) -> dict[Workload, float]:
    """GPU-hours of an iteration of each kind of run, the median; a CPU's record tells nothing."""
    found: dict[Workload, list[float]] = defaultdict(list)
    for record in records:
        hours = record["cost"].get("gpu_hours")
        if hours:
            iterations = record["spec"]["schedule"]["iterations"]
            found[workload_of(record["spec"])].append(hours / iterations)
    return {kind: statistics.median(rates) for kind, rates in found.items()}


def _gpu_hours(entry: PlanEntry, hours: Mapping[Workload, float]) -> float | None:
    rate = hours.get(workload_of(entry.run.spec))
    return None if rate is None else rate * entry.iterations_left


def model_of(spec: Any) -> Workload:
    """What the number of learnable parameters depends on; of a spec or the same as plain data."""
    parts = spec if isinstance(spec, dict) else vars(spec)
    backbone, decoder, method, dataset = (
        part if isinstance(part, dict) else vars(part)
        for part in (parts[key] for key in ("backbone", "decoder", "method", "dataset"))
    )
    # Of ProtoSeg's K none is learned; any other method's are.
    many = 0 if method["kind"] == "prototype" else method.get("num_prototypes", 0)
    projection = method.get("projection", False)
    names = (backbone["name"], decoder["name"], decoder["channels"], method["kind"])
    return *names, len(dataset["classes"]), many, projection


def _bytes(run: PlannedRun, sizes: Mapping[Workload, float]) -> float | None:
    size, spec = sizes.get(model_of(run.spec)), run.spec
    if size is None:
        return None
    classes, held = len(spec.dataset.classes), 0
    if spec.method.kind == "prototype":
        prototypes: int = getattr(spec.method, "num_prototypes", 0)
        held += prototypes * classes * spec.decoder.channels
    if spec.contrast.weight:
        queues = spec.contrast.pixel_queue + spec.contrast.region_queue
        held += classes * queues * spec.contrast.channels
    return CHECKPOINTS * BYTES * (size * (1 + STATES[spec.schedule.optimizer]) + held)
