"""The lookup of a run's record in folders of records and in its run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protoseg.errors import ProtosegError
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.record import read_record, verify_identity
from protoseg.runs.sealed import RESTORE, RecordError
from protoseg.runs.states import State


@dataclass(frozen=True)
class LookupResult:
    """The state of a run, and its record with the file that it was read from."""

    status: Status
    record: dict[str, Any] | None = None
    source: Path | None = None
    damaged: bool = False
    """There is a record, but it is invalid; ``status.message`` is the reason."""
    conflict: str = ""
    """Message for two places that hold different results of this run; empty without a conflict."""


NOT_STARTED = LookupResult(Status(State.NEW))


class RecordStore:
    """Records in folders of records (``<run_id>.json``) and in run folders.

    No folder is listed and nothing is cached. A run that never started costs one failed open for
    each folder of records and one stat, so 10,000 planned runs are looked up quickly.
    """

    def __init__(self, record_folders: Sequence[Path], runs_folder: Path | None) -> None:
        self.record_folders = tuple(Path(folder) for folder in record_folders)
        self.runs_folder = None if runs_folder is None else Path(runs_folder)
        self.warnings: list[str] = []
        """One message for each damaged record; the command line prints them and exits with 1."""

    def find(self, run_id: str) -> LookupResult:
        """Find the state of a run and its record, for a caller that shows one result.

        Raises:
            ProtosegError: two places hold different results of this run.
        """
        result = self.look_up(run_id)
        if result.conflict:
            raise ProtosegError(result.conflict)
        return result

    def look_up(self, run_id: str) -> LookupResult:
        """Look a run up in all places; a conflict is returned, not raised.

        The first valid record wins: folders of records in their order, then the run folder. A
        damaged one adds a warning and is used only if no place has a valid one.
        """
        in_run_folder = self._read_run_folder(run_id)
        results = [
            result
            for folder in self.record_folders
            if (result := _read_published(folder / f"{run_id}.json", run_id)) is not None
        ]
        results.append(in_run_folder)
        damaged = [result for result in results if result.damaged]
        for result in damaged:
            if result.status.message not in self.warnings:
                self.warnings.append(result.status.message)
        valid = [result for result in results if result.record is not None]
        if not valid:
            return damaged[0] if damaged else in_run_folder
        conflicts = [text for other in valid[1:] if (text := _compare(valid[0], other, run_id))]
        # Only the status of a run folder has the iteration and the loss.
        detailed = in_run_folder if in_run_folder.record is not None else valid[0]
        return replace(valid[0], status=detailed.status, conflict=conflicts[0] if conflicts else "")

    def _read_run_folder(self, run_id: str) -> LookupResult:
        if self.runs_folder is None:
            return NOT_STARTED
        run = RunFolder(self.runs_folder / run_id)
        try:
            run.path.stat()
            status = run.status()
        except (FileNotFoundError, NotADirectoryError):
            return NOT_STARTED
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            # A file of the folder is valid JSON of an unexpected shape.
            return _damaged_result(run.path, f"{run.path}: damaged, {error}. {RESTORE}")
        if status.record is not None:
            return LookupResult(status, status.record, run.record)
        # No attempt gives a failed run without a reason: its record is damaged.
        if status.state is State.FAILED and status.reason is None:
            return LookupResult(status, source=run.record, damaged=True)
        return LookupResult(status)


class ChangedRecords(RecordStore):
    """The records of another store, each changed before it is shown.

    Args:
        store: the other store; both have the same warnings.
        change: called with each result that has a record.
    """

    def __init__(self, store: RecordStore, change: Callable[[LookupResult], LookupResult]) -> None:
        super().__init__(store.record_folders, store.runs_folder)
        self.warnings = store.warnings
        self._store, self._change = store, change

    def find(self, run_id: str) -> LookupResult:
        result = self._store.find(run_id)
        return result if result.record is None else self._change(result)


class CachedStore(RecordStore):
    """Reads each record of another store once, so that all readers see one state of a running run.

    Args:
        store: the other store; both have the same warnings.
    """

    def __init__(self, store: RecordStore) -> None:
        super().__init__(store.record_folders, store.runs_folder)
        self.warnings = store.warnings
        self._store = store
        self._results: dict[str, LookupResult] = {}

    def find(self, run_id: str) -> LookupResult:
        if run_id not in self._results:
            self._results[run_id] = self._store.find(run_id)
        return self._results[run_id]


def read_statuses(
    run_ids: Iterable[str], runs_folder: Path, record_folders: Sequence[Path]
) -> tuple[dict[str, Status], list[str]]:
    """Read the states of runs, and report damaged or conflicting records instead of raising.

    Returns:
        Run id -> status, and one message for each damaged record or conflict.
    """
    store = RecordStore(record_folders, runs_folder)
    results = {run_id: store.look_up(run_id) for run_id in run_ids}
    conflicts = [result.conflict for result in results.values() if result.conflict]
    statuses = {run_id: result.status for run_id, result in results.items()}
    return statuses, [*store.warnings, *conflicts]


def all_records(record_folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield every readable record of some folders."""
    for folder in record_folders:
        for path in sorted(folder.glob("*.json")):
            with contextlib.suppress(ProtosegError, OSError):
                yield read_record(path)


def _read_published(path: Path, run_id: str) -> LookupResult | None:
    """The result in a folder of records; None if the folder has no file of this run."""
    try:
        record = read_record(path)
        verify_identity(record, run_id, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RecordError as error:
        return _damaged_result(path, str(error))
    except OSError as error:
        return _damaged_result(path, f"{path}: cannot be read: {error.strerror or error}.")
    status = Status(State.DONE, attempts=record["attempts"], record=record)
    return LookupResult(status, record, path)


def _damaged_result(path: Path, message: str) -> LookupResult:
    return LookupResult(Status(State.FAILED, message=message), source=path, damaged=True)


def _compare(first: LookupResult, second: LookupResult, run_id: str) -> str:
    """The message for two different records of one run; empty if they are equal."""
    assert first.record is not None
    assert second.record is not None
    if first.record["digest"] == second.record["digest"]:
        return ""
    return (
        f"{first.source} and {second.source}: two different results of run {run_id}. "
        "Move one of the two files away, or ignore the published ones with --ignore-records."
    )
