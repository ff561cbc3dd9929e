"""Real processes that run a few lines of Python and print the outcome."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading

import waiting
from waiting import DEADLINE

ANNOUNCE_WAIT = """
import fcntl
flock = fcntl.flock
def announcing(*arguments):
    try:
        return flock(*arguments)
    except BlockingIOError:
        fcntl.flock = flock
        print("waiting", flush=True)
        raise
fcntl.flock = announcing
"""
"""Code that prints "waiting" as soon as this process waits for a lock that another one holds."""

RACE = """
import json, os, sys, traceback
from multiprocessing import get_context
from protoseg import files
from protoseg.runs import claim

def run(barrier, pipe):
    sys.stdout = os.fdopen(pipe, "w")
    try:
        barrier.wait()
{code}
        sys.stdout.close()
    except BaseException:
        barrier.abort()
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)

number, deadline = int(sys.argv[1]), float(sys.argv[2])
del sys.argv[1:3]
barrier = get_context("fork").Barrier(number, timeout=deadline)
pipes = []
for _ in range(number):
    end, start = os.pipe()
    if os.fork() == 0:
        run(barrier, start)
    os.close(start)
    pipes.append(end)
printed = [os.fdopen(end).read().strip() for end in pipes]
failed = [status for _, status in (os.wait() for _ in pipes) if status]
print(json.dumps(printed))
sys.exit(bool(failed))
"""
"""Processes forked from one, so that all of them are ready without many imports."""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process; ``arguments`` are its ``sys.argv[1:]``."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process to exit with status 0 and return what it printed."""
    out, err = waiting.finish(process)
    assert process.returncode == 0, err
    return out.strip()


def next_line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that a process prints."""
    assert process.stdout is not None
    deadline = threading.Timer(DEADLINE, process.kill)
    deadline.start()
    line = process.stdout.readline().strip()
    deadline.cancel()
    assert line, f"{process.args} printed no line: {process.communicate()[1]}"
    return line


def kill(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL and wait until the process is gone."""
    process.kill()
    process.communicate()


def race(code: str, *arguments: object, number: int = 8) -> list[str]:
    """Run the same code in several processes that start together.

    Args:
        code: runs after a barrier; ``barrier.wait()`` in it waits for all processes again.
        arguments: ``sys.argv[1:]`` of each process.

    Returns:
        What each process printed.
    """
    program = RACE.format(code=textwrap.indent(code, " " * 8))
    printed: list[str] = json.loads(finish(start(program, number, DEADLINE, *arguments)))
    return printed
