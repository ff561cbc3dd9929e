"""The submissions of a runs folder, and the states that SLURM adds to those of the run folders.

A run folder shows records, live workers and ended attempts. Only SLURM shows whether a job waits,
and why a job ended whose worker recorded no reason. One query covers all runs without a record and
without a live worker.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from protoseg.errors import ProtosegError
from protoseg.launch.diagnosis import record_ends_before_restart, record_job_end
from protoseg.launch.submission import (
    SUBMISSIONS_FOLDER,
    UNSURE_SECONDS,
    Submission,
    open_submissions,
)
from protoseg.runs import retry
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.states import State
from protoseg.slurm.client import Job, JobReport, SlurmClient
from protoseg.slurm.cluster_info import read_cluster_name


@dataclass(frozen=True)
class Task:
    """One element of a submitted array."""

    submission: Submission
    index: int

    @property
    def key(self) -> str:
        """SLURM's id of the task; empty if the job is not known."""
        return self.submission.key(self.index)

    @property
    def run_id(self) -> str:
        """The run that it trains."""
        return self.submission.run_ids[self.index]

    @property
    def log(self) -> Path:
        """The output file of its batch script."""
        return self.submission.log(self.key)


UNSURE = "being submitted, or its sweep died; the next sweep checks"


class Queue:
    """The submissions of a runs folder, with SLURM's report on their jobs.

    Args:
        runs_folder: folder whose ``.submissions`` are read.
        scheduler: client for SLURM; by default one for this machine's cluster.
    """

    def __init__(self, runs_folder: Path, scheduler: SlurmClient | None = None) -> None:
        self.runs_folder = runs_folder
        self._scheduler = scheduler
        self.tasks: dict[str, list[Task]] = {}
        self.answer: JobReport | None = None
        for submission in open_submissions(runs_folder):
            closed_tasks = submission.closed_tasks()
            for index, run_id in enumerate(submission.run_ids):
                if index not in closed_tasks:
                    # The newest task is first: it decides the state.
                    self.tasks.setdefault(run_id, []).insert(0, Task(submission, index))

    def apply(self, statuses: Mapping[str, Status], *, fresh: bool = False) -> dict[str, Status]:
        """Return the states of runs with SLURM's additions; final ends are recorded.

        Args:
            statuses: run id -> status from folders and records.
            fresh: query SLURM even if there is a recent answer.
        """
        ended: dict[Path, tuple[Submission, dict[int, str]]] = {}
        open_runs: dict[str, list[Task]] = {}
        for run_id, status in statuses.items():
            tasks = self.tasks.get(run_id, [])
            if status.state is State.DONE:
                tasks = self._close_done_tasks(tasks, ended)
            if tasks and status.state is not State.RUNNING:
                open_runs[run_id] = tasks
        keys = [task.key for tasks in open_runs.values() for task in tasks if task.key]
        if keys:
            self.answer = self.scheduler.query_jobs(keys, fresh=fresh)
        result = dict(statuses)
        for run_id, tasks in open_runs.items():
            result[run_id] = self._apply(statuses[run_id], tasks, ended)
        for submission, indices in ended.values():
            with contextlib.suppress(ProtosegError):  # the folder may be read-only for this user
                submission.close_tasks(indices)
        return result

    def _close_done_tasks(
        self, tasks: list[Task], ended: dict[Path, tuple[Submission, dict[int, str]]]
    ) -> list[Task]:
        """Close the tasks of a run with a record; return those whose attempts lack an ending."""
        if not tasks:
            return []
        attempts = RunFolder(self.runs_folder / tasks[0].run_id).attempts()
        open_keys = {each.job for each in attempts if each.job and each.ending is None}
        for task in tasks:
            if task.key not in open_keys:
                _add_ended_task(ended, task, "has its record")
        return [task for task in tasks if task.key in open_keys]

    def _apply(
        self,
        status: Status,
        tasks: list[Task],
        ended: dict[Path, tuple[Submission, dict[int, str]]],
    ) -> Status:
        """Return the state of one run, and add its ended tasks to ``ended``."""
        queued: Status | None = None
        for task in tasks:
            task_status = self._queued_status(task, status)
            folder = RunFolder(self.runs_folder / task.run_id)
            job = self._job(task)
            if task_status is not None:
                queued = queued or task_status
                if job is not None and job.is_waiting and job.restarts:
                    with contextlib.suppress(ProtosegError):
                        record_ends_before_restart(folder, job, self.scheduler.list_starts)
            elif task.key:
                assert self.answer is not None
                # If the disk is full, the next command tries again.
                with contextlib.suppress(ProtosegError):
                    is_recorded = record_job_end(
                        folder,
                        task.key,
                        job,
                        task.log,
                        accounting=self.answer.accounting,
                        past=self.scheduler.list_starts,
                    )
                    if is_recorded:
                        _add_ended_task(ended, task, job.state if job else "unknown to SLURM")
                if status.state is not State.DONE:
                    status = folder.status()
        return status if status.state is State.DONE else queued or status

    def submissions(self, keys: Iterable[str]) -> list[tuple[Submission, list[int]]]:
        """Return this cluster's submissions of some tasks, each with the tasks' indices."""
        wanted = set(keys)
        submissions: dict[Path, tuple[Submission, list[int]]] = {}
        for task in (task for tasks in self.tasks.values() for task in tasks):
            if task.key in wanted and not self.elsewhere(task):
                submission = task.submission
                _, indices = submissions.setdefault(submission.folder, (submission, []))
                indices.append(task.index)
        return list(submissions.values())

    @cached_property
    def cluster(self) -> str:
        """Name of this machine's cluster."""
        return read_cluster_name()

    @cached_property
    def scheduler(self) -> SlurmClient:
        """The client for SLURM, with a cache file for each cluster that shares the runs folder."""
        if self._scheduler is not None:
            return self._scheduler
        # No hyphen in the name: only submission folders have one.
        name = re.sub(r"\W+", "_", f"scheduler {self.cluster}".strip(), flags=re.ASCII)
        return SlurmClient(self.runs_folder / SUBMISSIONS_FOLDER / f"{name}.json")

    def elsewhere(self, task: Task) -> str:
        """Return the cluster of a task if it is not this one; else empty."""
        cluster = str(task.submission.intent.get("cluster") or "")
        return "" if cluster == self.cluster else cluster

    def _job(self, task: Task) -> Job | None:
        """Return the job of a task; a job of another name is another cluster's with this id."""
        job = self.answer.jobs.get(task.key) if self.answer else None
        return None if job and job.name and job.name != task.submission.name else job

    def _has_finished(self, status: Status, task: Task, job: Job) -> bool:
        """Return whether the last attempt ended for good, so that its job will not continue."""
        if retry.is_automatic(status.state, status.reason):
            return False
        # SLURM counts a restart as soon as it requeues a job, even while the job still ends.
        attempts = RunFolder(self.runs_folder / task.run_id).attempts()
        return not attempts or job.restarts <= attempts[-1].restarts

    def _queued_status(self, task: Task, status: Status) -> Status | None:
        """Return the state of a run whose task may still run; None if the task has ended."""
        if not task.key:
            return replace(status, state=State.QUEUED, message=UNSURE)
        answer = self.answer
        if answer is None or not answer.reachable:
            message = "submitted; SLURM does not answer"
            return replace(status, state=State.QUEUED, message=message, job=task.key)
        job = self._job(task)
        if job is None:
            if elsewhere := self.elsewhere(task):
                message = f"submitted on the cluster {elsewhere}; query it there"
                return replace(status, state=State.QUEUED, message=message, job="")
            # SLURM may not show a job yet that it has just accepted.
            is_recent = task.submission.age < UNSURE_SECONDS
            submitted = replace(status, state=State.QUEUED, message="submitted", job=task.key)
            return submitted if is_recent else None
        if job.has_ended:
            return None
        if job.is_active and status.job == task.key and self._has_finished(status, task, job):
            return status  # its worker has ended for good, and the job is about to end
        if job.is_waiting:
            message = "waits" + (f" ({job.why})" if job.why else "")
        else:
            message = f"on {job.node or 'its node'}, starting or ending"
        if status.reason:
            message += f", {status.reason.value} before"
        if job.is_held:
            message += (
                f"; SLURM holds it: run 'scontrol release {job.id}' (some holds need an "
                "administrator), or cancel it and sweep again"
            )
        return replace(status, state=State.QUEUED, message=message, job=job.id, host=job.node)


def _add_ended_task(
    ended: dict[Path, tuple[Submission, dict[int, str]]], task: Task, why: str
) -> None:
    _, indices = ended.setdefault(task.submission.folder, (task.submission, {}))
    indices[task.index] = why
