"""The queue: what the scheduler adds to what run folders say.

A run folder knows of records, live workers and ended attempts. It can not know that a job waits, or
why a job ended whose worker had no time to say so. Only runs without a record and without a live
worker are asked about, all in one question.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from protoseg.errors import ProtosegError
from protoseg.launch.diagnosis import record_job_end
from protoseg.launch.submission import FOLDER, UNSURE_SECONDS, Submission, open_submissions
from protoseg.runs import retry
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.states import State
from protoseg.slurm.client import Job, JobReport, SlurmClient
from protoseg.slurm.cluster_info import cluster_name


@dataclass(frozen=True)
class Task:
    """One element of a submitted array."""

    submission: Submission
    index: int

    @property
    def key(self) -> str:
        """The scheduler's key, empty where the job is not known."""
        return self.submission.key(self.index)

    @property
    def log(self) -> Path:
        """What its batch script prints."""
        return self.submission.log(self.key)


UNSURE = "being submitted, or its submitter died; the next sweep finds out"


class Queue:
    """The submissions of a runs folder, and what the scheduler says of them.

    Args:
        runs_folder: its ``.submissions`` are read.
        scheduler: who is asked; by default the one of this machine.
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
                    # The newest first: it is the one that counts.
                    self.tasks.setdefault(run_id, []).insert(0, Task(submission, index))

    def apply(self, statuses: Mapping[str, Status], *, fresh: bool = False) -> dict[str, Status]:
        """The states of runs with what the scheduler knows, written down where it is final.

        Args:
            statuses: by run id, from folders and records.
            fresh: ask again even if the last answer is a few seconds old.
        """
        open_runs = {
            run_id: self.tasks[run_id]
            for run_id, status in statuses.items()
            if run_id in self.tasks and status.state not in (State.DONE, State.RUNNING)
        }
        keys = [task.key for tasks in open_runs.values() for task in tasks if task.key]
        if keys:
            self.answer = self.scheduler.ask(keys, fresh=fresh)
        result = dict(statuses)
        ended: dict[Path, tuple[Submission, dict[int, str]]] = {}
        for run_id, status in statuses.items():
            if status.state is State.DONE:
                for task in self.tasks.get(run_id, []):
                    _end(ended, task, "has its record")
        for run_id, tasks in open_runs.items():
            result[run_id] = self._apply(statuses[run_id], tasks, ended)
        for submission, indices in ended.values():
            with contextlib.suppress(ProtosegError):  # somebody else's folder: looked at, not kept
                submission.close_tasks(indices)
        return result

    def _apply(
        self,
        status: Status,
        tasks: list[Task],
        ended: dict[Path, tuple[Submission, dict[int, str]]],
    ) -> Status:
        """The state of one run; the tasks of it that have ended are put on the list."""
        waiting: Status | None = None
        for task in tasks:
            found = self._queued(task, status)
            if found is not None:
                waiting = waiting or found
            elif task.key:
                folder = RunFolder(self.runs_folder / task.submission.run_ids[task.index])
                assert self.answer is not None
                job = self._job(task)
                # On a full disk it is tried again by whoever looks next.
                with contextlib.suppress(ProtosegError):
                    record_job_end(
                        folder,
                        task.key,
                        job,
                        task.log,
                        accounting=self.answer.accounting,
                        past=self.scheduler.starts,
                    )
                    _end(ended, task, job.state if job else "unknown to the scheduler")
                status = folder.status()
        return waiting or status

    def submissions(self, keys: Iterable[str]) -> list[tuple[Submission, list[int]]]:
        """The submissions on this cluster that some tasks belong to, with the tasks' indices."""
        wanted = set(keys)
        found: dict[Path, tuple[Submission, list[int]]] = {}
        for task in (task for tasks in self.tasks.values() for task in tasks):
            if task.key in wanted and not self.elsewhere(task):
                place = found.setdefault(task.submission.folder, (task.submission, []))
                place[1].append(task.index)
        return list(found.values())

    @cached_property
    def here(self) -> str:
        """The cluster that is asked."""
        return cluster_name()

    @cached_property
    def scheduler(self) -> SlurmClient:
        """Who is asked; each cluster that shares the runs folder keeps its answers apart."""
        if self._scheduler is not None:
            return self._scheduler
        # Without a hyphen, by which submissions are told from what lies beside them.
        name = re.sub(r"\W+", "_", f"scheduler {self.here}".strip(), flags=re.ASCII)
        return SlurmClient(self.runs_folder / FOLDER / f"{name}.json")

    def elsewhere(self, task: Task) -> str:
        """The cluster of a task if it is another one, whose jobs are not known here; or empty."""
        cluster = str(task.submission.intent.get("cluster") or "")
        return "" if cluster == self.here else cluster

    def _job(self, task: Task) -> Job | None:
        """The job of a task; another cluster, or a scheduler set up anew, counts from 1 too."""
        job = self.answer.jobs.get(task.key) if self.answer else None
        return None if job and job.name and job.name != task.submission.name else job

    def _over(self, status: Status, task: Task, job: Job) -> bool:
        """Whether the last attempt ended in a way after which its own job does not go on."""
        if retry.is_automatic(status.state, status.reason):
            return False
        # SLURM counts a restart as soon as it has put a job that still ends back into the queue.
        attempts = RunFolder(self.runs_folder / task.submission.run_ids[task.index]).attempts()
        return not attempts or job.restarts <= attempts[-1].restarts

    def _queued(self, task: Task, status: Status) -> Status | None:
        """The state of a run whose task may still run; None where it has ended."""
        if not task.key:
            return replace(status, state=State.QUEUED, message=UNSURE)
        answer = self.answer
        if answer is None or not answer.reachable:
            message = "submitted; the scheduler does not answer"
            return replace(status, state=State.QUEUED, message=message, job=task.key)
        job = self._job(task)
        if job is None:
            if elsewhere := self.elsewhere(task):
                message = f"submitted on the cluster {elsewhere}, which is not asked from here"
                return replace(status, state=State.QUEUED, message=message, job="")
            # It may not show a job that it took a moment ago.
            young = task.submission.age < UNSURE_SECONDS
            submitted = replace(status, state=State.QUEUED, message="submitted", job=task.key)
            return submitted if young else None
        if job.ended:
            return None
        if job.active and status.job == task.key and self._over(status, task, job):
            return status  # its worker is gone for good, the job only has to notice
        if job.waiting:
            message = "waits" + (f" ({job.why})" if job.why else "")
        else:
            message = f"on {job.node or 'its node'}, starting or ending"
        before = f", {status.reason.value} before" if status.reason else ""
        return replace(
            status, state=State.QUEUED, message=message + before, job=job.id, host=job.node
        )


def _end(ended: dict[Path, tuple[Submission, dict[int, str]]], task: Task, why: str) -> None:
    _, indices = ended.setdefault(task.submission.folder, (task.submission, {}))
    indices[task.index] = why
