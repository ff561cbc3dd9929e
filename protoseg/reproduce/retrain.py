"""Trains a recorded run again with the worker, in a run folder that nothing else uses.

``BASE/N/RUN_ID`` is the N-th reproduction of a run. An unfinished reproduction is resumed if code,
threads and spec are the same. A finished one is never changed.
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
"""File for the output of a worker before its log exists."""


def choose_run_folder(
    base: Path, run_id: str, spec: dict[str, Any], launch: dict[str, Any], settings: dict[str, Any]
) -> RunFolder:
    """Choose the folder to train in: the last one if it can be resumed, else a new one.

    Args:
        base: the folder of all reproductions.
        spec: the recorded spec.
        launch: launch settings of the worker.
        settings: settings that must be the same to resume: code digest, threads.

    Raises:
        ProtosegError: a reproduction of this run is running there, or the folder is not writable.
    """
    number = 1
    while (base / str(number + 1) / run_id).exists():
        number += 1
    folder = RunFolder(base / str(number) / run_id)
    if folder.path.exists():
        status = folder.status()
        if status.state is State.RUNNING:
            raise ProtosegError(
                f"{folder.path}: a reproduction of this run is running on {status.host}. Wait for "
                "it, or choose another folder with --into DIR."
            )
        same_settings = files.read_json(folder.path / SETTINGS) == settings
        if status.state is State.DONE or not same_settings or folder.read_spec() != spec:
            folder = RunFolder(base / str(number + 1) / run_id)
    if not folder.path.exists():
        files.make_folder(folder.path)
        files.write_json(folder.path / SETTINGS, settings)
    folder.create(spec, launch)
    return folder


def train(folder: RunFolder, code: Path, each_poll: Callable[[Status], None]) -> Status:
    """Run the worker of the code in ``code`` on a run folder, and return the run's final status.

    Ctrl-C and SIGTERM are forwarded: the worker saves a checkpoint and ends. A later call resumes.

    Args:
        code: the folder that contains the package ``protoseg``.
        each_poll: called with the status of the run, about three times a second.
    """
    path = [str(code), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    attempts_before = len(folder.attempts())
    output = folder.path / OUTPUT
    with open(output, "wb") as file, _stop_signals() as signals:
        # Started in the folder of the code, because `-m` looks there first.
        worker = subprocess.Popen(
            [sys.executable, "-m", "protoseg.training.worker", str(folder.path)],
            cwd=code,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches the worker only through us
        )
        try:
            while worker.poll() is None:
                if signals:  # repeated, because a starting worker has no signal handler yet
                    worker.terminate()
                each_poll(folder.status())
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(POLL_SECONDS)
        finally:
            while worker.poll() is None:  # also after an exception, no worker is left running
                worker.terminate()
                time.sleep(POLL_SECONDS)
    status = folder.status()
    if len(folder.attempts()) == attempts_before and status.state is not State.DONE:
        lines = output.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "the worker ended without output"
        return Status(State.INTERRUPTED if signals else State.FAILED, message=last)
    return status


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP in a list; they have no other effect."""
    received: list[int] = []

    def record_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, record_signal) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
