"""Answers that processes share in a file, so that together they ask once in a while and no more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from protoseg.errors import ProtosegError
from protoseg.runs import atomic
from protoseg.scheduler.jobs import Answer, Job

LOCK_SECONDS = 60.0
"""How long to wait while another process asks."""


class Cache:
    """Answers of the last seconds, in memory and, given a path, in a file."""

    def __init__(self, path: Path | None, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._own: list[dict[str, Any]] = []

    def get(
        self,
        wanted: frozenset[str],
        ask: Callable[[frozenset[str]], Answer],
        fresh: bool = False,
    ) -> Answer:
        """An answer that covers the wanted ids: a young one from the cache, or else a new one."""
        entry = None if fresh else self._find(wanted)
        if entry is None:
            with self._alone():
                # Another process may have asked the same while this one waited.
                entry = None if fresh else self._find(wanted)
                if entry is None:
                    answer = ask(wanted)
                    self._add(wanted, answer)
                    return answer
        return _answer(entry, wanted)

    def _entries(self) -> list[dict[str, Any]]:
        if self._path is None:
            return self._own
        with contextlib.suppress(OSError):
            content = atomic.read_json(self._path)
            if isinstance(content, dict) and isinstance(content.get("answers"), list):
                return [entry for entry in content["answers"] if _is_entry(entry)]
        return []

    def _young(self) -> list[dict[str, Any]]:
        # A clock that runs ahead elsewhere must not keep an answer for ever.
        now = time.time()
        return [e for e in self._entries() if abs(now - e["time"]) < self._seconds]

    def _find(self, wanted: frozenset[str]) -> dict[str, Any] | None:
        fitting = [entry for entry in self._young() if wanted <= set(entry["ids"])]
        return max(fitting, key=lambda entry: entry["time"], default=None)

    def _add(self, wanted: frozenset[str], answer: Answer) -> None:
        ids = sorted(wanted)
        entry = {
            "time": time.time(),
            "ids": ids,
            "jobs": {id: asdict(job) for id, job in answer.jobs.items()},
            "reachable": answer.reachable,
            "accounting": answer.accounting,
            "problem": answer.problem,
        }
        kept = [old for old in self._young() if not set(old["ids"]) <= wanted]
        self._own = [*kept, entry]
        if self._path is not None:
            # A cache that can not be written costs another question, nothing else.
            with contextlib.suppress(ProtosegError, OSError):
                atomic.make_folder(self._path.parent)
                atomic.write_json(self._path, {"answers": self._own})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock beside the file; without locks (some network disks) just go on."""
        descriptor = None
        if self._path is not None:
            with contextlib.suppress(OSError, ProtosegError):
                atomic.make_folder(self._path.parent)
                lock = self._path.with_name(f".{self._path.name}.lock")
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if descriptor is not None:
                _lock(descriptor)
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _lock(descriptor: int) -> None:
    until = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < until:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            return


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("time"), int | float)
        and isinstance(entry.get("ids"), list)
        and isinstance(entry.get("jobs"), dict)
    )


def _answer(entry: dict[str, Any], wanted: frozenset[str]) -> Answer:
    jobs = {id: Job(**values) for id, values in entry["jobs"].items() if id in wanted}
    return Answer(jobs, bool(entry["reachable"]), bool(entry["accounting"]), str(entry["problem"]))
