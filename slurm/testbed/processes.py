"""The processes of a testbed, found in /proc (see testbed.py).

No pid files: they are missing when a start was cut short and lie when a number was used again. A
daemon carries its testbed's folder and its name in its environment (TESTBED_DAEMON).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from testbed.waiting import DEADLINE_SECONDS, within

MARK = "TESTBED_DAEMON"
GONE = ("", "Z", "X")
STEP = "slurmstepd"
KERNEL_THREAD = 0x00200000
"""A bit of the flags in /proc/PID/stat (PF_KTHREAD)."""
LOOKS = 3
"""How often in a row nothing is found before it is believed: a process may have forked between the
listing of /proc and the look at its parent."""


def alive(pid: int) -> bool:
    """Does the process still run (a zombie does not)."""
    return _state(pid) not in GONE


def daemon(folder: Path, name: str) -> list[int]:
    """The process of one daemon, as a list of one or none."""
    marked = set(_marked(f"{folder}:{name}"))
    # While slurmd starts a step, its copy and then slurmstepd still carry slurmd's environment.
    return [
        pid
        for pid in marked
        if _parent(pid) not in map(str, marked) and not _program(pid).startswith(STEP)
    ]


def all_processes(folder: Path, conf: Path) -> list[int]:
    """Every process of the testbed: daemons, their helpers, the jobs on all nodes."""
    logs = {str(log) for log in (folder / "log").glob("slurmd-*.log")}
    return _with_descendants({*_marked(f"{folder}:"), *_steps(logs), *job_processes(conf)})


def node_processes(folder: Path, conf: Path, node: str) -> list[int]:
    """What runs on a node for its jobs: slurmstepd, batch scripts, tasks and their children."""
    log, slurmd = str(folder / "log" / f"slurmd-{node}.log"), daemon(folder, node)
    steps = {*_marked(f"{folder}:{node}"), *_steps({log}), *job_processes(conf, node)}
    return _with_descendants(steps - set(slurmd))


def _marked(beginning: str) -> list[int]:
    """Those whose mark begins so; a name that does not end in ":" has to be the whole mark."""
    return [
        pid
        for pid, env in _environments()
        if (mark := env.get(MARK, "")) == beginning
        or (beginning.endswith(":") and mark.startswith(beginning))
    ]


def _steps(logs: set[str]) -> list[int]:
    """The slurmstepd that write to these logs. Their environment can not be read: they write their
    title over it."""
    found = []
    for pid in _pids():
        with suppress(OSError):
            if _program(pid).startswith(STEP):
                files = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
                found += [pid] * bool(files & logs)
    return found


def job_processes(conf: Path, node: str | None = None) -> list[int]:
    """Processes that were started as part of a job, wherever they have gone since."""
    return [
        pid
        for pid, env in _environments()
        if env.get("SLURM_CONF") == str(conf)
        and "SLURMD_NODENAME" in env
        and node in (None, env["SLURMD_NODENAME"])
    ]


def _with_descendants(pids: set[int]) -> list[int]:
    children: dict[str, list[int]] = {}
    for pid in _pids():
        children.setdefault(_parent(pid), []).append(pid)
    waiting, found = list(pids), set(pids)
    while waiting:
        new = set(children.get(str(waiting.pop()), [])) - found
        found |= new
        waiting += new
    return sorted(found - {os.getpid()})


def end(
    pids: Iterable[int], number: signal.Signals, seconds: float = DEADLINE_SECONDS
) -> list[int]:
    """Send a signal, wait until the processes are gone, and return those that are not."""
    left = list(pids)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def gone() -> bool:
        left[:] = [pid for pid in left if alive(pid)]
        return not left

    within(seconds, gone)
    return left


def kill_all(found: Callable[[], Iterable[int]]) -> None:
    """Kill what is found until nothing is found any more: a process may start another while the
    list is read."""
    looks = 0
    while looks < LOOKS:
        pids = list(found())
        looks = 0 if pids else looks + 1
        end(pids, signal.SIGKILL)
        await_executions()


def await_executions() -> None:
    """Wait until no process is in the middle of execve, where it shows no environment yet."""
    within(DEADLINE_SECONDS, lambda: not any(map(_is_executing, _pids())))


def _is_executing(pid: int) -> bool:
    fields = _stat(pid)
    # A process that sleeps with an empty environment has none.
    if len(fields) < 7 or fields[0] not in "RD" or int(fields[6]) & KERNEL_THREAD:
        return False
    try:
        folder = Path(f"/proc/{pid}")
        return not (folder / "environ").read_bytes() and not (folder / "cmdline").read_bytes()
    except OSError:
        return False


def _pids() -> list[int]:
    """Everything that runs, zombies apart."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in numbers if _state(pid) not in GONE]


def _environments() -> Iterator[tuple[int, dict[str, str]]]:
    for pid in _pids():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            yield pid, dict(word.split("=", 1) for word in words if "=" in word)


def _stat(pid: int) -> list[str]:
    """State, parent and more: the fields behind the program's name (which may hold anything)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    return next(iter(_stat(pid)), "")


def _parent(pid: int) -> str:
    return "".join(_stat(pid)[1:2])


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
