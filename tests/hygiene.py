"""Fails the suite if it leaves processes or files behind, or uses too much memory or disk.

The suite gets its own temporary folder (``TMPDIR``). The process that started the suite checks
after the last test:

- no process started by a test is alive (each inherits a token in its environment);
- no file or folder above `LEFTOVER_BYTES` remains in the temporary folder;
- ``git status`` of the checkout is the same as before;
- peak disk use of the temporary folder and peak memory of all processes stay within the limits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOKEN_VARIABLE = "PYTEST_SESSION_TOKEN"
"""Must not start with ``PROTOSEG_``: tests of the command line remove such variables."""
LEFTOVER_BYTES = 1_000_000
DISK_LIMIT_BYTES = 4_000_000_000
MEMORY_LIMIT_BYTES = 3_000_000_000
"""For each process of tests, of which there are at least two."""
SAMPLE_SECONDS = 5.0
LARGEST = 8
"""Processes that are named at the peak of memory."""


class HygieneCheck:
    """A pytest plugin for the main process of the suite, not for the workers of xdist.

    Args:
        processes: number of workers of xdist.
    """

    def __init__(self, processes: int = 2) -> None:
        self.memory_limit = MEMORY_LIMIT_BYTES * max(2, processes)
        self.token = os.environ[TOKEN_VARIABLE] = secrets.token_hex(8)
        # The name is short because the path of a socket has at most 107 bytes.
        self.temporary = Path(tempfile.mkdtemp(prefix="ps-"))
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)
        self.status_before = checkout_status()
        self.peak_memory = 0
        self.at_peak: list[str] = []
        self.peak_disk = 0
        self.problems: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="hygiene", daemon=True)
        self._thread.start()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Collect the problems; one problem fails the suite."""
        self._stop.set()
        self._thread.join()
        # A child process may need a moment to exit after its test closed the pipe.
        alive = remaining_processes(self.token, patience_seconds=10)
        self.problems += [f"process {pid} is still alive: {text}" for pid, text in alive.items()]
        passed = session.exitstatus == pytest.ExitCode.OK
        for path in self.temporary.iterdir():
            size = disk_use(path)
            # pytest keeps the folders of failed tests below pytest-of-USER.
            if size > LEFTOVER_BYTES and (passed or not path.name.startswith("pytest-of-")):
                self.problems.append(f"{path} was left behind ({size / 1e6:.1f} MB)")
        changed = checkout_status() - self.status_before
        self.problems += [f"the checkout changed: {line}" for line in sorted(changed)]
        for name, peak, limit in (
            ("disk", self.peak_disk, DISK_LIMIT_BYTES),
            ("memory", self.peak_memory, self.memory_limit),
        ):
            if peak > limit:
                self.problems.append(
                    f"peak {name} of the suite: {peak / 1e9:.1f} GB, allowed {limit / 1e9:.0f} GB"
                )
                self.problems += self.at_peak if name == "memory" else []
        for pid in alive:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if self.problems and passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if passed:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the peaks and the problems below the test report."""
        terminalreporter.section("left behind by the suite")
        terminalreporter.line(
            f"peak memory {self.peak_memory / 1e9:.2f} GB, peak disk {self.peak_disk / 1e9:.2f} GB"
        )
        for problem in self.problems:
            terminalreporter.line(f"FAILED {problem}", red=True)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            memory = {pid: proportional_memory(pid) for pid in session_processes(self.token)}
            total = sum(memory.values()) + proportional_memory(os.getpid())
            if total > self.peak_memory:
                self.peak_memory = total
                largest = sorted(memory, key=lambda pid: -memory[pid])[:LARGEST]
                self.at_peak = [f"{memory[p] / 1e9:.2f} GB {command_line(p)}" for p in largest]
                self.at_peak.append(f"{len(memory)} processes in all")
            self.peak_disk = max(self.peak_disk, disk_use(self.temporary))


def session_processes(token: str) -> Iterator[int]:
    """Ids of all processes, except this one, that carry the token of this suite."""
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            # Python's resource tracker exits with the process that started it.
            if wanted in variables and "resource_tracker" not in command_line(int(entry)):
                yield int(entry)


def remaining_processes(token: str, patience_seconds: float) -> dict[int, str]:
    """Process id -> command line of the processes still alive after ``patience_seconds``."""
    for _ in range(int(patience_seconds / 0.25)):
        if not list(session_processes(token)):
            return {}
        time.sleep(0.25)
    return {pid: command_line(pid) for pid in session_processes(token)}


def command_line(pid: int) -> str:
    """The first 200 characters of the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    except OSError:
        return ""


def proportional_memory(pid: int) -> int:
    """Memory of a process in bytes; pages shared by n processes count 1/n for each."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def disk_use(path: Path) -> int:
    """Allocated bytes of a file or folder; symbolic links are not followed."""
    total = 0
    folders = [path]
    while folders:
        current = folders.pop()
        try:
            entry = current.lstat()
            total += entry.st_blocks * 512
            if current.is_dir() and not current.is_symlink():
                folders += current.iterdir()
        except OSError:
            continue
    return total


def checkout_status() -> set[str]:
    """Changed and untracked files of the checkout; empty without a git checkout."""
    result = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return set(result.stdout.splitlines())
