"""The run folder: the files of a run, and its state derived from them.

spec.json        what to train; written once
launch.json      how to train it here: folders, threads, loader workers; not part of the identity
claim.json       the worker that trains it now; .claim.json.lock is an empty lock file
progress.json    iteration, speed, losses, last evaluation on the way
attempts/0001/   start.json, code.json, end.json, verdict.json (each written once), log.txt
code.diff        changes of the working tree, if any; code-HASH.diff: those of other attempts
checkpoints/     iter_00000100.pth ..., best_00000100.pth (``evaluation.every``)
confusion.npz    per-image confusion counts; written at the end
record.json      the result; then the run is done, and samples.npz follows
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.errors import ProtosegError
from protoseg.runs import claim
from protoseg.runs.attempts import Attempt, read_attempts
from protoseg.runs.record import read_record, verify_identity
from protoseg.runs.retry import count_failures_in_a_row, may_retry
from protoseg.runs.sealed import RecordError
from protoseg.runs.states import Reason, State

START_PHASES = ("checking data", "building", "first batch")
"""Phases of a worker before its first iteration, as its log names them."""
REMAINS_SECONDS = 60.0
"""The writer of a half-written file that is older than this is gone."""


@dataclass(frozen=True)
class Status:
    """The state of a run, with its last attempt and its progress."""

    state: State
    reason: Reason | None = None
    message: str = ""
    attempts: int = 0
    iteration: int = 0
    iterations: int = 0
    iterations_per_second: float | None = None
    loss: float | None = None
    """Total loss of the newest iteration in ``progress.json``."""
    evaluation: dict[str, float] = field(default_factory=dict)
    """The last evaluation on the way: ``iteration``, ``miou``, ``seconds``; empty without one."""
    host: str = ""
    """The machine that it runs on, or ran on last."""
    job: str = ""
    """The scheduler's key of its job; empty without one."""
    record: dict[str, Any] | None = None


@dataclass(frozen=True)
class Launch:
    """How to train a run here; not part of its identity.

    Another number of threads changes the order of sums, and so the last bits of a result.
    """

    data: str
    """Folder with the data sets."""
    weights: str
    """Folder with pre-trained weights."""
    threads: int = 0
    """Threads of torch; 0: torch chooses."""
    workers: int = 0
    """Loader processes."""
    checkpoint_seconds: float = 60.0
    """Time between two checkpoints."""
    retries: dict[str, int | None] = field(default_factory=dict)
    """Reason -> limit, where it differs from `protoseg.runs.retry.RULES`."""
    loggers: list[str] = field(default_factory=list)
    """Names of loggers; see docs/loggers.md."""
    project: str = ""  # its root; empty without one


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class RunFolder:
    """The paths and the state of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "spec.json"
        self.launch = path / "launch.json"
        self.claim = path / "claim.json"
        self.progress = path / "progress.json"
        self.attempts_folder = path / "attempts"
        self.checkpoints = path / "checkpoints"
        self.confusion = path / "confusion.npz"
        self.record = path / "record.json"
        self.samples = path / "samples.npz"

    @property
    def run_id(self) -> str:
        """The name of the folder."""
        return self.path.name

    def create(self, spec: dict[str, Any], launch: dict[str, Any]) -> None:
        """Create the folder for a spec; the launch settings are replaced at each call.

        Raises:
            ProtosegError: the folder holds another spec, or cannot be written.
        """
        files.make_folder(self.path)
        content = {"run_id": self.run_id, "spec": spec}
        if not files.create_json(self.spec, content) and self.read_spec() != spec:
            raise ProtosegError(
                f"{self.spec}: holds another spec than run {self.run_id}, or is torn. "
                "Move the folder away and run the sweep again."
            )
        if files.read_json(self.launch) != launch:
            files.write_json(self.launch, launch)

    def read_spec(self) -> dict[str, Any] | None:
        """Read the spec as plain data; None if it is missing or torn."""
        content = files.read_json(self.spec)
        return content.get("spec") if isinstance(content, dict) else None

    def attempts(self) -> list[Attempt]:
        """Read all attempts, oldest first."""
        return read_attempts(self.attempts_folder)

    def checkpoint_iteration(self) -> int:
        """Return the iteration that the next attempt resumes from; 0 without a checkpoint."""
        digests = self.checkpoints.glob("iter_*.json")
        whole = (path for path in digests if path.with_suffix(".pth").exists())
        names = (path.stem.removeprefix("iter_") for path in whole)
        return max((int(name) for name in names if name.isdigit()), default=0)

    def clear_remains(self) -> None:
        """Remove half-written files of killed writers; only the claim holder may call this."""
        for path in (*self.path.glob(".*.tmp"), *self.path.glob(".*.stale")):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > REMAINS_SECONDS:
                    path.unlink()

    def newest_log(self) -> Path | None:
        """Return the log of the last attempt; None without an attempt."""
        numbers = [attempt.number for attempt in self.attempts()]
        return self.attempts_folder / f"{numbers[-1]:04d}" / "log.txt" if numbers else None

    def has_progress(self, attempts_before: int) -> bool:
        """Whether an attempt after the first ``attempts_before`` has finished an iteration."""
        attempts = self.attempts()
        return len(attempts) > attempts_before and self._has_progress(attempts[-1])

    def phase(self, attempts_before: int) -> str | None:
        """Return the phase of an attempt after the first ``attempts_before``.

        None if it has finished an iteration.
        """
        attempts = self.attempts()
        if len(attempts) <= attempts_before:
            return "starting"
        if self._has_progress(attempts[-1]):
            return None
        log = self.attempts_folder / f"{attempts[-1].number:04d}" / "log.txt"
        try:
            lines = log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        phases = (line.partition("  ")[2] for line in reversed(lines))
        return next((phase for phase in phases if phase in START_PHASES), "starting")

    def _has_progress(self, attempt: Attempt) -> bool:
        start = self.attempts_folder / f"{attempt.number:04d}" / "start.json"
        try:
            return self.progress.stat().st_mtime_ns >= start.stat().st_mtime_ns
        except OSError:
            return False

    def start_attempt(self, start: dict[str, Any]) -> Path:
        """Create the folder of the next attempt; only the claim holder may call this.

        Returns:
            The folder of the attempt.

        Raises:
            ProtosegError: the folder cannot be written.
        """
        files.make_folder(self.attempts_folder)
        number = max((int(n) for n in os.listdir(self.attempts_folder) if n.isdigit()), default=0)
        while True:
            number += 1
            folder = self.attempts_folder / f"{number:04d}"
            try:
                folder.mkdir(mode=0o775)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise files.storage_error(error, folder) from error
        files.create_json(folder / "start.json", start)
        return folder

    def record_verdict(
        self, attempt: int, reason: Reason | None, message: str, source: str
    ) -> bool:
        """Record how an attempt ended if its worker could not; the first verdict is kept.

        Args:
            attempt: its number.
            reason: None if the attempt wrote the record.
            source: of the evidence, for instance ``sacct``.

        Returns:
            Whether the verdict was written.

        Raises:
            ProtosegError: the folder cannot be written.
        """
        value = reason and reason.value
        verdict = {"time": now(), "reason": value, "message": message, "source": source}
        return files.create_json(self.attempts_folder / f"{attempt:04d}" / "verdict.json", verdict)

    def may_go_on(self, reason: Reason, attempts: Sequence[Attempt] | None = None) -> bool:
        """Whether a run whose last attempt ended for ``reason`` may be retried.

        Args:
            attempts: of this run, if the caller has read them.
        """
        launch = files.read_json(self.launch)
        limits = launch.get("retries") if isinstance(launch, dict) else None
        attempts = self.attempts() if attempts is None else attempts
        in_a_row = count_failures_in_a_row(attempts, self.checkpoint_iteration())
        return may_retry(reason, in_a_row, limits if isinstance(limits, dict) else None)

    def status(self) -> Status:
        """Read the state of the run from this folder; an unreadable run has failed."""
        try:
            return self._status()
        except OSError as error:
            message = f"{error.filename or self.path}: cannot be read: {error.strerror or error}."
            return Status(State.FAILED, message=message)

    def _progress(self) -> dict[str, Any]:
        # Only displayed: a damaged file is treated as missing.
        progress = files.read_json(self.progress)
        if not isinstance(progress, dict):
            return {}
        whole, numbers = ("iteration", "iterations"), ("iterations_per_second", "loss")
        valid: dict[str, Any] = {k: progress[k] for k in whole if type(progress.get(k)) is int}
        valid |= {k: progress[k] for k in numbers if isinstance(progress.get(k), int | float)}
        if isinstance(last := progress.get("evaluation"), dict):
            valid["evaluation"] = {k: v for k, v in last.items() if isinstance(v, int | float)}
        return valid

    def _status(self) -> Status:
        try:
            record = read_record(self.record)
            verify_identity(record, self.run_id, self.record)
        except (FileNotFoundError, NotADirectoryError):
            record = None
        except RecordError as error:
            return Status(State.FAILED, message=str(error))
        progress = self._progress()
        if record is not None:
            return Status(State.DONE, attempts=record["attempts"], record=record, **progress)
        holder = claim.live_holder(self.claim)
        attempts = self.attempts()
        if holder is not None:
            start, number = (attempts[-1].start if attempts else {}), len(attempts)
            host = _host(start.get("node")) or holder.host.partition("/")[0]
            return Status(State.RUNNING, attempts=number, host=host, job=holder.job, **progress)
        if self.record.exists():  # the run has ended since the record was read
            return self._status()
        if not attempts:
            return Status(State.NEW)
        last = attempts[-1]
        reason = last.reason or Reason.LOST  # a reported success without a record
        retry = self.may_go_on(reason, attempts)
        message = last.message
        if reason is Reason.TIMEOUT and not retry:
            message += "; no checkpoint was reached within the time limit: raise the limit"
        return Status(
            State.INTERRUPTED if retry else State.FAILED,
            reason=reason,
            message=message,
            attempts=len(attempts),
            host=_host(last.start.get("node") or last.start.get("host")),
            job=last.job,
            **progress,
        )


def _host(value: Any) -> str:
    return value if isinstance(value, str) else ""
