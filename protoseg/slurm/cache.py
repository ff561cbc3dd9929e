"""A cache of job reports in a file, so that several processes query SLURM only once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.errors import ProtosegError
from protoseg.slurm.jobs import Job, JobReport

LOCK_SECONDS = 60.0
"""Longest wait for another process that queries SLURM."""


@dataclass(frozen=True)
class Entry:
    """A query and its answer."""

    time: float
    """Time of the answer, in seconds since 1970."""
    ids: frozenset[str]
    answer: JobReport


class Cache:
    """Recent answers of SLURM, in memory and, if there is a path, in a file."""

    def __init__(self, path: Path | None, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._entries: list[Entry] = []

    def get(
        self,
        wanted: frozenset[str],
        ask: Callable[[frozenset[str]], JobReport],
        fresh: bool = False,
    ) -> JobReport:
        """Return a report on the wanted ids, from the cache if it is recent enough.

        Args:
            wanted: job ids.
            ask: queries SLURM about ids.
            fresh: query SLURM in any case.
        """
        report = None if fresh else self._find_report(wanted)
        if report is None:
            with self._locked():
                # Another process may have queried the same jobs while this one waited.
                report = None if fresh else self._find_report(wanted)
                if report is None:
                    answer = ask(wanted)
                    self._add(Entry(time.time(), wanted, answer))
                    return answer
        return replace(report, jobs={id: job for id, job in report.jobs.items() if id in wanted})

    def _recent_entries(self) -> list[Entry]:
        entries = self._entries if self._path is None else _read_entries(self._path)
        # The clock of another machine may be ahead: its entry must not stay valid for long.
        now = time.time()
        return [entry for entry in entries if abs(now - entry.time) < self._seconds]

    def _find_report(self, wanted: frozenset[str]) -> JobReport | None:
        fitting = [entry for entry in self._recent_entries() if wanted <= entry.ids]
        return max(fitting, key=lambda entry: entry.time).answer if fitting else None

    def _add(self, entry: Entry) -> None:
        self._entries = [
            *(old for old in self._recent_entries() if not old.ids <= entry.ids),
            entry,
        ]
        if self._path is not None:
            # If the cache cannot be written, the next process queries SLURM again.
            with contextlib.suppress(ProtosegError, OSError):
                files.make_folder(self._path.parent)
                files.write_json(
                    self._path, {"answers": [_entry_to_json(own) for own in self._entries]}
                )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the file; file systems without locks are used without one."""
        if self._path is None:
            yield
            return
        with contextlib.suppress(OSError, ProtosegError):
            files.make_folder(self._path.parent)
        with files.locked(self._path.with_name(f".{self._path.name}.lock"), LOCK_SECONDS):
            yield


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    answer = entry.answer
    jobs = {id: asdict(job) for id, job in answer.jobs.items()}
    known = {"reachable": answer.reachable, "accounting": answer.accounting}
    return {"time": entry.time, "ids": sorted(entry.ids), "jobs": jobs, **known,
            "problem": answer.problem}  # fmt: skip


def _read_entries(path: Path) -> list[Entry]:
    """Return the valid entries of a file; another version of protoseg may have written it."""
    try:
        content = files.read_json(path)
    except OSError:
        return []
    answers = content.get("answers") if isinstance(content, dict) else None
    entries = []
    for values in answers if isinstance(answers, list) else []:
        with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
            jobs = {str(id): Job(**job) for id, job in values["jobs"].items()}
            known = bool(values["reachable"]), bool(values["accounting"])
            answer = JobReport(jobs, *known, str(values["problem"]))
            entries.append(Entry(float(values["time"]), frozenset(values["ids"]), answer))
    return entries
