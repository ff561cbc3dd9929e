"""The plan of some matrices: their runs, the state of each, and the time left to train."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.planning.timings import Timing
from protoseg.planning.workload import (
    Workload,
    evaluation_workload_of,
    workload_digest,
    workload_of,
)
from protoseg.runs.folder import Status
from protoseg.runs.retry import is_due
from protoseg.runs.states import State


@dataclass(frozen=True)
class PlanEntry:
    """One run, and the matrices that need it."""

    run: PlannedRun
    status: Status
    matrices: tuple[str, ...]
    seconds: float | None
    """Left to train, from its own speed or from records of the same workload; None if unknown.
    Evaluations on the way are included if a record or the run itself has measured one."""
    timing: Timing | None = None
    """The source of ``seconds`` if there is no such record."""

    @property
    def iterations_left(self) -> int:
        """Iterations of its schedule that are not trained yet."""
        done = self.status.state is State.DONE
        trained = _count_trained(self.run, self.status)
        return 0 if done else self.run.spec.schedule.last_iteration - trained


@dataclass(frozen=True)
class Plan:
    """Each run once, in the order of the matrices."""

    entries: tuple[PlanEntry, ...]
    listed: int
    """Runs as the matrices list them: a shared run counts once for each matrix."""
    problems: list[str] = field(default_factory=list)
    """Messages about damaged or conflicting records; a sweep skips such runs."""

    def counts(self) -> dict[State, int]:
        """Count the runs in each state; every state is a key."""
        counted = Counter(entry.status.state for entry in self.entries)
        return {state: counted.get(state, 0) for state in State}

    def left(self) -> list[PlanEntry]:
        """List the runs that a sweep would start."""
        return [
            entry
            for entry in self.entries
            if is_due(entry.status.state, entry.status.reason, retry_failed=False)
        ]


def make_plan(
    matrices: Sequence[Matrix],
    statuses: Mapping[str, Status],
    records: Callable[[], Iterable[dict[str, Any]]],
    problems: Sequence[str] = (),
) -> Plan:
    """Plan the runs of some matrices.

    Args:
        statuses: run id -> state, for every run of the matrices.
        records: returns records of any runs; called only if a run needs the speed of another run
            of its workload.
        problems: messages about damaged or conflicting records.
    """
    planned: dict[str, tuple[PlannedRun, list[str]]] = {}
    for matrix in matrices:
        for run in matrix.runs:
            _, names = planned.setdefault(run.run_id, (run, []))
            names.append(matrix.name)
    rates = measured_rates(statuses[run_id].record for run_id in planned)
    # A finished run, or one that has measured its own speed, needs no record of another run.
    workloads = {
        run_id: workload_of(run.spec)
        for run_id, (run, _) in planned.items()
        if statuses[run_id].state is not State.DONE and not statuses[run_id].iterations_per_second
    }
    if set(workloads.values()) - set(rates):
        rates = measured_rates(records()) | rates
    evaluations: dict[Workload, float] = {}
    if any(run.spec.evaluation.every for run, _ in planned.values()):
        finished = (record for run_id in planned if (record := statuses[run_id].record))
        evaluations = measured_evaluations(itertools.chain(records(), finished))
    entries = tuple(
        PlanEntry(
            run=run,
            status=statuses[run_id],
            matrices=tuple(dict.fromkeys(names)),
            seconds=_remaining_seconds(
                run, statuses[run_id], rates.get(workloads.get(run_id, ())), evaluations
            ),
        )
        for run_id, (run, names) in planned.items()
    )
    return Plan(entries, sum(len(matrix.runs) for matrix in matrices), list(problems))


def with_timings(plan: Plan, timings: Mapping[str, Timing]) -> Plan:
    """Return the plan with the seconds of runs whose workload has a timing but no record.

    Args:
        timings: digest of a workload -> its timing.
    """
    entries = list(plan.entries)
    for index, entry in enumerate(entries):
        if (
            timings
            and entry.seconds is None
            and (timing := timings.get(workload_digest(entry.run.spec)))
        ):
            seconds = timing.seconds * entry.iterations_left
            entries[index] = dataclasses.replace(entry, seconds=seconds, timing=timing)
    return dataclasses.replace(plan, entries=tuple(entries))


def measured_rates(records: Iterable[dict[str, Any] | None]) -> dict[Workload, float]:
    """Return the iterations per second of each workload, the median over its records."""
    rates: dict[Workload, list[float]] = defaultdict(list)
    for record in records:
        if record is not None:
            rates[workload_of(record["spec"])].append(record["cost"]["iterations_per_second"])
    return {workload: statistics.median(values) for workload, values in rates.items()}


def measured_evaluations(records: Iterable[dict[str, Any]]) -> dict[Workload, float]:
    """Return the seconds of an evaluation by `evaluation_workload_of`, the median over records."""
    seconds: dict[Workload, list[float]] = defaultdict(list)
    for record in records:
        if record["cost"].get("evaluation_seconds"):
            seconds[evaluation_workload_of(record["spec"])].append(
                record["cost"]["evaluation_seconds"]
            )
    return {workload: statistics.median(values) for workload, values in seconds.items()}


def _count_trained(run: PlannedRun, status: Status) -> int:
    """Iterations that the run, or the one that it continues, has trained."""
    return max(status.iteration, run.start)


def _remaining_seconds(
    run: PlannedRun,
    status: Status,
    workload_rate: float | None,
    evaluations: Mapping[Workload, float],
) -> float | None:
    """Seconds left to train; None without a rate.

    Args:
        workload_rate: iterations per second of other runs of its workload.
        evaluations: `measured_evaluations` of other runs.
    """
    if status.state is State.DONE:
        return 0.0
    rate = status.iterations_per_second or workload_rate
    if not rate:
        return None
    spec, trained = run.spec, _count_trained(run, status)
    seconds = (spec.schedule.last_iteration - trained) / rate
    every = spec.evaluation.every
    if every:
        number = (spec.schedule.last_iteration - 1) // every - trained // every
        takes = status.evaluation.get("seconds") or evaluations.get(evaluation_workload_of(spec))
        seconds += max(0, number) * (takes or 0.0)
    return seconds
