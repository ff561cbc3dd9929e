"""A command in a pseudo-terminal: its output, Ctrl-C, and its exit status."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WIDTH, HEIGHT = 100, 30


class TerminalSession:
    """Runs a command as the foreground job of a pseudo-terminal.

    Args:
        command: program and arguments.
        environment: its environment variables.
        folder: its working directory.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
        self._terminal, end = os.openpty()
        size = {"COLUMNS": str(WIDTH), "LINES": str(HEIGHT), "TERM": "xterm"}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, **size},
            stdin=end,
            stdout=end,
            stderr=end,
            preexec_fn=lambda: _prepare_process(end),
        )
        os.close(end)
        self._output = b""
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """Everything printed so far, without escape sequences."""
        return ESCAPES.sub("", self._output.decode(errors="replace")).replace("\r", "\n")

    def press_ctrl_c(self) -> None:
        """Send Ctrl-C: the terminal sends SIGINT to its foreground process group."""
        with contextlib.suppress(OSError):  # the command has exited
            os.write(self._terminal, b"\x03")

    def wait(self, timeout: float) -> int:
        """Wait for the exit status of the command.

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    def close(self) -> None:
        """Kill the command if it is running, and close the terminal."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        os.close(self._terminal)

    def _read_output(self) -> None:
        # Reading fails with EIO when the last process has closed the terminal.
        with contextlib.suppress(OSError):
            while data := os.read(self._terminal, 1 << 14):
                self._output += data


def _prepare_process(terminal: int) -> None:
    """Make the terminal that of the new process, which is then its foreground job.

    A background job of a script ignores Ctrl-C, and so would its children.
    """
    os.login_tty(terminal)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
