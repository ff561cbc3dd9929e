"""The queue: what the scheduler adds to what run folders say.

A run folder knows of records, live workers and ended attempts. It can not know that a job waits, or
why a job ended whose worker had no time to say so. Only runs without a record and without a live
worker are asked about, all in one question.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from protoseg.dispatch.submission import FOLDER, UNSURE_SECONDS, Submission, open_submissions
from protoseg.errors import ProtosegError
from protoseg.runs import atomic, claim
from protoseg.runs.attempt import Attempt
from protoseg.runs.folder import RunFolder, Status, now
from protoseg.runs.states import ON_REQUEST, Reason, State
from protoseg.scheduler.query import Answer, Job, Scheduler
from protoseg.scheduler.reasons import reason_of


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
VANISHED = "the worker vanished without a word"


class Queue:
    """The submissions of a runs folder, and what the scheduler says of them.

    Args:
        runs_folder: its ``.submissions`` are read.
        scheduler: who is asked; by default the one of this machine.
    """

    def __init__(self, runs_folder: Path, scheduler: Scheduler | None = None) -> None:
        self.runs_folder = runs_folder
        self.scheduler = scheduler or Scheduler(runs_folder / FOLDER / "scheduler.json")
        self.tasks: dict[str, list[Task]] = {}
        self.answer: Answer | None = None
        for submission in open_submissions(runs_folder):
            settled = submission.settled()
            for index, run_id in enumerate(submission.run_ids):
                if index not in settled:
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
                submission.settle(indices)
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
                job = self.answer.jobs.get(task.key)
                with contextlib.suppress(ProtosegError):
                    settle(folder, task.key, job, task.log)
                _end(ended, task, job.state if job else "unknown to the scheduler")
                status = folder.status()
        return waiting or status

    def _queued(self, task: Task, status: Status) -> Status | None:
        """The state of a run whose task may still run; None where it has ended."""
        if not task.key:
            return replace(status, state=State.QUEUED, message=UNSURE)
        answer = self.answer
        if answer is None or not answer.reachable:
            message = "submitted; the scheduler does not answer"
            return replace(status, state=State.QUEUED, message=message, job=task.key)
        job = answer.jobs.get(task.key)
        if job is None:
            # It may not show a job that it took a moment ago.
            young = task.submission.age < UNSURE_SECONDS
            submitted = replace(status, state=State.QUEUED, message="submitted", job=task.key)
            return submitted if young else None
        if job.ended:
            return None
        if job.active and status.job == task.key and _over(status):
            return status  # its worker is gone for good, the job only has to notice
        if job.waiting:
            message = "waits" + (f" ({job.why})" if job.why else "")
        else:
            message = f"on {job.node or 'its node'}, starting or ending"
        before = f", {status.reason.value} before" if status.reason else ""
        return replace(
            status, state=State.QUEUED, message=message + before, job=job.id, host=job.node
        )


def _over(status: Status) -> bool:
    """Whether the last attempt ended in a way after which its own job does not go on."""
    return status.state is State.FAILED or status.reason in ON_REQUEST


def _end(ended: dict[Path, tuple[Submission, dict[int, str]]], task: Task, why: str) -> None:
    _, indices = ended.setdefault(task.submission.folder, (task.submission, {}))
    indices[task.index] = why


def settle(folder: RunFolder, key: str, job: Job | None, log: Path | None = None) -> None:
    """Write down how a job ended that the run folder says nothing final about.

    Args:
        folder: of the run.
        key: of the job.
        job: what the scheduler says of it; None where it knows nothing.
        log: what its batch script printed, if that was kept.

    Raises:
        ProtosegError: the folder can not be written.
    """
    if folder.status().state is State.DONE or claim.live_holder(folder.claim) is not None:
        return
    said = reason_of(job) if job else None
    source = job.source if job else "scheduler"
    mine = [attempt for attempt in folder.attempts() if attempt.job == key]
    if mine:
        last = mine[-1]
        reason, message = said or (Reason.LOST, VANISHED)
        news = last.ending is None or (said is not None and reason is not Reason.LOST)
        if news and _open_to_judgement(last, job):
            folder.judge(last.number, reason, message, source)
        return
    if job is not None and said is None:
        return  # it ended well without training: another worker had the run
    reason, message = said or (Reason.LOST, "the job vanished before its worker began")
    if reason is Reason.LOST and log is not None:
        message = last_line(log) or message
    note_unbegun(folder, key, job.node if job else "", reason, message, source)


def _open_to_judgement(attempt: Attempt, job: Job | None) -> bool:
    """Whether the scheduler may know better than what is on disk about an attempt's end.

    A worker that was sent SIGTERM calls it a preemption if it could not ask.
    """
    if attempt.verdict is not None:
        return False
    if attempt.end is None:
        return True
    # A job that was requeued and then cancelled while it waited ended after this attempt did.
    ran = job is not None and "" < job.start <= str(attempt.end.get("time", ""))
    return ran and attempt.reason is Reason.PREEMPTED


def note_unbegun(
    folder: RunFolder,
    key: str,
    node: str,
    reason: Reason,
    message: str,
    source: str,
    restarts: int = 0,
) -> None:
    """Count a job as an attempt that ended before its worker could begin one.

    Args:
        restarts: how often the job had been requeued.

    Raises:
        ProtosegError: the folder can not be written.
    """
    atomic.make_folder(folder.path)
    held = claim.acquire(folder.claim, job=key)
    if held is None:
        return
    try:
        start = {
            "time": now(),
            "host": node,
            "node": node,
            "pid": 0,
            "job": key,
            "restarts": restarts,
            "iteration": folder.checkpoint_iteration(),
        }
        path = folder.start_attempt(start)
        folder.judge(int(path.name), reason, message, source)
    finally:
        held.release()


def last_line(log: Path) -> str:
    """The last line of a text that is not empty, at most its last 300 characters."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return text.strip().rpartition("\n")[2].strip()[-300:]
