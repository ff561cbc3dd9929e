"""Polling with one deadline for all waits of a testbed (see testbed.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

DEADLINE_SECONDS = 300.0 * float(os.environ.get("PROTOSEG_TEST_DEADLINE_SCALE", "1"))
"""Deadline of every wait; most take a few seconds. Slow machines raise the scale."""
POLL_SECONDS = 0.1
LOG_LINES = 15


def poll_until(seconds: float, condition: Callable[[], bool]) -> bool:
    """Poll a condition until it is true; False if it is still false after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def log_tails(logs: Iterable[Path]) -> str:
    """Return the last lines of the logs that exist, indented."""
    lines = []
    for log in logs:
        if log.exists():
            tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            lines += [f"the last lines of {log.name}:", *(f"    {line}" for line in tail)]
    return "\n".join(lines)
