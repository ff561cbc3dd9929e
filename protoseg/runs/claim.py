"""The claim on a run: at most one live worker trains it, whoever else tries.

A claim is a file made by an atomic link, with host, process, scheduler job and a nonce; the holder
touches it as a heartbeat. It is stale when its process is gone (same host) or, from another host,
when its heartbeat is old and the scheduler, where there is one, does not say that its job runs.
Claims are made, taken over and released by one at a time, under a lock.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg import files

JobIsActive = Callable[[str], bool | None]
"""Asks the scheduler whether a job runs now; None where nobody can tell."""

HEARTBEAT_SECONDS = 10.0
LOCK_SECONDS = 60.0
"""How long to wait while another changes the claim. It may ask a busy scheduler, or be stopped."""
STALE_SECONDS = 120.0
"""A heartbeat older than this, seen from another host, means the holder is gone."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim."""

    host: str
    pid: int
    process_started: str
    nonce: str
    job: str
    """The scheduler's key of its job, empty where there is none."""

    def is_alive(
        self, heartbeat_age: float, my_job: str = "", job_is_active: JobIsActive | None = None
    ) -> bool:
        """Whether the holder still works, judged from this machine.

        Args:
            heartbeat_age: seconds.
            my_job: job of who asks. If it is the holder's too, the job was requeued since, and
                that it runs now says nothing of the holder.
            job_is_active: without it the heartbeat alone decides.
        """
        if self.host == host_identity() and not _is_hidden(self.pid):
            return process_start(self.pid) == self.process_started
        if heartbeat_age < STALE_SECONDS:
            return True
        if job_is_active is None or not self.job or self.job == my_job:
            return False
        # A file system that hangs stops heartbeats, not training: unless the scheduler says no.
        return job_is_active(self.job) is not False


def host_identity() -> str:
    """This machine since its last boot: a rebooted machine does not own its old claims."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    try:
        # Containers on one machine have process numbers of their own.
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return f"{socket.gethostname()}/{boot}/{numbers}"


def process_start(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None where it is gone or a zombie.

    A pid alone can be another process by now; pid and start time together can not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


def _is_hidden(pid: int) -> bool:
    """Whether a process of another account is there but not shown (``/proc`` with hidepid)."""
    try:
        Path(f"/proc/{pid}/stat").read_bytes()
    except PermissionError:
        return True
    except OSError:
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        except (OSError, OverflowError, TypeError):
            return False
    return False


class Claim:
    """A held claim; a background thread keeps its heartbeat until `release`."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path = path
        self.holder = holder
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim-heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                current = read(self.path)
                if current is not None and current[0].nonce != self.holder.nonce:
                    # Its holder's heart must beat by itself, or nobody sees when it stops.
                    self._lost.set()
                    return
                os.utime(self.path)
            except OSError:
                # A missed beat is not worth a run: the file system may be back at the next one.
                continue

    def taken_over(self) -> bool:
        """Whether the heartbeat has met another's claim; asks no disk."""
        return self._lost.is_set()

    def is_mine(self) -> bool:
        """Whether the file still carries this claim (it may have been taken over meanwhile)."""
        current = read(self.path)
        return current is not None and current[0].nonce == self.holder.nonce

    def release(self) -> None:
        """Stop the heartbeat and remove the claim if it is still ours."""
        self._stop.set()
        self._thread.join()
        with _one_at_a_time(self.path):
            if self.is_mine():
                self.path.unlink(missing_ok=True)


def read(path: Path) -> tuple[Holder, float] | None:
    """The holder of a claim and the age of its heartbeat in seconds, or None where unclaimed."""
    data: Any = files.read_json(path)
    try:
        age = time.time() - path.stat().st_mtime
        return Holder(**data), age
    except (OSError, TypeError):
        return None


def live_holder(path: Path) -> Holder | None:
    """The holder of a claim if it is alive."""
    found = read(path)
    return found[0] if found and found[0].is_alive(found[1]) else None


def acquire(path: Path, job: str = "", job_is_active: JobIsActive | None = None) -> Claim | None:
    """Claim a run; None where a live worker holds it.

    Args:
        job: the scheduler's key of this job.
        job_is_active: asked about the job of a claim whose heartbeat is old.
    """

    ahead = 0.0

    def alive(found: tuple[Holder, float] | None) -> bool:
        return found is not None and found[0].is_alive(found[1] - ahead, job, job_is_active)

    holder = Holder(
        host=host_identity(),
        pid=os.getpid(),
        process_started=process_start(os.getpid()) or "",
        nonce=secrets.token_hex(8),
        job=job,
    )
    for _ in range(10):
        if alive(read(path)):
            return None
        with _one_at_a_time(path):
            ahead = _clock_ahead(_lock_of(path))
            _remove_stale(path, alive)
            made = files.create_json(path, vars(holder))
            # A network file system repeats a link whose answer got lost, and then finds it there.
            found = None if made else read(path)
            if made or (found is not None and found[0].nonce == holder.nonce):
                return Claim(path, holder)
    return None


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _clock_ahead(path: Path) -> float:
    """Seconds by which this machine's clock is ahead of the one that stamps the heartbeats."""
    try:
        os.utime(path)
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel drops when its process dies.

    Removing a claim and making one are a single step under it: a new claim never meets somebody
    who is still removing the old one. File systems without locks do without; `_remove_stale` is
    careful by itself, and only three workers within a rename's time could take a claim twice. The
    same holds where somebody is stopped who has the lock.
    """
    with files.locked(_lock_of(path), LOCK_SECONDS):
        yield


def _remove_stale(path: Path, alive: Callable[[tuple[Holder, float] | None], bool]) -> None:
    """Rename the claim away if it is still stale; put it back if it turns out to be another."""
    if not path.exists():
        return
    found = read(path)
    if alive(found):
        return
    nonce = found[0].nonce if found else None  # None: damaged beyond reading
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.stale")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    found = read(aside)
    if found is not None and found[0].nonce != nonce:
        # Between our look and our rename somebody took over; give it back unless yet another
        # claim stands there.
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
