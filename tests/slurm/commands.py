"""SLURM's commands as small programs on PATH, with captured output."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from waiting import DEADLINE

from protoseg.slurm import command as command_module

CAPTURED = Path(__file__).parent / "captured"
"""Output of SLURM 22.05.8 for the queries of `protoseg.slurm`; only paths are replaced."""

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
    """Return the captured output of a command."""
    return (CAPTURED / f"{name}.txt").read_text(encoding="utf-8")


PATIENT_FROM_SECONDS = 1.0
"""Shorter time limits are for commands that hang; other commands have until the deadline."""


class Commands:
    """The only commands on PATH.

    The limits that protoseg sets for real commands do not apply: a busy machine may be slow.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._calls = folder / "calls.log"
        (folder / "bin").mkdir(parents=True)
        monkeypatch.setenv("PATH", str(folder / "bin"))
        run = command_module._run_once

        def run_patiently(
            command: Sequence[str], seconds: float, stdin: str
        ) -> command_module.Reply:
            limit = seconds if seconds < PATIENT_FROM_SECONDS else DEADLINE
            return run(command, limit, stdin)

        monkeypatch.setattr(command_module, "_run_once", run_patiently)

    def script(self, name: str, body: str) -> None:
        """Install a shell script that records each call."""
        path = self.folder / "bin" / name
        log = shlex.quote(f"{self._calls}.{name}")
        note = f'printf "%s\\n" "$*" | /usr/bin/tr "\\n" " " >> {log}; echo >> {log}'
        path.write_text(f"#!/bin/sh\n{note}\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def prints(self, name: str, out: str = "", errors: str = "", status: int = 0) -> None:
        """Install a command with this output and exit status."""
        for stream, text in (("out", out), ("err", errors)):
            (self.folder / f"{name}.{stream}").write_text(text, encoding="utf-8")
        where = shlex.quote(str(self.folder / name))
        self.script(name, f"/bin/cat {where}.out\n/bin/cat {where}.err >&2\nexit {status}")

    def hangs(self, name: str) -> None:
        """Install a command that does not end, with a child that does not end."""
        self.script(name, f"{self.start_child}\nwait")

    @property
    def child(self) -> Path:
        """The file with the process id of the newest child."""
        return Path(f"{self._calls}.child")

    @property
    def start_child(self) -> str:
        """A shell command that starts a sleeping child and writes `child`."""
        return f"/bin/sleep 600 &\necho $! > {shlex.quote(str(self.child))}"

    def calls(self, name: str) -> list[str]:
        """Return the arguments of each call so far."""
        log = Path(f"{self._calls}.{name}")
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def squeue_lines(*jobs: tuple[str, str]) -> str:
    """Return squeue's output for jobs with (id, state)."""
    head = captured("squeue").split("\n")[0]
    body = [
        UNIT.join([id, state, "None", "node1", "0", "0", "N/A", "N/A", "N/A", "matrix.x", ""])
        for id, state in jobs
    ]
    return "\n".join([head, *body]) + "\n"


def dependency_lines(name: str, *jobs: tuple[str, str, str]) -> str:
    """Return squeue's output for jobs of one name with (id, state, dependency)."""
    head = UNIT.join(["JOBID", "STATE", "NAME", "DEPENDENCY", ""])
    rows = [UNIT.join([id, state, name, waits_for, ""]) for id, state, waits_for in jobs]
    return "\n".join([head, *rows]) + "\n"


def sacct_lines(*jobs: tuple[str, str, str]) -> str:
    """Return sacct's output for jobs with (id, state, submission time)."""
    head = captured("sacct").split("\n")[0]
    body = [
        UNIT.join([id, state, "0:0", "node1", submitted, "Unknown", "Unknown", "matrix.x"])
        for id, state, submitted in jobs
    ]
    return "\n".join([head, *body]) + "\n"
