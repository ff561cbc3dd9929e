"""Asking the scheduler: squeue for all jobs at once, sacct for those it forgot, then scontrol."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from protoseg.errors import ProtosegError
from protoseg.scheduler.cache import Cache
from protoseg.scheduler.call import Reply, call, installed
from protoseg.scheduler.jobs import (
    MARK,
    SEPARATOR,
    Answer,
    Job,
    array_id,
    base_state,
    expand,
    is_id,
    known,
    moment,
    rows,
)

__all__ = ["Answer", "Job", "Scheduler", "SchedulerSilent"]

REFRESH_SECONDS = 10.0
"""The same question is asked at most once in this time, by all processes together."""
CHUNK = 5000
"""Array ids on one command line: 5,000 of them are half of what Linux allows one argument."""
SCONTROL_LIMIT = 16
"""Arrays asked for with scontrol, which takes one at a time."""


class SchedulerSilent(ProtosegError):  # noqa: N818  as the other sentences for people
    """Nobody could be asked; try again later."""


class Scheduler:
    """Questions to SLURM about jobs. Ids are "123_4" for a task of an array, "123" otherwise."""

    def __init__(self, cache: Path | None = None) -> None:
        """``cache``: a file that processes share so that they ask together; None asks alone."""
        self._cache = Cache(cache, REFRESH_SECONDS)

    def ask(self, ids: Collection[str], fresh: bool = False) -> Answer:
        """What is known of jobs, in one squeue and at most one sacct for all of them.

        It never raises for a scheduler that does not answer; see `Answer`.

        Args:
            ids: what is no id is left out.
            fresh: ask now, whatever was answered a moment ago.
        """
        wanted = frozenset(i for i in ids if is_id(i))
        if not wanted:
            return Answer(reachable=installed("squeue"), accounting=installed("sacct"))
        return self._cache.get(wanted, _ask, fresh)

    def named(self, name: str, since: datetime.datetime | None = None) -> tuple[str, ...]:
        """Ids ("123") of the jobs with exactly this name, of all users, oldest first.

        Args:
            since: sacct looks no further back than this; 30 days without it.

        Raises:
            SchedulerSilent: the controller did not answer.
        """
        return _named(name, since)

    def incarnations(self, id: str) -> list[Job]:
        """How a job ended each time, from accounting, oldest first; [] where there is none."""
        if not is_id(id):
            return []
        found, _ = _sacct([id], {id})
        return found.get(id, [])

    def cancel(self, ids: Iterable[str]) -> None:
        """Cancel jobs; those that ended already are no error.

        Raises:
            ProtosegError: SLURM refused or was silent.
        """
        wanted = [_checked(i) for i in ids]
        for start in range(0, len(wanted), 1000):
            reply = call(["scancel", *wanted[start : start + 1000]])
            if not reply.fine and not _unknown_job(reply):
                raise ProtosegError(f"{reply.problem}. Nothing else was changed; try again.")

    def requeue(self, id: str) -> None:
        """Put a job back into the queue.

        Raises:
            ProtosegError: SLURM refused or was silent.
        """
        reply = call(["scontrol", "requeue", _checked(id)])
        if not reply.fine:
            raise ProtosegError(f"job {id}: {reply.problem}.")


def _checked(id: str) -> str:
    if not is_id(id):
        raise ProtosegError(f"'{id}' is no job id; job ids look like 123 or 123_4.")
    return id


def _ask(wanted: frozenset[str]) -> Answer:
    jobs, reachable, problem = _squeue(wanted)
    problems = [problem]
    accounting = True
    missing = wanted - jobs.keys()
    if missing:
        found, problem = _sacct(sorted(set(map(array_id, missing))), missing)
        accounting = not problem
        problems.append(problem)
        for id, incarnations in found.items():
            last = incarnations[-1]
            # The controller forgot it: what accounting believes to be alive is not.
            if last.ended or not reachable:
                jobs[id] = last
    missing = wanted - jobs.keys()
    if missing and not reachable:
        shown, reachable, problem = _scontrol(missing)
        problems.append(problem)
        jobs |= shown
    return Answer(jobs, reachable, accounting, "; ".join(dict.fromkeys(filter(None, problems))))


def _squeue(wanted: frozenset[str]) -> tuple[dict[str, Job], bool, str]:
    """The jobs found, whether the controller answered, and else why not."""
    jobs: dict[str, Job] = {}
    arrays = sorted(set(map(array_id, wanted)))
    for start in range(0, len(arrays), CHUNK):
        reply = call(_squeue_command("--jobs=" + ",".join(arrays[start : start + CHUNK])))
        lines = rows(reply.out, len(SQUEUE_FIELDS) + 1, MARK)
        if reply.fine and not lines:
            return jobs, False, "squeue: prints something else than what it is asked for"
        if not reply.fine and not _unknown_job(reply):
            return jobs, False, reply.problem
        for line in lines[1:]:
            for id in expand(line[1].strip(), wanted):
                if id in wanted:
                    jobs[id] = _from_squeue(id, line)
    return jobs, True, ""


SQUEUE_FIELDS = ("i", "T", "N", "S", "e", "V", "r", "j")


def _squeue_command(selection: str) -> list[str]:
    fields = (MARK, *(f"%{field}" for field in SQUEUE_FIELDS))
    # --all: partitions may be hidden. All states: for some minutes it knows what has ended too.
    return ["squeue", "--all", "--array", "--states=all", selection,
            "--format=" + SEPARATOR.join(fields)]  # fmt: skip


def _from_squeue(id: str, line: list[str]) -> Job:
    _, _, state, node, start, end, submitted, why, name = line
    return Job(
        id=id,
        state=base_state(state)[0],
        why=known(why),
        node=known(node),
        submitted=moment(submitted),
        start=moment(start),
        end=moment(end),
        name=name,
        source="squeue",
    )


def _unknown_job(reply: Reply) -> bool:
    return "Invalid job id" in reply.problem


SACCT_FIELDS = ("JobID", "State", "ExitCode", "NodeList", "Submit", "Start", "End", "JobName")


def _sacct(ids: list[str], wanted: Collection[str]) -> tuple[dict[str, list[Job]], str]:
    """Every incarnation of jobs, oldest first, and why accounting could not be asked."""
    found: dict[str, list[Job]] = {}
    for start in range(0, len(ids), CHUNK):
        reply = call(_sacct_command("--jobs=" + ",".join(ids[start : start + CHUNK])))
        lines = rows(reply.out, len(SACCT_FIELDS))
        if not reply.fine:
            return found, reply.problem
        if not lines:
            return found, "sacct: prints something else than what it is asked for"
        for line in lines[1:]:
            for id in expand(line[0].strip(), wanted):
                if id in wanted:
                    found.setdefault(id, []).append(_from_sacct(id, line))
    for id, jobs in found.items():
        jobs.sort(key=lambda job: job.submitted)
        found[id] = [replace(job, restarts=n) for n, job in enumerate(jobs)]
    return found, ""


def _sacct_command(*selection: str) -> list[str]:
    return ["sacct", "--allocations", "--duplicates", "--parsable2", f"--delimiter={SEPARATOR}",
            "--format=" + ",".join(SACCT_FIELDS), *selection]  # fmt: skip


def _from_sacct(id: str, line: list[str]) -> Job:
    _, state, exit_code, node, submitted, start, end, name = line
    word, by = base_state(state)
    return Job(
        id=id,
        state=word,
        node=known(node),
        exit_code=exit_code,
        submitted=moment(submitted),
        start=moment(start),
        end=moment(end),
        name=name,
        by=by,
        source="sacct",
    )


def _scontrol(wanted: Collection[str]) -> tuple[dict[str, Job], bool, str]:
    """The jobs found, whether everything was asked and answered, and else why not."""
    jobs: dict[str, Job] = {}
    arrays = sorted(set(map(array_id, wanted)))
    for array in arrays[:SCONTROL_LIMIT]:
        reply = call(["scontrol", "--all", "--oneliner", "show", "job", array])
        if not reply.fine and not _unknown_job(reply):
            return jobs, False, reply.problem
        for id, job in shown(reply.out, wanted):
            jobs[id] = job
    return jobs, len(arrays) <= SCONTROL_LIMIT, ""


def shown(out: str, wanted: Collection[str]) -> Iterator[tuple[str, Job]]:
    """The wanted jobs in the output of ``scontrol --oneliner show job``."""
    for line in out.split("\n"):
        if not line.startswith("JobId="):
            continue
        values = fields(line)
        id = values["JobId"]
        if "ArrayTaskId" in values:
            task = values["ArrayTaskId"]
            id = values["ArrayJobId"] + "_" + (task if task.isdigit() else f"[{task}]")
        for each in expand(id, wanted):
            if each in wanted:
                yield each, _from_scontrol(each, values)


def fields(line: str) -> dict[str, str]:
    """The ``Key=value`` pairs of a line; of a key that stands twice the first counts."""
    found: dict[str, str] = {}
    for match in re.finditer(r"(?:^| )([A-Za-z][A-Za-z:/]*)=(\S*)", line):
        found.setdefault(match[1], match[2])
    return found


def _from_scontrol(id: str, values: dict[str, str]) -> Job:
    return Job(
        id=id,
        state=base_state(values.get("JobState", ""))[0],
        why=known(values.get("Reason", "")),
        node=known(values.get("NodeList", "")),
        restarts=int(values.get("Restarts", "0") or 0),
        exit_code=values.get("ExitCode", ""),
        submitted=moment(values.get("SubmitTime", "")),
        start=moment(values.get("StartTime", "")),
        end=moment(values.get("EndTime", "")),
        name=known(values.get("JobName", "")),
        source="scontrol",
    )


def _named(name: str, since: datetime.datetime | None) -> tuple[str, ...]:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        return ()
    reply = call(_squeue_command(f"--name={name}"))
    lines = rows(reply.out, len(SQUEUE_FIELDS) + 1, MARK)
    if not lines:
        raise SchedulerSilent(reply.problem or "squeue: prints something else than asked for")
    found = [(moment(line[6]), line[1]) for line in lines[1:] if line[8].strip() == name]
    since = since or datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30)
    start = since.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    reply = call(_sacct_command(f"--name={name}", f"--starttime={start}", "--allusers"))
    if reply.fine:
        lines = rows(reply.out, len(SACCT_FIELDS))[1:]
        found += [(moment(line[4]), line[0]) for line in lines if line[7].strip() == name]
    return tuple(dict.fromkeys(array_id(id) for _, id in sorted(found)))
