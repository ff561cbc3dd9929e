"""The run folder: the one truth about a run, and how its state is read from it.

spec.json        what to train, written once
launch.json      how to train it here: folders, threads, loader workers; not part of identity
claim.json       who trains it now
progress.json    how far it is
attempts/0001/   start.json, end.json (each written once), log.txt
checkpoints/     iter_000100.pth ...
confusion.npz    per-image confusion counts, at the end
record.json      the result, last of all
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg.errors import ProtosegError
from protoseg.runs import atomic, claim
from protoseg.runs.record import RecordError, read_record
from protoseg.runs.states import Reason, State, may_retry

REMAINS_SECONDS = 60.0
"""A half-written file older than this has no writer any more."""


@dataclass(frozen=True)
class Attempt:
    """One try at a run: when and where it began, and how it ended."""

    number: int
    start: dict[str, Any]
    end: dict[str, Any] | None

    @property
    def reason(self) -> Reason | None:
        """Why it failed; None for a success. Without an ending the worker vanished: lost."""
        if self.end is None:
            return Reason.LOST
        if not self.end.get("reason"):
            return None
        try:
            return Reason(self.end["reason"])
        except ValueError:  # written by a newer version, or by hand
            return Reason.CODE_ERROR

    @property
    def message(self) -> str:
        """The one sentence about its end."""
        return (
            str(self.end.get("message", "")) if self.end else "the worker vanished without a word"
        )


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
    host: str = ""
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
        atomic.make_folder(self.path)
        content = {"run_id": self.run_id, "spec": spec}
        if not atomic.create_json(self.spec, content) and self.read_spec() != spec:
            raise ProtosegError(
                f"{self.spec}: holds another spec than run {self.run_id}, or is torn. "
                "Move the folder away and run the sweep again."
            )
        if atomic.read_json(self.launch) != launch:
            atomic.write_json(self.launch, launch)

    def read_spec(self) -> dict[str, Any] | None:
        """The spec as plain data; None where missing or torn."""
        content = atomic.read_json(self.spec)
        return content.get("spec") if isinstance(content, dict) else None

    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        try:
            names = sorted((n for n in os.listdir(self.attempts_folder) if n.isdigit()), key=int)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for name in names:
            folder = self.attempts_folder / name
            start = atomic.read_json(folder / "start.json")
            if isinstance(start, dict):
                end = atomic.read_json(folder / "end.json")
                found.append(Attempt(int(name), start, end if isinstance(end, dict) else None))
        return found

    def checkpoint_iteration(self) -> int:
        """The iteration that the next attempt goes on from, 0 without a checkpoint."""
        names = (path.stem.removeprefix("iter_") for path in self.checkpoints.glob("iter_*.json"))
        return max((int(name) for name in names if name.isdigit()), default=0)

    def clear_remains(self) -> None:
        """Remove what killed writers left half-written; only the holder of the claim calls this."""
        for path in self.path.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > REMAINS_SECONDS:
                    path.unlink()

    def newest_log(self) -> Path | None:
        """The log of the last attempt; None before the first."""
        attempts = self.attempts()
        if not attempts:
            return None
        return self.attempts_folder / f"{attempts[-1].number:04d}" / "log.txt"

    def start_attempt(self, start: dict[str, Any]) -> Path:
        """Open the next attempt (only the holder of the claim calls this) and return its folder."""
        atomic.make_folder(self.attempts_folder)
        number = max((int(n) for n in os.listdir(self.attempts_folder) if n.isdigit()), default=0)
        while True:
            number += 1
            folder = self.attempts_folder / f"{number:04d}"
            try:
                folder.mkdir(mode=0o755)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise atomic.storage_error(error, folder) from error
        atomic.create_json(folder / "start.json", start)
        return folder

    def retries_in_a_row(self) -> int:
        """How many attempts at the end share one reason without progress between them."""
        attempts = self.attempts()
        count = min(len(attempts), 1)
        for later, earlier in itertools.pairwise(reversed(attempts)):
            if earlier.reason != later.reason or _began_at(later) > _began_at(earlier):
                break
            count += 1
        return count

    def status(self) -> Status:
        """The state of the run, from this folder alone; one that can not be read has failed."""
        try:
            return self._status()
        except OSError as error:
            message = f"{error.filename or self.path}: can not be read: {error.strerror or error}."
            return Status(State.FAILED, message=message)

    def _progress(self) -> dict[str, Any]:
        # For display alone: a file that is not what it should be counts as none.
        progress = atomic.read_json(self.progress)
        if not isinstance(progress, dict):
            return {}
        counts = {key: progress.get(key) for key in ("iteration", "iterations")}
        rate = progress.get("iterations_per_second")
        known: dict[str, Any] = {k: v for k, v in counts.items() if type(v) is int}
        return known | ({"iterations_per_second": rate} if isinstance(rate, int | float) else {})

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
            host = holder.host.partition("/")[0]
            return Status(State.RUNNING, attempts=len(attempts), host=host, **known)
        if not attempts:
            return Status(State.NEW)
        last = attempts[-1]
        reason = last.reason or Reason.LOST  # it said success, yet there is no record
        retry = may_retry(reason, self.retries_in_a_row())
        return Status(
            State.INTERRUPTED if retry else State.FAILED,
            reason=reason,
            message=last.message,
            attempts=len(attempts),
            **known,
        )


def _began_at(attempt: Attempt) -> int:
    iteration = attempt.start.get("iteration", 0)
    return iteration if isinstance(iteration, int) else 0
