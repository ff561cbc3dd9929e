"""The plan of a set of matrices: which runs there are, how they stand, what is left to pay."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protoseg.dispatch.kinds import Kind, kind_digest, kind_of
from protoseg.dispatch.submission import FOLDER
from protoseg.dispatch.timings import Timing
from protoseg.errors import ProtosegError
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.record import read_record
from protoseg.runs.states import State
from protoseg.spec.matrix import Matrix, PlannedRun
from protoseg.spec.schema import RunSpec


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
    runs_folder: Path,
    record_folders: Sequence[Path],
    *,
    fresh: bool = False,
) -> Plan:
    """Read the state of every run of some matrices.

    A run is done if its folder holds a valid record, or one of ``record_folders`` does. The
    scheduler is asked about runs that were submitted to it and are neither done nor under way.

    Args:
        fresh: ask the scheduler even if its last answer is only seconds old.
    """
    needed: dict[str, tuple[PlannedRun, list[str]]] = {}
    for matrix in matrices:
        for run in matrix.runs:
            _, names = needed.setdefault(run.run_id, (run, []))
            names.append(matrix.name)
    problems: list[str] = []
    states = {run_id: status_of(run_id, runs_folder, record_folders, problems) for run_id in needed}
    if (runs_folder / FOLDER).is_dir():
        # Imported here: most people look at runs that no scheduler knows of.
        from protoseg.dispatch.queue import Queue

        states = Queue(runs_folder).apply(states, fresh=fresh)
    rates = measured_rates([status.record for status in states.values()])
    # A run that is done, or that has told its own speed, needs no record of another.
    kinds = {
        run_id: kind_of(run.spec)
        for run_id, (run, _) in needed.items()
        if states[run_id].state is not State.DONE and not states[run_id].iterations_per_second
    }
    if set(kinds.values()) - set(rates):
        # Like runs of other matrices tell the price too.
        rates = measured_rates(all_records(record_folders)) | rates
    entries = tuple(
        PlanEntry(
            run=run,
            status=states[run_id],
            matrices=tuple(dict.fromkeys(names)),
            seconds=_remaining_seconds(run.spec, states[run_id], rates.get(kinds.get(run_id, ()))),
        )
        for run_id, (run, names) in needed.items()
    )
    return Plan(entries, sum(len(matrix.runs) for matrix in matrices), problems)


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
            and (timing := timings.get(kind_digest(entry.run.spec)))
        ):
            seconds = timing.seconds * entry.iterations_left
            entries[index] = dataclasses.replace(entry, seconds=seconds, timing=timing)
    return dataclasses.replace(plan, entries=tuple(entries))


def status_of(
    run_id: str, runs_folder: Path, record_folders: Sequence[Path], problems: list[str]
) -> Status:
    """The state of a run from its folder and the committed records."""
    status = RunFolder(runs_folder / run_id).status()
    if status.state is State.FAILED and status.reason is None:
        problems.append(status.message)
    if status.state is State.DONE:
        return status
    for folder in record_folders:
        path = folder / f"{run_id}.json"
        try:
            record = read_record(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ProtosegError, OSError) as error:
            message = str(error)
            if isinstance(error, OSError):
                message = f"{path}: can not be read: {error.strerror or error}."
            problems.append(message)
            return Status(State.FAILED, message=message)
        if record["run_id"] != run_id:
            message = f"{path}: is the record of {record['run_id']}."
            problems.append(message)
            return Status(State.FAILED, message=message)
        return Status(State.DONE, attempts=record["attempts"], record=record)
    return status


def all_records(record_folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Every record of some folders that can be read."""
    for folder in record_folders:
        for path in sorted(folder.glob("*.json")):
            with contextlib.suppress(ProtosegError, OSError):
                yield read_record(path)


def measured_rates(records: Iterable[dict[str, Any] | None]) -> dict[Kind, float]:
    """Iterations a second of each kind of run, the median over its records."""
    found: dict[Kind, list[float]] = defaultdict(list)
    for record in records:
        if record is not None:
            found[kind_of(record["spec"])].append(record["cost"]["iterations_per_second"])
    return {kind: statistics.median(rates) for kind, rates in found.items()}


def _remaining_seconds(spec: RunSpec, status: Status, like: float | None) -> float | None:
    """``like``: iterations a second of runs of its kind."""
    if status.state is State.DONE:
        return 0.0
    rate = status.iterations_per_second or like
    return (spec.schedule.iterations - status.iteration) / rate if rate else None
