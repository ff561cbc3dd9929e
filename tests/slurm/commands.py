"""Commands of a cluster as small programs on PATH: they print what real ones printed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from waiting import DEADLINE

from protoseg.slurm import command as call

CAPTURED = Path(__file__).parent / "captured"
"""Output of SLURM 22.05.8, asked as `protoseg.slurm` asks; paths and nothing else replaced."""

DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
NO_JOB = "slurm_load_jobs error: Invalid job id specified"
NO_DATABASE = (
    "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to "
    "host:127.0.0.1:28335: Connection refused\n"
    "sacct: error: Sending PersistInit msg: Connection refused\n"
    "sacct: error: Problem talking to the database: Connection refused"
)
BANNER = "*** Welcome to Borealis. Maintenance on Tuesday. ***"
UNIT = "\x1f"


def captured(name: str) -> str:
    """What a command printed on a real cluster."""
    return (CAPTURED / f"{name}.txt").read_text(encoding="utf-8")


PATIENT_FROM_SECONDS = 1.0
"""A test of a command that hangs gives it less; any other command has until the deadline."""


class Commands:
    """The only commands on PATH, once this is made.

    The limits that protoseg sets for real commands do not apply: a busy machine may be slow.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._calls = folder / "calls.log"
        (folder / "bin").mkdir(parents=True)
        monkeypatch.setenv("PATH", str(folder / "bin"))
        run = call._call

        def run_patiently(command: Sequence[str], seconds: float, stdin: str) -> call.Reply:
            limit = seconds if seconds < PATIENT_FROM_SECONDS else DEADLINE
            return run(command, limit, stdin)

        monkeypatch.setattr(call, "_call", run_patiently)

    def script(self, name: str, body: str) -> None:
        """Install a shell script, which notes each call."""
        path = self.folder / "bin" / name
        log = shlex.quote(f"{self._calls}.{name}")
        note = f'printf "%s\\n" "$*" | /usr/bin/tr "\\n" " " >> {log}; echo >> {log}'
        path.write_text(f"#!/bin/sh\n{note}\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def prints(self, name: str, out: str = "", errors: str = "", status: int = 0) -> None:
        """Install a command that prints this and ends so."""
        for stream, text in (("out", out), ("err", errors)):
            (self.folder / f"{name}.{stream}").write_text(text, encoding="utf-8")
        where = shlex.quote(str(self.folder / name))
        self.script(name, f"/bin/cat {where}.out\n/bin/cat {where}.err >&2\nexit {status}")

    def hangs(self, name: str) -> None:
        """Install a command that never ends, nor does its child."""
        self.script(name, f"{self.start_child}\nwait")

    @property
    def child(self) -> Path:
        """Holds the process id of the newest child."""
        return Path(f"{self._calls}.child")

    @property
    def start_child(self) -> str:
        """A shell command that starts a child that sleeps, and writes `child`."""
        return f"/bin/sleep 600 &\necho $! > {shlex.quote(str(self.child))}"

    def calls(self, name: str) -> list[str]:
        """The arguments of each call so far."""
        log = Path(f"{self._calls}.{name}")
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def squeue_lines(*jobs: tuple[str, str]) -> str:
    """squeue's answer for jobs given by id and state."""
    head = captured("squeue").split("\n")[0]
    body = [
        UNIT.join([id, state, "None", "node1", "0", "0", "N/A", "N/A", "N/A", "matrix.x", ""])
        for id, state in jobs
    ]
    return "\n".join([head, *body]) + "\n"


def sacct_lines(*jobs: tuple[str, str, str]) -> str:
    """sacct's answer for jobs given by id, state and time of submission."""
    head = captured("sacct").split("\n")[0]
    body = [
        UNIT.join([id, state, "0:0", "node1", submitted, "Unknown", "Unknown", "matrix.x"])
        for id, state, submitted in jobs
    ]
    return "\n".join([head, *body]) + "\n"
