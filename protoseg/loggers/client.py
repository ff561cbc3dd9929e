"""The worker's side of a logger: starts its process and sends it what to log.

Nothing here waits, except `LoggerProcess.close` at the end of the attempt.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protoseg.loggers.process import REPORTED

PROGRAM = "protoseg.loggers.process"
BACKLOG_BYTES = 1 << 20
"""A logger that leaves more than this unread is turned off: about 5,000 points."""

END_SECONDS = 1.0
"""How long to wait for the exit status of a process that has closed its input."""


class LoggerProcess:
    """The process of one logger.

    Args:
        name: of the logger.
        log: file for its output.
        warn: called with one line if the logger is turned off here.
    """

    def __init__(self, name: str, log: Path, warn: Callable[[str], None]) -> None:
        self.name = name
        self._warn = warn
        self._unsent = bytearray()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, name, str(log)],
                stdin=subprocess.PIPE,
                start_new_session=True,  # a signal to the worker's group does not end it
            )
        except OSError as error:
            warn(f"logger {name}: off: its process cannot be started: {error.strerror}")
            return
        os.set_blocking(self._descriptor, False)

    @property
    def is_active(self) -> bool:
        """Whether the logger may still log."""
        return self._process is not None

    def send_call(self, call: str, **arguments: Any) -> None:
        """Send a call of a method; nothing happens once the logger is off."""
        if self._process is None:
            return
        self._unsent += json.dumps({"call": call, **arguments}).encode() + b"\n"
        self._send_unsent()
        if self._process is not None and len(self._unsent) > BACKLOG_BYTES:
            self._turn_off("it does not keep up with the training.")

    def close(self, end: float) -> None:
        """Wait until the logger has finished.

        Args:
            end: time of the clock `time.monotonic` at which its process is killed.
        """
        while self._process is not None and self._unsent:
            seconds = end - time.monotonic()
            if seconds <= 0 or not select.select([], [self._descriptor], [], seconds)[1]:
                break
            self._send_unsent()
        if self._process is None:
            return
        self._close_input()
        try:
            status = self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._turn_off("it does not finish.")
            return
        self._process = None
        if status not in (0, REPORTED):
            self._warn(f"logger {self.name}: its process ended, status {status}.")

    @property
    def _descriptor(self) -> int:
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    def _send_unsent(self) -> None:
        try:
            del self._unsent[: os.write(self._descriptor, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the process ends, or has closed its input
            process = self._process
            assert process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            if process.returncode == REPORTED:
                self._close_input()
                self._process = None
            else:
                self._turn_off(f"its process ended, status {process.returncode}.")

    def _turn_off(self, reason: str) -> None:
        """Kill the process with all that it started."""
        assert self._process is not None
        self._warn(f"logger {self.name}: off: {reason}")
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._close_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._process = None

    def _close_input(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
