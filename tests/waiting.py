"""Waiting for conditions and processes in tests, with one long deadline.

No test asserts a duration. The deadline only ends a test that would hang. On a slow or busy
machine, raise it with ``PROTOSEG_TEST_DEADLINE_SCALE``.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

SCALE_VARIABLE = "PROTOSEG_TEST_DEADLINE_SCALE"
DEADLINE = 300.0 * float(os.environ.get(SCALE_VARIABLE, "1"))
"""Seconds after which a test fails instead of waiting longer."""
POLL_SECONDS = 0.02
LOG_LINES = 15

Value = TypeVar("Value")


def wait_until(
    condition: Callable[[], Value],
    what: str,
    *,
    logs: Iterable[Path] = (),
    poll_seconds: float = POLL_SECONDS,
) -> Value:
    """Poll ``condition`` until it returns a true value, and return that value.

    Args:
        what: what the test waits for, for the message.
        logs: files whose last lines the message shows.
        poll_seconds: pause between two calls of ``condition``.

    Raises:
        AssertionError: the deadline passed.
    """
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {DEADLINE:.0f} s for {what}{log_tails(logs)}")
        time.sleep(poll_seconds)
    return value


def finish(process: subprocess.Popen[str], *, logs: Iterable[Path] = ()) -> tuple[str, str]:
    """Wait for a process to exit and return its standard output and error.

    Raises:
        AssertionError: the deadline passed; the process is killed first.
    """
    try:
        out, err = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        printed = "\n".join([*(out or "").splitlines(), *(err or "").splitlines()][-LOG_LINES:])
        raise AssertionError(
            f"waited {DEADLINE:.0f} s for {process.args} to exit; it printed\n{printed}"
            f"{log_tails(logs)}"
        ) from None
    return out or "", err or ""


def log_tails(logs: Iterable[Path]) -> str:
    """The last lines of log files, as an appendix to a message."""
    parts = []
    for path in logs:
        try:
            lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
        except OSError as error:
            lines = [f"(cannot be read: {error.strerror})"]
        parts.append(f"\n--- last lines of {path}\n" + "\n".join(lines))
    return "".join(parts)
