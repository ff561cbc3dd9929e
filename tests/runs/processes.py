"""Real processes that run a few lines of Python and say what came of it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

WAIT_FOR_START = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.001)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own; ``arguments`` are its ``sys.argv[1:]``."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end; what it printed. It must have ended well."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def first_line(process: subprocess.Popen[str]) -> str:
    """Wait for the first line that it prints."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, process.communicate()[1]
    return line


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and wait until it is gone."""
    process.kill()
    process.communicate()


def race(code: str, gate: Path, *arguments: object, number: int = 8) -> list[str]:
    """Let several processes pass a gate at the same moment; what each printed."""
    processes = [start(WAIT_FOR_START + code, gate, *arguments) for _ in range(number)]
    time.sleep(0.5)
    gate.touch()
    return [finish(process) for process in processes]
