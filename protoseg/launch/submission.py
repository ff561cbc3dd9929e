"""Submissions: a record of each job array on disk, written before sbatch is called.

RUNS/.submissions/<time>-<nonce>/
    launch.json      settings of the workers (`protoseg.runs.folder.Launch`)
    runs.jsonl       one line per run in the order of the array: its id and its spec
    intent.json      name, profile, resources, launch settings, user and time; before sbatch
    job.json         SLURM's number of the array; written after sbatch, or by the first task
    withdrawn.json   not accepted, or withdrawn; tasks that start later exit at once
    settled.json     tasks that need no more queries, and why; can be rebuilt
    script.sh, logs/

A sweep may die between sbatch and its answer. The name of the job contains the nonce of the intent:
the next sweep queries SLURM for this name, and either finds the job or withdraws the intent. The
claim in the run folder decides who trains a run, not the submission.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.config.identity import run_id_pattern
from protoseg.errors import ProtosegError
from protoseg.runs.folder import now

SUBMISSIONS_FOLDER = ".submissions"
JOB_ID = re.compile(r"[0-9]+")
CANCELLED_BY = "cancelled by"
"""Start of the reason of a task that a user cancelled before it started."""
UNSURE_SECONDS = 60.0
"""Longest time that an sbatch of a killed sweep may take to reach the controller."""


@dataclass(frozen=True)
class Submission:
    """One job array and the runs that its tasks train."""

    folder: Path
    intent: dict[str, Any]
    _cached: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of the job, unique to this submission."""
        return str(self.intent["name"])

    @property
    def run_ids(self) -> list[str]:
        """Run id of each task of the array."""
        ids: list[str] = self.intent["runs"]
        return ids

    @property
    def runs_folder(self) -> Path:
        """Parent of the run folders."""
        return self.folder.parent.parent

    @property
    def age(self) -> float:
        """Seconds since the intent was written."""
        return time.time() - float(self.intent["clock"])

    @property
    def job_id(self) -> str:
        """SLURM's number of the array; empty if it is not known yet."""
        if "job" not in self._cached:
            content = files.read_json(self.folder / "job.json")
            job_id = str(content.get("job", "")) if isinstance(content, dict) else ""
            if not JOB_ID.fullmatch(job_id):
                return ""
            self._cached["job"] = job_id
        return self._cached["job"]

    @property
    def is_withdrawn(self) -> bool:
        """Whether its tasks must exit without training."""
        return (self.folder / "withdrawn.json").exists()

    def key(self, index: int) -> str:
        """Return SLURM's id of a task, ``123_4``; empty if the job is not known."""
        return f"{self.job_id}_{index}" if self.job_id else ""

    def log(self, key: str) -> Path:
        """Return the output file of a task's batch script."""
        return self.folder / "logs" / f"{key}.txt"

    def note_job(self, job_id: str) -> None:
        """Record the job number, unless it is recorded already."""
        content = {"job": job_id, "time": now()}
        files.create_json(self.folder / "job.json", content)

    def withdraw(self, why: str) -> None:
        """Withdraw the submission: none of its tasks trains."""
        files.create_json(self.folder / "withdrawn.json", {"why": why, "time": now()})

    def closed_tasks(self) -> dict[int, str]:
        """Return index -> reason of the tasks that need no more queries."""
        content = files.read_json(self.folder / "settled.json")
        if not isinstance(content, dict):
            return {}
        return {int(index): str(why) for index, why in content.items() if index.isdigit()}

    def close_tasks(self, tasks: dict[int, str]) -> None:
        """Add tasks (index -> reason) that need no more queries."""
        merged = {**self.closed_tasks(), **tasks}
        content = {str(index): merged[index] for index in sorted(merged)}
        files.write_json(self.folder / "settled.json", content)

    def spec(self, index: int) -> dict[str, Any]:
        """Return the spec of a task's run as plain data.

        Raises:
            ProtosegError: the list of runs is incomplete.
        """
        path = self.folder / "runs.jsonl"
        try:
            with open(path, encoding="utf-8") as lines:
                line = next(text for number, text in enumerate(lines) if number == index)
            entry = json.loads(line)
            if entry["run_id"] != self.run_ids[index]:
                raise ValueError
            spec: dict[str, Any] = entry["spec"]
        except (OSError, StopIteration, ValueError, KeyError, IndexError, TypeError) as error:
            raise ProtosegError(
                f"{path}: has no valid run for task {index}. Cancel the job and run the sweep "
                "again."
            ) from error
        return spec


def job_name(matrix: str, nonce: str) -> str:
    """Return the name of a job, with only letters, digits and ``_ . -``."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", matrix).strip("-")[:40] or "runs"
    return f"{slug}.{nonce}"


def get_user_name() -> str:
    """Return the login name of the current user, or the user number without one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def write_intent(
    runs_folder: Path, matrix: str, runs: Sequence[tuple[str, dict[str, Any]]], **settings: Any
) -> Submission:
    """Write the files of a submission before sbatch is called.

    Args:
        runs_folder: parent of the run folders.
        matrix: name of the matrix, for the job's name.
        runs: (run id, spec) of each task.
        settings: settings for the tasks: nodes, processes, cpus, requeue, retry_failed, and
            ``launch`` for the workers.

    Raises:
        ProtosegError: the folder cannot be written.
    """
    nonce = secrets.token_hex(6)
    moment = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(moment))
    folder = runs_folder / SUBMISSIONS_FOLDER / f"{stamp}-{nonce}"
    files.make_folder(folder / "logs")
    lines = [json.dumps({"run_id": run_id, "spec": spec}) + "\n" for run_id, spec in runs]
    files.write_bytes(folder / "runs.jsonl", "".join(lines).encode())
    files.write_json(folder / "launch.json", settings["launch"])
    intent = {
        "name": job_name(matrix, nonce),
        "clock": moment,
        "time": now(),
        "host": socket.gethostname(),
        "user": get_user_name(),
        "runs": [run_id for run_id, _ in runs],
        **settings,
    }
    files.write_json(folder / "intent.json", intent)
    return Submission(folder, intent)


def read_submission(folder: Path) -> Submission | None:
    """Read a submission; None if the folder has no valid intent."""
    intent = files.read_json(folder / "intent.json")
    try:
        is_valid = (
            isinstance(intent["name"], str)
            and float(intent["clock"]) > 0
            and all(run_id_pattern().fullmatch(run_id) for run_id in intent["runs"])
        )
    except (TypeError, KeyError, ValueError):
        return None
    return Submission(folder, intent) if is_valid else None


def open_submissions(runs_folder: Path) -> list[Submission]:
    """Return the submissions with tasks that may still run, oldest first."""
    submissions = []
    for folder in sorted((runs_folder / SUBMISSIONS_FOLDER).glob("*-*")):
        submission = read_submission(folder)
        if submission is None or submission.is_withdrawn:
            continue
        if len(submission.closed_tasks()) < len(submission.run_ids):
            submissions.append(submission)
    return submissions


def find_cancelled_runs(runs_folder: Path) -> dict[str, str]:
    """Find the runs whose newest task was cancelled before it started.

    Returns:
        Run id -> ``cancelled by USER``. SLURM does not record such a task.
    """
    newest: dict[str, str] = {}
    for folder in sorted((runs_folder / SUBMISSIONS_FOLDER).glob("*-*"), reverse=True):
        submission = read_submission(folder)
        if submission is None or submission.is_withdrawn:
            continue
        closed_tasks = submission.closed_tasks()
        for index, run_id in enumerate(submission.run_ids):
            newest.setdefault(run_id, closed_tasks.get(index, ""))
    return {run_id: why for run_id, why in newest.items() if why.startswith(CANCELLED_BY)}


@contextlib.contextmanager
def lock_submissions(runs_folder: Path) -> Iterator[None]:
    """Hold the lock that lets one sweep at a time submit runs of a runs folder.

    The kernel releases the lock when its process dies. On a file system without locks two sweeps
    may submit the same run; the run's claim then lets one job train it.
    """
    files.make_folder(runs_folder / SUBMISSIONS_FOLDER)
    with files.locked(runs_folder / SUBMISSIONS_FOLDER / ".lock"):
        yield
