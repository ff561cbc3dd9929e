"""Calls of SLURM's commands, with a time limit, without a shell and without user settings."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 30.0
"""Time limit of a command. A busy controller needs about 10 s."""

SIGTERM_RETRIES = 2
"""How often a command that SIGTERM stopped is called again."""

SETTINGS = {
    "LC_ALL": "C",
    "TZ": "UTC",
    "SLURM_TIME_FORMAT": "standard",
    # By default SLURM cuts the task ids of a pending array after 64 characters.
    "SLURM_BITSTR_LEN": "0",
}
FOREIGN = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SLURM_DEBUG_FLAGS")
"""Prefixes of variables with which users change what the commands select and print."""


@dataclass(frozen=True)
class Reply:
    """The result of a command."""

    command: str
    status: int | None
    """Exit status; None if it did not start or did not end in time."""
    out: str
    errors: str
    """Its standard error."""
    problem: str
    """One line on what went wrong; empty on success."""

    @property
    def is_ok(self) -> bool:
        """Whether it ended with status 0."""
        return self.status == 0


def is_installed(command: str) -> bool:
    """Return whether this machine has the command."""
    return shutil.which(command) is not None


def run_command(
    command: Sequence[str],
    seconds: float = SECONDS,
    stdin: str = "",
    retries: int = SIGTERM_RETRIES,
) -> Reply:
    """Run a command and return its result. Never raises, whatever the command does.

    The command runs in its own process group, which is killed after ``seconds``: a site may wrap
    it in a script whose children would keep the pipes open.
    """
    until = time.monotonic() + seconds
    reply = _run_once(command, seconds, stdin)
    for _ in range(retries):
        # SLURM signals every process of a job, some of them twice. A worker that queries SLURM
        # about the first signal loses this command to the second.
        if reply.status != -signal.SIGTERM or time.monotonic() > until:
            break
        reply = _run_once(command, max(0.1, until - time.monotonic()), stdin)
    return reply


def _run_once(command: Sequence[str], seconds: float, stdin: str) -> Reply:
    name = command[0]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)} | SETTINGS
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        return Reply(name, None, "", "", f"{name}: not on this machine")
    except OSError as error:
        return Reply(name, None, "", "", f"{name}: {error.strerror or error}")
    try:
        out, errors = process.communicate(stdin or None, timeout=seconds)
    except subprocess.TimeoutExpired:
        return Reply(name, None, "", "", f"{name}: no answer in {seconds:g} s")
    finally:
        _kill(process)
    problem = (
        ""
        if process.returncode == 0
        else f"{name}: {_summarise_errors(errors, process.returncode)}"
    )
    return Reply(name, process.returncode, out, errors, problem)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a command that did not end, with its children, and close its pipes."""
    # Until it is waited for, its process id is not reused.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        # A process in an uninterruptible wait (dead file server) survives SIGKILL.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _summarise_errors(errors: str, status: int) -> str:
    """Return the last error line of standard error, or else its last line."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    candidates = [line for line in lines if re.search(r"\b(error|fatal): ", line)] or lines
    if not candidates:
        return f"ended with status {status}"
    return re.sub(r"^([a-z]+: )?([a-z_]+ )?(error|fatal): ", "", candidates[-1])
