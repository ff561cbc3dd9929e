"""The client for SLURM's commands: squeue for all jobs, sacct for older ones, then scontrol."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from protoseg.errors import ProtosegError
from protoseg.slurm.cache import Cache
from protoseg.slurm.command import run_command
from protoseg.slurm.jobs import DependentJob, Job, JobReport, array_id, compress_ids, is_job_id
from protoseg.slurm.queries import (
    is_unknown_job,
    query_dependent_jobs,
    query_sacct,
    query_scontrol,
    query_squeue,
    run_sacct,
    run_squeue,
)

__all__ = ["Job", "JobReport", "SlurmClient", "SlurmUnreachable"]

REFRESH_SECONDS = 10.0
"""All processes together send the same query at most once in this time."""
NAME_SEARCH_PERIOD = datetime.timedelta(days=30)
REQUEUED_LATER = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REQUEUED"}
"""States after which SLURM may requeue a job; accounting shows the requeue only at its start."""
MAX_IDS_PER_CANCEL = 500


class SlurmUnreachable(ProtosegError):  # noqa: N818 (named like the other messages for users)
    """SLURM does not answer; try again later."""


class SlurmClient:
    """Queries to SLURM about jobs. Ids are "123_4" for a task of an array, "123" otherwise.

    Args:
        cache: file in which processes share their answers; None shares nothing.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = Cache(cache, REFRESH_SECONDS)

    def query_jobs(self, ids: Collection[str], fresh: bool = False) -> JobReport:
        """Report on jobs, with one squeue and at most one sacct for all of them.

        Never raises if SLURM does not answer; see `JobReport`.

        Args:
            ids: job ids; other text is ignored.
            fresh: query SLURM even if there is a recent answer.
        """
        wanted = frozenset(filter(is_job_id, ids))
        if not wanted:
            return JobReport(reachable=True, accounting=True)
        return self._cache.get(wanted, _query_commands, fresh)

    def find_jobs_by_name(self, name: str) -> tuple[str, ...]:
        """Return the ids ("123") of all users' jobs with exactly this name, oldest first.

        Accounting is searched for the last 30 days.

        Raises:
            SlurmUnreachable: the controller did not answer; the job may exist.
        """
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            return ()
        reply, lines = run_squeue(f"--name={name}")
        if lines is None:
            raise SlurmUnreachable(f"{reply.problem}. Nothing was changed. Try again later.")
        since = datetime.datetime.now(datetime.UTC) - NAME_SEARCH_PERIOD
        start = since.strftime("%Y-%m-%dT%H:%M:%S")
        _, older = run_sacct(f"--name={name}", f"--starttime={start}")
        rows = [line for line in [*lines, *(older or [])] if line["name"] == name]
        rows.sort(key=lambda row: (row["submitted"], int(array_id(row["id"]))))
        return tuple(dict.fromkeys(array_id(row["id"]) for row in rows))

    def list_dependent_jobs(self, name: str) -> list[DependentJob]:
        """List the jobs with exactly this name that wait or run, oldest first.

        Raises:
            SlurmUnreachable: the controller did not answer.
        """
        problem, jobs = query_dependent_jobs(name)
        if problem:
            raise SlurmUnreachable(f"{problem}. Nothing was changed. Try again later.")
        return jobs

    def list_starts(self, id: str) -> list[Job]:
        """List the starts of a job from accounting, oldest first; [] without accounting."""
        return list(query_sacct([id], [id]).jobs.get(id, [])) if is_job_id(id) else []

    def cancel(self, ids: Iterable[str]) -> None:
        """Cancel jobs. Ended and unknown jobs are ignored.

        Raises:
            ProtosegError: SLURM refused or did not answer.
        """
        wanted = compress_ids(_validate_id(id) for id in ids)
        for start in range(0, len(wanted), MAX_IDS_PER_CANCEL):
            reply = run_command(["scancel", *wanted[start : start + MAX_IDS_PER_CANCEL]])
            if not reply.is_ok and not is_unknown_job(reply):
                raise ProtosegError(f"{reply.problem}. Jobs may still run. Cancel again.")

    def requeue(self, id: str) -> None:
        """Stop a job and requeue it; a job that has just ended runs again too.

        Raises:
            ProtosegError: SLURM refused (the job is pending or unknown) or did not answer.
        """
        # No retry: a SIGTERM that ends this command may come from a cancel of the job.
        reply = run_command(["scontrol", "requeue", _validate_id(id)], retries=0)
        if not reply.is_ok:
            raise ProtosegError(f"job {id} was not requeued: {reply.problem}.")


def _validate_id(id: str) -> str:
    if not is_job_id(id):
        raise ProtosegError(f"'{id}' is not a job id. Allowed: ids like 123 or 123_4.")
    return id


def _query_commands(wanted: frozenset[str]) -> JobReport:
    """Run squeue, sacct and scontrol in turn, each for the jobs that are still unknown."""
    queue = query_squeue(wanted)
    jobs = {id: starts[-1] for id, starts in queue.jobs.items()}
    reachable = not queue.problem
    problems = [queue.problem]
    accounting = True
    # Only accounting has the user who cancelled a job.
    unclear = {id for id in wanted if id not in jobs or jobs[id].state == "CANCELLED"}
    if unclear:
        past = query_sacct(set(map(array_id, unclear)), unclear)
        accounting = not past.problem
        problems.append(past.problem)
        for id, starts in past.jobs.items():
            last = starts[-1]
            if id in jobs:
                jobs[id] = replace(jobs[id], by=last.by)
            # A job that the controller has forgotten has ended, even if accounting shows it as
            # running. If the controller is down, a preempted job may already be requeued.
            elif last.has_ended if reachable else last.state not in REQUEUED_LATER:
                jobs[id] = last
    missing = wanted - jobs.keys()
    if missing and not reachable and not queue.is_silent:
        details = query_scontrol(missing)
        reachable = not details.problem
        problems.append(details.problem)
        jobs |= {id: starts[-1] for id, starts in details.jobs.items()}
    return JobReport(jobs, reachable, accounting, "; ".join(dict.fromkeys(filter(None, problems))))
