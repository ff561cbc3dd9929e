"""The claim on a run: a lock file that lets at most one live worker train it.

A claim is a file created by an atomic link, with host, process, scheduler job and a nonce. The
holder touches it as a heartbeat. It is stale if its process is gone (same host), or if its
heartbeat is old and the scheduler, if any, does not report its job as running (another host).
Claims are created, taken over and released under a file lock, by one process at a time.
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
"""Asks the scheduler whether a job runs now; None if that is unknown."""

HEARTBEAT_SECONDS = 10.0
LOCK_SECONDS = 60.0
"""How long to wait for the lock. Its owner may ask a busy scheduler, or may be suspended."""
STALE_SECONDS = 120.0
"""A heartbeat older than this is stale for other hosts."""


@dataclass(frozen=True)
class Holder:
    """The worker that holds a claim."""

    host: str
    pid: int
    process_started: str
    nonce: str
    job: str
    """The scheduler's key of its job; empty without a job."""

    def is_alive(
        self, heartbeat_age: float, my_job: str = "", job_is_active: JobIsActive | None = None
    ) -> bool:
        """Whether the holder is alive, as far as this machine can see.

        Args:
            heartbeat_age: seconds.
            my_job: job of the caller. If the holder has the same job, that job was requeued and
                runs for the caller now, so its state is no evidence for the holder.
            job_is_active: asked about the holder's job; without it only the heartbeat counts.
        """
        if self.host == host_identity() and not _is_hidden(self.pid):
            return process_start(self.pid) == self.process_started
        if heartbeat_age < STALE_SECONDS:
            return True
        if job_is_active is None or not self.job or self.job == my_job:
            return False
        # A hanging file system stops heartbeats but not training.
        return job_is_active(self.job) is not False


def host_identity() -> str:
    """Identify this machine since its last boot: claims from before a reboot are another host's."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    try:
        # Containers on one machine have separate process ids.
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}/{boot}/{namespace}"


def process_start(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot; None if it is gone or a zombie.

    A pid can be reused by another process; pid and start time together cannot.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


def _is_hidden(pid: int) -> bool:
    """Whether a process of another account exists but is hidden (``/proc`` with hidepid)."""
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
    """A held claim; a background thread touches its file as a heartbeat until `release`."""

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
                current = read_claim(self.path)
                if current is not None and current[0].nonce != self.holder.nonce:
                    # Touching another worker's claim would hide the end of its heartbeat.
                    self._lost.set()
                    return
                os.utime(self.path)
            except OSError:
                # The file system may work again at the next heartbeat.
                continue

    def taken_over(self) -> bool:
        """Whether the heartbeat found the claim of another worker; reads no file."""
        return self._lost.is_set()

    def is_mine(self) -> bool:
        """Whether the file still holds this claim, which another worker may have taken over."""
        current = read_claim(self.path)
        return current is not None and current[0].nonce == self.holder.nonce

    def release(self) -> None:
        """Stop the heartbeat, and remove the claim unless another worker has taken it over."""
        self._stop.set()
        self._thread.join()
        with _one_at_a_time(self.path):
            if self.is_mine():
                self.path.unlink(missing_ok=True)


def read_claim(path: Path) -> tuple[Holder, float] | None:
    """Read the holder of a claim and the age of its heartbeat in seconds; None if unclaimed."""
    data: Any = files.read_json(path)
    try:
        age = time.time() - path.stat().st_mtime
        return Holder(**data), age
    except (OSError, TypeError):
        return None


def live_holder(path: Path) -> Holder | None:
    """Return the holder of a claim if it is alive, else None."""
    current = read_claim(path)
    return current[0] if current and current[0].is_alive(current[1]) else None


def acquire(path: Path, job: str = "", job_is_active: JobIsActive | None = None) -> Claim | None:
    """Claim a run; None if a live worker holds it.

    Args:
        path: of the claim.
        job: the scheduler's key of this job.
        job_is_active: asked about the job of a claim with an old heartbeat.
    """

    ahead = 0.0

    def is_alive(current: tuple[Holder, float] | None) -> bool:
        return current is not None and current[0].is_alive(current[1] - ahead, job, job_is_active)

    holder = Holder(
        host=host_identity(),
        pid=os.getpid(),
        process_started=process_start(os.getpid()) or "",
        nonce=secrets.token_hex(8),
        job=job,
    )
    for _ in range(10):
        if is_alive(read_claim(path)):
            return None
        with _one_at_a_time(path):
            ahead = _clock_ahead(_lock_of(path))
            _remove_stale(path, is_alive)
            is_created = files.create_json(path, vars(holder))
            # A network file system repeats a link after a lost answer, and then finds the file.
            current = None if is_created else read_claim(path)
            if is_created or (current is not None and current[0].nonce == holder.nonce):
                return Claim(path, holder)
    return None


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _clock_ahead(path: Path) -> float:
    """Seconds by which this machine's clock is ahead of the file system's, which stamps files."""
    try:
        os.utime(path)
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock of a claim, which the kernel releases when its process dies.

    Under it, removing a stale claim and creating a new one is a single step. On a file system
    without locks, or while a suspended process has the lock, the code inside runs without it.
    `_remove_stale` checks again after its rename, so that only three workers within the time of one
    rename could both get the claim.
    """
    with files.locked(_lock_of(path), LOCK_SECONDS):
        yield


def _remove_stale(path: Path, is_alive: Callable[[tuple[Holder, float] | None], bool]) -> None:
    """Rename the claim away if it is still stale; put it back if it is a new one by then."""
    if not path.exists():
        return
    current = read_claim(path)
    if is_alive(current):
        return
    nonce = current[0].nonce if current else None  # None: unreadable
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.stale")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    renamed = read_claim(aside)
    if renamed is not None and renamed[0].nonce != nonce:
        # Another worker took over between the read and the rename: put its claim back, unless
        # there is yet another one.
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
