"""Calling a command of the scheduler: with an end, no shell, none of the user's own settings."""

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
"""How long a command may take. A busy controller needs ten; one that hangs never answers."""

AGAIN = 2
"""How often a command that was stopped by SIGTERM is called again."""

OURS = {
    "LC_ALL": "C",
    "TZ": "UTC",
    "SLURM_TIME_FORMAT": "standard",
    # Without it the task ids of a pending array are cut after 64 characters: "123_[0-3,7,...]".
    "SLURM_BITSTR_LEN": "0",
}
FOREIGN = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SLURM_DEBUG_FLAGS")
"""Beginnings of variables by which users change what the commands select and print."""


@dataclass(frozen=True)
class Reply:
    """What a command said."""

    command: str
    status: int | None
    """Exit status; None where it could not be started or did not end in time."""
    out: str
    errors: str
    """Its standard error."""
    problem: str
    """One line about what went wrong, empty where nothing did."""

    @property
    def fine(self) -> bool:
        """It ended by itself and with status 0."""
        return self.status == 0


def installed(command: str) -> bool:
    """Whether this machine has the command."""
    return shutil.which(command) is not None


def call(
    command: Sequence[str], seconds: float = SECONDS, stdin: str = "", again: int = AGAIN
) -> Reply:
    """Run a command and return what it said; it never raises for what the command does.

    The command gets a process group of its own, which is killed when the time is over: site
    wrappers are scripts, and their children would keep the pipes open.
    """
    until = time.monotonic() + seconds
    reply = _call(command, seconds, stdin)
    for _ in range(again):
        # SLURM sends its signal to every process of a job, and some twice: also to this command,
        # which a worker started to ask about the first one.
        if reply.status != -signal.SIGTERM or time.monotonic() > until:
            break
        reply = _call(command, max(0.1, until - time.monotonic()), stdin)
    return reply


def _call(command: Sequence[str], seconds: float, stdin: str) -> Reply:
    name = command[0]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)} | OURS
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
        _end(process)
    problem = "" if process.returncode == 0 else f"{name}: {_sentence(errors, process.returncode)}"
    return Reply(name, process.returncode, out, errors, problem)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a command that did not end, with its children, and let go of its pipes."""
    # Not yet waited for, its number is still its own, even where it left its children alone.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        # A process in an uninterruptible wait (a dead file server) does not even die of SIGKILL.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _sentence(errors: str, status: int) -> str:
    """The line of standard error that says most: the last error, or else the last line."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = [line for line in lines if re.search(r"\b(error|fatal): ", line)] or lines
    if not said:
        return f"ended with status {status}"
    return re.sub(r"^([a-z]+: )?([a-z_]+ )?(error|fatal): ", "", said[-1])
