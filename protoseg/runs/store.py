"""Finding the record of a run, wherever it stands, without trusting it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg.errors import ProtosegError
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.record import RecordError, canonical, read_record
from protoseg.runs.states import State


@dataclass(frozen=True)
class LookupResult:
    """What is known of a run: its state, and its record with the file it was read from."""

    status: Status
    record: dict[str, Any] | None = None
    source: Path | None = None
    damaged: bool = False
    """There is a record, and it can not be believed; `RecordStore.warnings` says why."""


NOTHING = LookupResult(Status(State.NEW))


class RecordStore:
    """Records in folders of records (``<run_id>.json``) and in run folders.

    Nothing is listed and nothing is kept: a lookup costs one failed open a record folder and one
    stat for a run that never started, so that ten thousand planned runs are quick.
    """

    def __init__(self, record_folders: Sequence[Path], runs_folder: Path | None) -> None:
        self.record_folders = tuple(Path(folder) for folder in record_folders)
        self.runs_folder = None if runs_folder is None else Path(runs_folder)
        self.warnings: list[str] = []
        """One sentence a damaged record; the command line prints them and exits with 1."""

    def find(self, run_id: str) -> LookupResult:
        """The state of a run and its record.

        Raises:
            ProtosegError: two places hold different results of this run.
        """
        good: list[LookupResult] = []
        bad: list[LookupResult] = []
        for folder in self.record_folders:
            found = self._published(folder / f"{run_id}.json", run_id)
            if found is not None:
                (bad if found.damaged else good).append(found)
        in_runs = self._in_runs(run_id)
        if in_runs.record is not None:
            good.append(in_runs)
        elif in_runs.damaged:
            bad.append(in_runs)
        for found in bad:
            if found.status.message not in self.warnings:
                self.warnings.append(found.status.message)
        for other in good[1:]:
            _same(good[0], other, run_id)
        if good:
            return good[0]
        return bad[0] if bad else in_runs

    def _published(self, path: Path, run_id: str) -> LookupResult | None:
        try:
            record = read_record(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (RecordError, OSError, ValueError) as error:
            return _damaged(path, error)
        return _checked(record, path, run_id, None)

    def _in_runs(self, run_id: str) -> LookupResult:
        if self.runs_folder is None:
            return NOTHING
        run = RunFolder(self.runs_folder / run_id)
        try:
            run.path.stat()
            status = run.status()
        except (FileNotFoundError, NotADirectoryError):
            return NOTHING
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            # Files of a run folder that are JSON and yet not what they should be.
            return _damaged(run.path, error)
        if status.record is not None:
            return _checked(status.record, run.record, run_id, status)
        # A folder that failed for no reason that an attempt could give has a bad record.
        if status.state is State.FAILED and status.reason is None:
            return LookupResult(status, damaged=True, source=run.record)
        return LookupResult(status)


def _checked(
    record: dict[str, Any], path: Path, run_id: str, status: Status | None
) -> LookupResult:
    """Refuse a sound record that stands under the wrong name, or beside another spec."""
    digest = hashlib.sha256(canonical(record["spec"])).hexdigest()
    if record["run_id"] != run_id:
        return _damaged(path, f"is the record of {record['run_id']}, not of {run_id}")
    if digest != record["spec_digest"] or not digest.startswith(run_id.rpartition("-")[2]):
        return _damaged(path, f"holds another spec than run {run_id}")
    status = status or Status(State.DONE, attempts=record["attempts"], record=record)
    return LookupResult(status, record, path)


def _damaged(path: Path, problem: object) -> LookupResult:
    message = str(problem)
    if not message.startswith(str(path)):
        message = f"{path}: damaged, {message}. Restore it, or delete it and run the sweep again."
    return LookupResult(Status(State.FAILED, message=message), source=path, damaged=True)


def _same(first: LookupResult, second: LookupResult, run_id: str) -> None:
    assert first.record is not None
    assert second.record is not None
    if first.record["digest"] != second.record["digest"]:
        raise ProtosegError(
            f"{first.source} and {second.source}: two different results of run {run_id}. "
            "A table can show only one: move one of the files away, or let --ignore-records show "
            "that of the run folder."
        )


def status_of(
    run_id: str, runs_folder: Path, record_folders: Sequence[Path], problems: list[str]
) -> Status:
    """The state of a run from its folder and the committed records."""
    status = RunFolder(runs_folder / run_id).status()
    if status.state is State.FAILED and status.reason is None:
        problems.append(status.message)
    if status.state is State.DONE:
        return status
    for folder in record_folders:
        path = folder / f"{run_id}.json"
        try:
            record = read_record(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ProtosegError, OSError) as error:
            message = str(error)
            if isinstance(error, OSError):
                message = f"{path}: can not be read: {error.strerror or error}."
            problems.append(message)
            return Status(State.FAILED, message=message)
        if record["run_id"] != run_id:
            message = f"{path}: is the record of {record['run_id']}."
            problems.append(message)
            return Status(State.FAILED, message=message)
        return Status(State.DONE, attempts=record["attempts"], record=record)
    return status


def all_records(record_folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Every record of some folders that can be read."""
    for folder in record_folders:
        for path in sorted(folder.glob("*.json")):
            with contextlib.suppress(ProtosegError, OSError):
                yield read_record(path)
