"""The processes of a testbed, found in /proc (see testbed.py).

The variable TESTBED_DAEMON in the environment of a daemon holds its testbed's folder and its name.
Pid files are not used: they are missing after an interrupted start, and pids are reused.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from testbed.waiting import DEADLINE_SECONDS, poll_until

MARK = "TESTBED_DAEMON"
GONE = ("", "Z", "X")
STEP = "slurmstepd"
KERNEL_THREAD = 0x00200000
"""A bit of the flags in /proc/PID/stat (PF_KTHREAD)."""
EMPTY_LOOKS = 3
"""Number of empty listings in a row that prove that nothing is left: a process may fork between the
listing of /proc and the check of its parent."""


def is_alive(pid: int) -> bool:
    """Return whether the process runs (a zombie does not)."""
    return _state(pid) not in GONE


def find_daemon(folder: Path, name: str) -> list[int]:
    """Return the process of one daemon, as a list of one or none."""
    marked = set(_find_marked(f"{folder}:{name}"))
    # While slurmd starts a step, its fork and slurmstepd have slurmd's environment.
    return [
        pid
        for pid in marked
        if _parent(pid) not in map(str, marked) and not _program(pid).startswith(STEP)
    ]


def find_all_processes(folder: Path, conf: Path) -> list[int]:
    """Return all processes of the testbed: daemons, their helpers, and jobs on all nodes."""
    logs = {str(log) for log in (folder / "log").glob("slurmd-*.log")}
    return _with_descendants(
        {*_find_marked(f"{folder}:"), *_find_steps(logs), *find_job_processes(conf)}
    )


def find_node_processes(folder: Path, conf: Path, node: str) -> list[int]:
    """Return the job processes of a node: slurmstepd, batch scripts, tasks and their children."""
    log, slurmd = str(folder / "log" / f"slurmd-{node}.log"), find_daemon(folder, node)
    steps = {
        *_find_marked(f"{folder}:{node}"),
        *_find_steps({log}),
        *find_job_processes(conf, node),
    }
    return _with_descendants(steps - set(slurmd))


def _find_marked(beginning: str) -> list[int]:
    """Return processes by mark: a prefix if it ends in ":", else the whole mark."""
    return [
        pid
        for pid, env in _read_environments()
        if (mark := env.get(MARK, "")) == beginning
        or (beginning.endswith(":") and mark.startswith(beginning))
    ]


def _find_steps(logs: set[str]) -> list[int]:
    """Return the slurmstepd processes that write to these logs.

    Their environment cannot be read: they overwrite it with their title.
    """
    pids = []
    for pid in _list_pids():
        with suppress(OSError):
            if _program(pid).startswith(STEP):
                files = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
                pids += [pid] * bool(files & logs)
    return pids


def find_job_processes(conf: Path, node: str | None = None) -> list[int]:
    """Return the processes of jobs, by their environment."""
    return [
        pid
        for pid, env in _read_environments()
        if env.get("SLURM_CONF") == str(conf)
        and "SLURMD_NODENAME" in env
        and node in (None, env["SLURMD_NODENAME"])
    ]


def _with_descendants(pids: set[int]) -> list[int]:
    children: dict[str, list[int]] = {}
    for pid in _list_pids():
        children.setdefault(_parent(pid), []).append(pid)
    waiting, family = list(pids), set(pids)
    while waiting:
        new = set(children.get(str(waiting.pop()), [])) - family
        family |= new
        waiting += new
    return sorted(family - {os.getpid()})


def end_processes(
    pids: Iterable[int], number: signal.Signals, seconds: float = DEADLINE_SECONDS
) -> list[int]:
    """Send a signal, wait for the ends of the processes, and return those that still run."""
    left = list(pids)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def gone() -> bool:
        left[:] = [pid for pid in left if is_alive(pid)]
        return not left

    poll_until(seconds, gone)
    return left


def kill_all(find: Callable[[], Iterable[int]]) -> None:
    """Kill processes until ``find`` returns none: a process may fork while the list is read."""
    empty_looks = 0
    while empty_looks < EMPTY_LOOKS:
        pids = list(find())
        empty_looks = 0 if pids else empty_looks + 1
        end_processes(pids, signal.SIGKILL)
        await_executions()


def await_executions() -> None:
    """Wait until no process is inside execve, where its environment cannot be read."""
    poll_until(DEADLINE_SECONDS, lambda: not any(map(_is_executing, _list_pids())))


def _is_executing(pid: int) -> bool:
    fields = _stat(pid)
    # A sleeping process with an empty environment is not inside execve.
    if len(fields) < 7 or fields[0] not in "RD" or int(fields[6]) & KERNEL_THREAD:
        return False
    try:
        folder = Path(f"/proc/{pid}")
        return not (folder / "environ").read_bytes() and not (folder / "cmdline").read_bytes()
    except OSError:
        return False


def _list_pids() -> list[int]:
    """Return the ids of all processes except zombies."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in numbers if _state(pid) not in GONE]


def _read_environments() -> Iterator[tuple[int, dict[str, str]]]:
    for pid in _list_pids():
        with suppress(OSError):
            text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            yield pid, dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


def _stat(pid: int) -> list[str]:
    """Return state, parent and more: the fields after the program's name."""
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
