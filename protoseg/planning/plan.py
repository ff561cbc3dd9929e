"""The plan of a set of matrices: which runs there are, how they stand, what is left to pay."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.config.schema import RunSpec
from protoseg.planning.timings import Timing
from protoseg.planning.workload import Workload, workload_digest, workload_of
from protoseg.runs.folder import Status
from protoseg.runs.states import State


@dataclass(frozen=True)
class PlanEntry:
    """One run, and the matrices that need it."""

    run: PlannedRun
    status: Status
    matrices: tuple[str, ...]
    seconds: float | None
    """What its training will still cost, by its own speed or the records of like runs; None where
    unknown."""
    timing: Timing | None = None
    """What tells the seconds where no record does."""

    @property
    def iterations_left(self) -> int:
        """Of its schedule."""
        done = self.status.state is State.DONE
        return 0 if done else self.run.spec.schedule.iterations - self.status.iteration


@dataclass(frozen=True)
class Plan:
    """Every run once, in the order of the matrices."""

    entries: tuple[PlanEntry, ...]
    listed: int
    """Runs as the tables list them, before those they share are counted once."""
    problems: list[str] = field(default_factory=list)
    """Records that could not be read; such runs are left alone."""

    def counts(self) -> dict[State, int]:
        """Runs in each state, all states named."""
        counted = Counter(entry.status.state for entry in self.entries)
        return {state: counted.get(state, 0) for state in State}

    def left(self) -> list[PlanEntry]:
        """Runs that a sweep would start: new ones and interrupted ones."""
        states = (State.NEW, State.INTERRUPTED)
        return [entry for entry in self.entries if entry.status.state in states]


def make_plan(
    matrices: Sequence[Matrix],
    statuses: Mapping[str, Status],
    records: Callable[[], Iterable[dict[str, Any]]],
    problems: Sequence[str] = (),
) -> Plan:
    """Plan the runs of some matrices.

    Args:
        statuses: run id -> state, for every run of the matrices.
        records: returns records of any runs; called only if a run needs the speed of similar runs.
        problems: messages about records that could not be read.
    """
    planned: dict[str, tuple[PlannedRun, list[str]]] = {}
    for matrix in matrices:
        for run in matrix.runs:
            _, names = planned.setdefault(run.run_id, (run, []))
            names.append(matrix.name)
    rates = measured_rates(statuses[run_id].record for run_id in planned)
    # A finished run, or one that has measured its own speed, needs no record of another run.
    kinds = {
        run_id: workload_of(run.spec)
        for run_id, (run, _) in planned.items()
        if statuses[run_id].state is not State.DONE and not statuses[run_id].iterations_per_second
    }
    if set(kinds.values()) - set(rates):
        rates = measured_rates(records()) | rates
    entries = tuple(
        PlanEntry(
            run=run,
            status=statuses[run_id],
            matrices=tuple(dict.fromkeys(names)),
            seconds=_remaining_seconds(
                run.spec, statuses[run_id], rates.get(kinds.get(run_id, ()))
            ),
        )
        for run_id, (run, names) in planned.items()
    )
    return Plan(entries, sum(len(matrix.runs) for matrix in matrices), list(problems))


def with_timings(plan: Plan, timings: Mapping[str, Timing]) -> Plan:
    """The plan with the seconds of runs that no record is like.

    Args:
        timings: kind -> what an iteration takes.
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
    """Iterations a second of each kind of run, the median over its records."""
    found: dict[Workload, list[float]] = defaultdict(list)
    for record in records:
        if record is not None:
            found[workload_of(record["spec"])].append(record["cost"]["iterations_per_second"])
    return {kind: statistics.median(rates) for kind, rates in found.items()}


def _remaining_seconds(spec: RunSpec, status: Status, like: float | None) -> float | None:
    """``like``: iterations a second of runs of its kind."""
    if status.state is State.DONE:
        return 0.0
    rate = status.iterations_per_second or like
    return (spec.schedule.iterations - status.iteration) / rate if rate else None
