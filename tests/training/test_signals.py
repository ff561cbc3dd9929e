"""Signals that reach more than the worker: its loader processes, as a scheduler's do."""

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
    """A training with loader processes that pauses after iteration 3, in its own process group."""
    folder = make_folder(tmp_path, small_spec(), data, workers=request.param, checkpoint_seconds=0)
    process = start_worker(folder, pause_after(3), process_group=0)
    try:
        wait_for_checkpoint(folder, 3, process)
        yield folder, process
    finally:
        process.kill()


def of_group(group: int) -> list[int]:
    """The processes of a group that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("paused", [2], indirect=True)
def test_sigterm_to_all_processes_of_a_job_still_saves(
    paused: tuple[RunFolder, ForkedProcess],
) -> None:
    folder, process = paused
    assert len(of_group(process.pid)) == 3
    os.killpg(process.pid, signal.SIGTERM)
    finish(process, logs=log_paths(folder))
    assert process.returncode == 75, log(folder)
    assert ends(folder) == ["cancelled"]
    assert "SIGTERM; saved at iteration 4" in folder.attempts()[0].message
    assert folder.checkpoint_iteration() == 4, "the loader processes still gave it a batch"
    assert of_group(process.pid) == [], "the loader processes end with it"


@pytest.mark.parametrize("paused", [1], indirect=True)
def test_a_killed_loader_process_is_no_error_of_the_code(
    paused: tuple[RunFolder, ForkedProcess],
) -> None:
    folder, process = paused
    (loader,) = set(of_group(process.pid)) - {process.pid}
    os.kill(loader, signal.SIGKILL)
    finish(process, logs=log_paths(folder))
    assert process.returncode == 75, log(folder)
    assert ends(folder) == ["lost"]
    assert "a loader process is gone" in folder.attempts()[0].message
    assert folder.status().state is State.INTERRUPTED, "the next sweep goes on"


LOADER_PROCESS = """
import os, signal, time
from protoseg.training.signals import keep_loading

started, has_started = os.pipe()
child = os.fork()
if not child:
    keep_loading(0)
    os.write(has_started, b"x")
    time.sleep(600)
os.read(started, 1)
if not os.fork():
    os.kill(child, signal.SIGTERM)
    os._exit(0)
os.wait()

def pending():
    lines = open(f"/proc/{child}/status").read().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd"))

# Two pending signals of one number are one: send the next when this one has been taken.
while pending():
    time.sleep(0.01)
print(os.waitpid(child, os.WNOHANG))
os.kill(child, signal.SIGTERM)
print(os.waitpid(child, 0)[1])
"""


def test_a_loader_process_ends_when_its_parent_asks() -> None:
    """Another process's signal is ignored; its parent's ends it, even if the loader hangs."""
    done = subprocess.run(
        [sys.executable, "-c", LOADER_PROCESS], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stdout == "(0, 0)\n0\n", done.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", Reason.LOST),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", Reason.LOST),
        ("Caught RuntimeError in DataLoader worker process 0.", Reason.CODE_ERROR),
    ],
)
def test_what_torch_says_of_a_loader_process(text: str, reason: Reason) -> None:
    assert failures.reason_of(RuntimeError(text))[0] is reason


def test_a_batch_that_died_with_its_loader_is_no_error_of_the_code(tmp_path: Path) -> None:
    """The worker fetches the tensors of a batch from the loader process, which is gone."""

    def reason(work: Callable[[], object]) -> Reason:
        try:
            work()
        except Exception as error:
            return failures.reason_of(error)[0]
        raise AssertionError("no error")

    def read_from_one_that_has_left() -> None:
        mine, other = multiprocessing.Pipe()
        other.close()
        mine.recv()

    gone = str(tmp_path / "socket")
    assert reason(read_from_one_that_has_left) is Reason.LOST
    assert reason(lambda: multiprocessing.connection.Client(gone)) is Reason.LOST
    assert reason(lambda: Path(gone).read_bytes()) is Reason.CODE_ERROR


def test_a_loader_process_lost_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """torch hears of it by a signal: what it raises cuts the file short, and torch complains."""
    text = "DataLoader worker (pid 7) is killed by signal: Killed. "

    class Interrupted(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() == 0 or self.tell() > 9000:
                return super().write(data)
            super().write(data)
            raise RuntimeError(text)

    with pytest.raises(RuntimeError) as seen:
        checkpoint._write({"weights": torch.zeros(1000)}, Interrupted())
    assert text not in str(seen.value), "torch names its own error"
    assert failures.is_lost_loader(seen.value)
    assert not failures.is_lost_loader(RuntimeError("something else"))
