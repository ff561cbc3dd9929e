"""A recorded run trained once more, by the real worker, in a run folder that nobody else uses.

BASE/N/RUN_ID    the N-th reproduction of a run; one that is unfinished is gone on with where code,
                 threads and spec are the same, a finished one is never touched again
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from protoseg import files
from protoseg.errors import ProtosegError
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.states import State

POLL_SECONDS = 0.3
SETTINGS = "reproduction.json"
OUTPUT = "worker.txt"
"""What a worker prints before it has a log."""


def fresh_folder(
    base: Path, run_id: str, spec: dict[str, Any], launch: dict[str, Any], settings: dict[str, Any]
) -> RunFolder:
    """The folder to train in: a new one, or the last one if it is unfinished and of one kind.

    Args:
        settings: what must be the same to go on: code, threads.

    Raises:
        ProtosegError: a reproduction of this run is under way there, or nothing can be written.
    """
    number = 1
    while (base / str(number + 1) / run_id).exists():
        number += 1
    folder = RunFolder(base / str(number) / run_id)
    if folder.path.exists():
        status = folder.status()
        if status.state is State.RUNNING:
            raise ProtosegError(
                f"{folder.path}: a reproduction of this run is under way on {status.host}; wait "
                "for it, or make another one with --into DIR."
            )
        same = files.read_json(folder.path / SETTINGS) == settings
        if status.state is State.DONE or not same or folder.read_spec() != spec:
            folder = RunFolder(base / str(number + 1) / run_id)
    if not folder.path.exists():
        files.make_folder(folder.path)
        files.write_json(folder.path / SETTINGS, settings)
    folder.create(spec, launch)
    return folder


def train(folder: RunFolder, code: Path, each_poll: Callable[[Status], None]) -> Status:
    """Run the worker of the code in ``code`` on a folder until it ends; its status then.

    Ctrl-C and SIGTERM are handed on: the worker saves and ends, and a later call goes on.
    """
    path = [str(code), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    before = len(folder.attempts())
    output = folder.path / OUTPUT
    with open(output, "wb") as file, _handing_on() as asked:
        # In the folder of the code: `-m` looks there first.
        worker = subprocess.Popen(
            [sys.executable, "-m", "protoseg.training.worker", str(folder.path)],
            cwd=code,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C is ours to hand on
        )
        try:
            while worker.poll() is None:
                if asked:  # again and again: one that starts may not hear it
                    worker.terminate()
                each_poll(folder.status())
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(POLL_SECONDS)
        finally:
            while worker.poll() is None:  # whatever went wrong here: not left unattended
                worker.terminate()
                time.sleep(POLL_SECONDS)
    status = folder.status()
    if len(folder.attempts()) == before and status.state is not State.DONE:
        lines = output.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "the worker ended before it wrote anything"
        return Status(State.INTERRUPTED if asked else State.FAILED, message=last)
    return status


@contextlib.contextmanager
def _handing_on() -> Iterator[list[int]]:
    """The signals to stop that came inside; they are noted and do nothing else."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
