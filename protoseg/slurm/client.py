"""Asking the scheduler: squeue for all jobs at once, sacct for those it forgot, then scontrol."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from protoseg.errors import ProtosegError
from protoseg.slurm.cache import Cache
from protoseg.slurm.command import call
from protoseg.slurm.jobs import Job, JobReport, array_id, compress, is_id
from protoseg.slurm.queries import (
    ask_sacct,
    ask_squeue,
    sacct,
    scontrol,
    squeue,
    unknown_job,
)

__all__ = ["Job", "JobReport", "SlurmClient", "SlurmUnreachable"]

REFRESH_SECONDS = 10.0
"""The same question is asked at most once in this time, by all processes together."""
LOOK_BACK = datetime.timedelta(days=30)
REQUEUED_LATER = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REQUEUED"}
"""Ends after which SLURM puts a job back into the queue; accounting hears of that at its start."""
CANCEL_AT_ONCE = 500


class SlurmUnreachable(ProtosegError):  # noqa: N818  as the other sentences for people
    """Nobody could be asked; try again later."""


class SlurmClient:
    """Questions to SLURM about jobs. Ids are "123_4" for a task of an array, "123" otherwise."""

    def __init__(self, cache: Path | None = None) -> None:
        """``cache``: a file that processes share so that they ask together; None asks alone."""
        self._cache = Cache(cache, REFRESH_SECONDS)

    def ask(self, ids: Collection[str], fresh: bool = False) -> JobReport:
        """What is known of jobs, in one squeue and at most one sacct for all of them.

        It never raises for a scheduler that does not answer; see `JobReport`.

        Args:
            ids: what is no id is left out.
            fresh: ask now, whatever was answered a moment ago.
        """
        wanted = frozenset(filter(is_id, ids))
        if not wanted:
            return JobReport(reachable=True, accounting=True)
        return self._cache.get(wanted, _ask, fresh)

    def named(self, name: str) -> tuple[str, ...]:
        """Ids ("123") of the jobs with exactly this name, of all users, oldest first.

        Accounting is searched for the last 30 days.

        Raises:
            SchedulerSilent: the controller did not answer; the job may well exist.
        """
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            return ()
        reply, lines = ask_squeue(f"--name={name}")
        if lines is None:
            raise SlurmUnreachable(f"{reply.problem}. Nothing was changed; try again later.")
        since = datetime.datetime.now(datetime.UTC) - LOOK_BACK
        start = since.strftime("%Y-%m-%dT%H:%M:%S")
        _, older = ask_sacct(f"--name={name}", f"--starttime={start}")
        found = [line for line in [*lines, *(older or [])] if line["name"] == name]
        found.sort(key=lambda line: (line["submitted"], int(array_id(line["id"]))))
        return tuple(dict.fromkeys(array_id(line["id"]) for line in found))

    def starts(self, id: str) -> list[Job]:
        """How a job ended each time, from accounting, oldest first; [] where there is none."""
        return list(sacct([id], [id]).jobs.get(id, [])) if is_id(id) else []

    def cancel(self, ids: Iterable[str]) -> None:
        """Cancel jobs. Those that have ended, or that nobody knows, are no error.

        Raises:
            ProtosegError: SLURM refused or was silent.
        """
        wanted = compress(_checked(id) for id in ids)
        for start in range(0, len(wanted), CANCEL_AT_ONCE):
            reply = call(["scancel", *wanted[start : start + CANCEL_AT_ONCE]])
            if not reply.fine and not unknown_job(reply):
                raise ProtosegError(f"{reply.problem}. Jobs may still run; cancel again.")

    def requeue(self, id: str) -> None:
        """Stop a job and put it back into the queue; one that ended a moment ago runs again too.

        Raises:
            ProtosegError: SLURM refused (the job waits already, or is not known) or was silent.
        """
        # Once: a SIGTERM that ends it may be the one that cancels the job.
        reply = call(["scontrol", "requeue", _checked(id)], again=0)
        if not reply.fine:
            raise ProtosegError(f"job {id} was not requeued: {reply.problem}.")


def _checked(id: str) -> str:
    if not is_id(id):
        raise ProtosegError(f"'{id}' is no job id; job ids look like 123 or 123_4.")
    return id


def _ask(wanted: frozenset[str]) -> JobReport:
    """The three commands in turn, each for what those before it did not know."""
    queue = squeue(wanted)
    jobs = {id: starts[-1] for id, starts in queue.jobs.items()}
    reachable = not queue.problem
    problems = [queue.problem]
    accounting = True
    # Who cancelled a job is known to accounting alone.
    unclear = {id for id in wanted if id not in jobs or jobs[id].state == "CANCELLED"}
    if unclear:
        past = sacct(set(map(array_id, unclear)), unclear)
        accounting = not past.problem
        problems.append(past.problem)
        for id, starts in past.jobs.items():
            last = starts[-1]
            if id in jobs:
                jobs[id] = replace(jobs[id], by=last.by)
            # What the controller forgot has ended, whatever accounting still believes. And while
            # it is silent, a preempted job may long wait in its queue again.
            elif last.ended if reachable else last.state not in REQUEUED_LATER:
                jobs[id] = last
    missing = wanted - jobs.keys()
    if missing and not reachable and not queue.silent:
        shown = scontrol(missing)
        reachable = not shown.problem
        problems.append(shown.problem)
        jobs |= {id: starts[-1] for id, starts in shown.jobs.items()}
    return JobReport(jobs, reachable, accounting, "; ".join(dict.fromkeys(filter(None, problems))))
