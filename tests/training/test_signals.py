"""Signals to the worker and its loader processes, as a scheduler sends them."""

from __future__ import annotations

import io
import multiprocessing.connection
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import ForkedProcess
from waiting import DEADLINE, finish

from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason, State
from protoseg.training import checkpoint, failures
from training.small import (
    ends,
    log,
    log_paths,
    make_folder,
    pause_after,
    small_spec,
    start_worker,
    wait_for_checkpoint,
)


@pytest.fixture
def paused(
    data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[RunFolder, ForkedProcess]]:
    """A training that pauses after iteration 3, in its own process group with its loaders."""
    folder = make_folder(tmp_path, small_spec(), data, workers=request.param, checkpoint_seconds=0)
    process = start_worker(folder, pause_after(3), process_group=0)
    try:
        wait_for_checkpoint(folder, 3, process)
        yield folder, process
    finally:
        process.kill()


def list_live_processes(group: int) -> list[int]:
    """The ids of the live processes of a process group."""
    live = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            live.append(int(path.parent.name))
    return live


@pytest.mark.parametrize("paused", [2], indirect=True)
def test_a_run_saves_after_sigterm_to_all_processes_of_its_job(
    paused: tuple[RunFolder, ForkedProcess],
) -> None:
    folder, process = paused
    assert len(list_live_processes(process.pid)) == 3
    os.killpg(process.pid, signal.SIGTERM)
    finish(process, logs=log_paths(folder))
    assert process.returncode == 75, log(folder)
    assert ends(folder) == ["cancelled"]
    assert "stopped on request; saved at iteration 4" in folder.attempts()[0].message
    assert folder.checkpoint_iteration() == 4, "the loader processes still deliver a batch"
    assert list_live_processes(process.pid) == [], "the loader processes end with the worker"


@pytest.mark.parametrize("paused", [1], indirect=True)
def test_a_run_whose_loader_process_was_killed_is_lost(
    paused: tuple[RunFolder, ForkedProcess],
) -> None:
    folder, process = paused
    (loader,) = set(list_live_processes(process.pid)) - {process.pid}
    os.kill(loader, signal.SIGKILL)
    finish(process, logs=log_paths(folder))
    assert process.returncode == 75, log(folder)
    assert ends(folder) == ["lost"]
    assert "a loader process was killed" in folder.attempts()[0].message
    assert folder.status().state is State.INTERRUPTED, "the next sweep resumes the run"


LOADER_PROCESS = """
import os, signal, time
from protoseg.training.signals import accept_signals_from_parent_only

started, has_started = os.pipe()
child = os.fork()
if not child:
    accept_signals_from_parent_only(0)
    os.write(has_started, b"x")
    time.sleep(600)
os.read(started, 1)
if not os.fork():
    os.kill(child, signal.SIGTERM)
    os._exit(0)
os.wait()

def has_pending_signal():
    lines = open(f"/proc/{child}/status").read().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd"))

# Equal pending signals merge: wait until this one is received before sending the next.
while has_pending_signal():
    time.sleep(0.01)
print(os.waitpid(child, os.WNOHANG))
os.kill(child, signal.SIGTERM)
print(os.waitpid(child, 0)[1])
"""


def test_a_loader_process_only_ends_on_a_signal_of_its_parent() -> None:
    """It ignores a signal from another process. The parent's signal ends even a hanging loader."""
    process = subprocess.run(
        [sys.executable, "-c", LOADER_PROCESS], capture_output=True, text=True, timeout=DEADLINE
    )
    assert process.stdout == "(0, 0)\n0\n", process.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", Reason.LOST),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", Reason.LOST),
        ("Caught RuntimeError in DataLoader worker process 0.", Reason.CODE_ERROR),
    ],
)
def test_torchs_errors_about_loader_processes_have_reasons(text: str, reason: Reason) -> None:
    assert failures.classify_error(RuntimeError(text))[0] is reason


def test_a_batch_of_a_killed_loader_process_is_lost(tmp_path: Path) -> None:
    """The worker fetches the tensors of a batch from the loader process, which has ended."""

    def classify(work: Callable[[], object]) -> Reason:
        try:
            work()
        except Exception as error:
            return failures.classify_error(error)[0]
        raise AssertionError("no error")

    def read_from_closed_pipe() -> None:
        read_end, write_end = multiprocessing.Pipe()
        write_end.close()
        read_end.recv()

    missing = str(tmp_path / "socket")
    assert classify(read_from_closed_pipe) is Reason.LOST
    assert classify(lambda: multiprocessing.connection.Client(missing)) is Reason.LOST
    assert classify(lambda: Path(missing).read_bytes()) is Reason.CODE_ERROR


def test_a_loader_process_lost_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """torch's signal handler raises in the middle of the write; torch.save raises another error."""
    text = "DataLoader worker (pid 7) is killed by signal: Killed. "

    class InterruptedFile(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() == 0 or self.tell() > 9000:
                return super().write(data)
            super().write(data)
            raise RuntimeError(text)

    with pytest.raises(RuntimeError) as caught:
        checkpoint._write_state({"weights": torch.zeros(1000)}, InterruptedFile())
    assert text not in str(caught.value), "torch.save raises another error"
    assert failures.is_lost_loader(caught.value)
    assert not failures.is_lost_loader(RuntimeError("something else"))
