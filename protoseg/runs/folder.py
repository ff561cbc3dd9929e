"""The run folder: the one truth about a run, and how its state is read from it.

spec.json        what to train, written once
launch.json      how to train it here: folders, threads, loader workers; not part of identity
claim.json       who trains it now; .claim.json.lock, for who changes it, stays empty
progress.json    how far it is
attempts/0001/   start.json, code.json, end.json, verdict.json (each written once), log.txt
code.diff        what the working tree changed, where it did; code-HASH.diff: other attempts' own
checkpoints/     iter_000100.pth ...
confusion.npz    per-image confusion counts, at the end
record.json      the result, last of all
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
from protoseg.runs.attempts import Attempt, failures_in_a_row, read_attempts
from protoseg.runs.record import RecordError, read_record
from protoseg.runs.states import Reason, State, may_retry

START_PHASES = ("checking data", "building", "first batch")
"""What a worker does before its first iteration, as its log names it."""
REMAINS_SECONDS = 60.0
"""A half-written file older than this has no writer any more."""


@dataclass(frozen=True)
class Status:
    """What a run folder says of its run."""

    state: State
    reason: Reason | None = None
    message: str = ""
    attempts: int = 0
    iteration: int = 0
    iterations: int = 0
    iterations_per_second: float | None = None
    loss: float | None = None
    """Total loss of the newest iteration in ``progress.json``."""
    host: str = ""
    """Where it runs, or ran last."""
    job: str = ""
    """The scheduler's key of its job."""
    record: dict[str, Any] | None = None


@dataclass(frozen=True)
class Launch:
    """How to train here. Nothing of it is part of a run's identity.

    The bits of a result are the same for the same number of threads; another number sums in
    another order.
    """

    data: str
    """Folder with the data sets."""
    weights: str
    """Folder with pre-trained weights."""
    threads: int = 0
    """Threads of torch; 0 leaves torch's choice."""
    workers: int = 0
    """Loader processes."""
    checkpoint_seconds: float = 60.0
    retries: dict[str, int | None] = field(default_factory=dict)
    """Reason -> attempts in a row, where they differ from `protoseg.runs.states.MAX_RETRIES`."""


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class RunFolder:
    """Paths and state of one run."""

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

    @property
    def run_id(self) -> str:
        """The folder is named after its run."""
        return self.path.name

    def create(self, spec: dict[str, Any], launch: dict[str, Any]) -> None:
        """Make the folder for a spec; the launch settings of the newest call count.

        Raises:
            ProtosegError: the folder holds another spec, or can not be written.
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
        """The spec as plain data; None where missing or torn."""
        content = files.read_json(self.spec)
        return content.get("spec") if isinstance(content, dict) else None

    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        return read_attempts(self.attempts_folder)

    def checkpoint_iteration(self) -> int:
        """The iteration that the next attempt goes on from, 0 without a checkpoint."""
        notes = self.checkpoints.glob("iter_*.json")
        whole = (path for path in notes if path.with_suffix(".pth").exists())
        names = (path.stem.removeprefix("iter_") for path in whole)
        return max((int(name) for name in names if name.isdigit()), default=0)

    def clear_remains(self) -> None:
        """Remove what killed writers left half-written; only the holder of the claim calls this."""
        for path in (*self.path.glob(".*.tmp"), *self.path.glob(".*.stale")):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > REMAINS_SECONDS:
                    path.unlink()

    def newest_log(self) -> Path | None:
        """The log of the last attempt; None before the first."""
        attempts = self.attempts()
        if not attempts:
            return None
        return self.attempts_folder / f"{attempts[-1].number:04d}" / "log.txt"

    def has_progress(self, attempts_before: int) -> bool:
        """Whether an attempt after the first ``attempts_before`` has finished an iteration."""
        attempts = self.attempts()
        return len(attempts) > attempts_before and self._has_progress(attempts[-1])

    def phase(self, attempts_before: int) -> str | None:
        """What an attempt after the first ``attempts_before`` does before its first iteration.

        None where it has finished one.
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
        """Open the next attempt (only the holder of the claim calls this) and return its folder."""
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

    def record_verdict(self, attempt: int, reason: Reason, message: str, source: str) -> bool:
        """Write down how an attempt ended whose worker could not say it; whether this was news.

        Args:
            source: who says so, for instance ``sacct``.

        Raises:
            ProtosegError: the folder can not be written.
        """
        verdict = {"time": now(), "reason": reason.value, "message": message, "source": source}
        return files.create_json(self.attempts_folder / f"{attempt:04d}" / "verdict.json", verdict)

    def may_go_on(self, reason: Reason, attempts: Sequence[Attempt] | None = None) -> bool:
        """Whether a run whose last attempt ended for ``reason`` is tried again.

        Args:
            attempts: of this run, where the caller has read them.
        """
        launch = files.read_json(self.launch)
        limits = launch.get("retries") if isinstance(launch, dict) else None
        found = self.attempts() if attempts is None else attempts
        in_a_row = failures_in_a_row(found, self.checkpoint_iteration())
        return may_retry(reason, in_a_row, limits if isinstance(limits, dict) else None)

    def status(self) -> Status:
        """The state of the run, from this folder alone; one that can not be read has failed."""
        try:
            return self._status()
        except OSError as error:
            message = f"{error.filename or self.path}: can not be read: {error.strerror or error}."
            return Status(State.FAILED, message=message)

    def _progress(self) -> dict[str, Any]:
        # For display alone: a file that is not what it should be counts as none.
        progress = files.read_json(self.progress)
        if not isinstance(progress, dict):
            return {}
        counts = {key: progress.get(key) for key in ("iteration", "iterations")}
        known: dict[str, Any] = {k: v for k, v in counts.items() if type(v) is int}
        for key in ("iterations_per_second", "loss"):
            if isinstance(progress.get(key), int | float):
                known[key] = progress[key]
        return known

    def _status(self) -> Status:
        try:
            record = read_record(self.record)
        except (FileNotFoundError, NotADirectoryError):
            record = None
        except RecordError as error:
            return Status(State.FAILED, message=str(error))
        known = self._progress()
        if record is not None:
            if record["run_id"] != self.run_id:
                return Status(
                    State.FAILED, message=f"{self.record}: is the record of {record['run_id']}."
                )
            return Status(State.DONE, attempts=record["attempts"], record=record, **known)
        holder = claim.live_holder(self.claim)
        attempts = self.attempts()
        if holder is not None:
            start = attempts[-1].start if attempts else {}
            host = _host(start.get("node")) or holder.host.partition("/")[0]
            return Status(State.RUNNING, attempts=len(attempts), host=host, job=holder.job, **known)
        if self.record.exists():  # written, and its claim released, while this was looking
            return self._status()
        if not attempts:
            return Status(State.NEW)
        last = attempts[-1]
        reason = last.reason or Reason.LOST  # it said success, yet there is no record
        retry = self.may_go_on(reason, attempts)
        message = last.message
        if reason is Reason.TIMEOUT and not retry:
            message += "; no checkpoint was reached within the time limit: raise it"
        return Status(
            State.INTERRUPTED if retry else State.FAILED,
            reason=reason,
            message=message,
            attempts=len(attempts),
            host=_host(last.start.get("node") or last.start.get("host")),
            job=last.job,
            **known,
        )


def _host(value: Any) -> str:
    return value if isinstance(value, str) else ""
