"""Submissions: what was given to the scheduler, written down before it was given.

RUNS/.submissions/<time>-<nonce>/
    launch.json      how the workers train (`protoseg.runs.folder.Launch`)
    runs.jsonl       a line a run, in the order of the array: its id and its spec
    intent.json      name, profile, resources, launch settings, who and when; before sbatch
    job.json         the scheduler's number of the array; after sbatch, or by its first task
    withdrawn.json   never accepted, or given up; a task of it that starts all the same leaves
    settled.json     tasks that need no more asking, and why; an index that can be made again
    script.sh, logs/

Between sbatch and its answer a submitter may die. The intent carries a nonce that is part of the
job's name, so whoever comes next asks the scheduler for that name and either finds the job or
withdraws the intent. Nothing here decides who trains a run: the claim in its folder does.
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

FOLDER = ".submissions"
JOB_ID = re.compile(r"[0-9]+")
UNSURE_SECONDS = 60.0
"""An sbatch whose submitter was killed may still be on its way for this long."""


@dataclass(frozen=True)
class Submission:
    """One job array and the runs that its tasks train."""

    folder: Path
    intent: dict[str, Any]
    _known: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The job's name, which no other submission has."""
        return str(self.intent["name"])

    @property
    def run_ids(self) -> list[str]:
        """Run of each task, by its index in the array."""
        ids: list[str] = self.intent["runs"]
        return ids

    @property
    def runs_folder(self) -> Path:
        """Where its run folders are."""
        return self.folder.parent.parent

    @property
    def age(self) -> float:
        """Seconds since the intent was written."""
        return time.time() - float(self.intent["clock"])

    @property
    def job_id(self) -> str:
        """The scheduler's number of the array; empty where it is not known (yet)."""
        if "job" not in self._known:
            content = files.read_json(self.folder / "job.json")
            found = str(content.get("job", "")) if isinstance(content, dict) else ""
            if not JOB_ID.fullmatch(found):
                return ""
            self._known["job"] = found
        return self._known["job"]

    @property
    def withdrawn(self) -> bool:
        """Whether its tasks have to leave."""
        return (self.folder / "withdrawn.json").exists()

    def key(self, index: int) -> str:
        """The scheduler's key of a task, ``123_4``; empty where the job is not known."""
        return f"{self.job_id}_{index}" if self.job_id else ""

    def log(self, key: str) -> Path:
        """What the batch script of a task prints."""
        return self.folder / "logs" / f"{key}.txt"

    def note_job(self, job_id: str) -> None:
        """Write down the answer of sbatch; the first one to know it does."""
        content = {"job": job_id, "time": now()}
        files.create_json(self.folder / "job.json", content)

    def withdraw(self, why: str) -> None:
        """Give it up: no task of it trains."""
        files.create_json(self.folder / "withdrawn.json", {"why": why, "time": now()})

    def closed_tasks(self) -> dict[int, str]:
        """Index of each task that needs no more asking -> why."""
        content = files.read_json(self.folder / "settled.json")
        if not isinstance(content, dict):
            return {}
        return {int(index): str(why) for index, why in content.items() if index.isdigit()}

    def close_tasks(self, tasks: dict[int, str]) -> None:
        """Add tasks that need no more asking."""
        merged = {**self.closed_tasks(), **tasks}
        content = {str(index): merged[index] for index in sorted(merged)}
        files.write_json(self.folder / "settled.json", content)

    def spec(self, index: int) -> dict[str, Any]:
        """The spec of a task's run, as plain data.

        Raises:
            ProtosegError: the list of runs is torn.
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
                f"{path}: has no run for task {index}, or is torn. Cancel the job and run the "
                "sweep again."
            ) from error
        return spec


def job_name(matrix: str, nonce: str) -> str:
    """The name of a job, of nothing but letters, digits and ``_ . -``."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", matrix).strip("-")[:40] or "runs"
    return f"{slug}.{nonce}"


def user() -> str:
    """Login name of who calls; the number where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def write_intent(
    runs_folder: Path, matrix: str, runs: Sequence[tuple[str, dict[str, Any]]], **settings: Any
) -> Submission:
    """Write down what is about to be submitted.

    Args:
        matrix: whose runs they are, for the job's name.
        runs: (run id, spec) of each task.
        settings: kept with it, what the tasks need to know: nodes, processes, cpus, requeue,
            retry_failed, and ``launch``, which the workers read.

    Raises:
        ProtosegError: the folder can not be written.
    """
    nonce = secrets.token_hex(6)
    moment = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(moment))
    folder = runs_folder / FOLDER / f"{stamp}-{nonce}"
    files.make_folder(folder / "logs")
    lines = [json.dumps({"run_id": run_id, "spec": spec}) + "\n" for run_id, spec in runs]
    files.write_bytes(folder / "runs.jsonl", "".join(lines).encode())
    files.write_json(folder / "launch.json", settings["launch"])
    intent = {
        "name": job_name(matrix, nonce),
        "clock": moment,
        "time": now(),
        "host": socket.gethostname(),
        "user": user(),
        "runs": [run_id for run_id, _ in runs],
        **settings,
    }
    files.write_json(folder / "intent.json", intent)
    return Submission(folder, intent)


def read_submission(folder: Path) -> Submission | None:
    """A submission, or None where the folder holds no whole intent."""
    intent = files.read_json(folder / "intent.json")
    try:
        well = (
            isinstance(intent["name"], str)
            and float(intent["clock"]) > 0
            and all(run_id_pattern().fullmatch(run_id) for run_id in intent["runs"])
        )
    except (TypeError, KeyError, ValueError):
        return None
    return Submission(folder, intent) if well else None


def open_submissions(runs_folder: Path) -> list[Submission]:
    """Submissions with tasks that may still run, oldest first."""
    found = []
    for folder in sorted((runs_folder / FOLDER).glob("*-*")):
        submission = read_submission(folder)
        if submission is None or submission.withdrawn:
            continue
        if len(submission.closed_tasks()) < len(submission.run_ids):
            found.append(submission)
    return found


@contextlib.contextmanager
def submitting(runs_folder: Path) -> Iterator[None]:
    """One submitter at a time, over all terminals that share the runs folder.

    The kernel drops the lock when its process dies. On a file system without locks two sweeps may
    both submit a run; its claim then lets one of them train it.
    """
    files.make_folder(runs_folder / FOLDER)
    with files.locked(runs_folder / FOLDER / ".lock"):
        yield
