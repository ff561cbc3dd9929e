"""Answers that processes share in a file, so that together they ask once in a while and no more."""

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
"""How long to wait while another process asks."""


@dataclass(frozen=True)
class Entry:
    """A question and its answer."""

    time: float
    """When it was answered; seconds since 1970."""
    ids: frozenset[str]
    answer: JobReport


class Cache:
    """Answers of the last seconds, in memory and, given a path, in a file."""

    def __init__(self, path: Path | None, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._own: list[Entry] = []

    def get(
        self,
        wanted: frozenset[str],
        ask: Callable[[frozenset[str]], JobReport],
        fresh: bool = False,
    ) -> JobReport:
        """An answer that covers the wanted ids: a young one from the cache, or else a new one."""
        found = None if fresh else self._find(wanted)
        if found is None:
            with self._alone():
                # Another process may have asked the same while this one waited.
                found = None if fresh else self._find(wanted)
                if found is None:
                    answer = ask(wanted)
                    self._add(Entry(time.time(), wanted, answer))
                    return answer
        return replace(found, jobs={id: job for id, job in found.jobs.items() if id in wanted})

    def _young(self) -> list[Entry]:
        entries = self._own if self._path is None else _read(self._path)
        # A clock that runs ahead elsewhere must not keep an answer for ever.
        now = time.time()
        return [entry for entry in entries if abs(now - entry.time) < self._seconds]

    def _find(self, wanted: frozenset[str]) -> JobReport | None:
        fitting = [entry for entry in self._young() if wanted <= entry.ids]
        return max(fitting, key=lambda entry: entry.time).answer if fitting else None

    def _add(self, entry: Entry) -> None:
        self._own = [*(old for old in self._young() if not old.ids <= entry.ids), entry]
        if self._path is not None:
            # A cache that can not be written costs another question, nothing else.
            with contextlib.suppress(ProtosegError, OSError):
                files.make_folder(self._path.parent)
                files.write_json(self._path, {"answers": [_plain(own) for own in self._own]})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock beside the file; without locks (some network disks) just go on."""
        if self._path is None:
            yield
            return
        with contextlib.suppress(OSError, ProtosegError):
            files.make_folder(self._path.parent)
        with files.locked(self._path.with_name(f".{self._path.name}.lock"), LOCK_SECONDS):
            yield


def _plain(entry: Entry) -> dict[str, Any]:
    answer = entry.answer
    jobs = {id: asdict(job) for id, job in answer.jobs.items()}
    known = {"reachable": answer.reachable, "accounting": answer.accounting}
    return {"time": entry.time, "ids": sorted(entry.ids), "jobs": jobs, **known,
            "problem": answer.problem}  # fmt: skip


def _read(path: Path) -> list[Entry]:
    """The entries of a file that are what they should be; another version may have written it."""
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
