"""Signals that reach more than the worker: its loader processes, as a scheduler's do."""

from __future__ import annotations

import io
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason, State
from protoseg.training import checkpoint, endings

from .small import ends, log, make_folder, small_spec
from .test_worker import SLOW, wait_for


def start(folder: RunFolder) -> subprocess.Popen[bytes]:
    """A slow worker in a process group of its own."""
    program = f"import sys\nfrom protoseg.training import worker\n{SLOW}\nsys.exit(worker.main())"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder.path)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        process_group=0,
    )


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


def logs(folder: RunFolder) -> str:
    return log(folder) if list(folder.attempts_folder.glob("*/log.txt")) else ""


def test_sigterm_to_all_processes_of_a_job_still_saves(data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, small_spec("schedule.iterations=90"), data, workers=2)
    process = start(folder)
    try:
        wait_for(lambda: "iteration 3/90" in logs(folder))
        assert len(of_group(process.pid)) == 3
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 75, log(folder)
    finally:
        process.kill()
        process.wait()
    assert ends(folder) == ["cancelled"]
    assert "SIGTERM; saved at iteration" in folder.attempts()[0].message
    assert 3 <= folder.checkpoint_iteration() < 90
    assert of_group(process.pid) == [], "the loader processes end with it"


def test_a_killed_loader_process_is_no_error_of_the_code(data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, small_spec("schedule.iterations=90"), data, workers=1)
    process = start(folder)
    try:
        wait_for(lambda: "iteration 3/90" in logs(folder))
        (loader,) = set(of_group(process.pid)) - {process.pid}
        os.kill(loader, signal.SIGKILL)
        assert process.wait(60) == 75, log(folder)
    finally:
        process.kill()
        process.wait()
    assert ends(folder) == ["lost"]
    assert "a loader process is gone" in folder.attempts()[0].message
    assert folder.status().state is State.INTERRUPTED, "the next sweep goes on"


def test_a_loader_process_ends_when_its_parent_says_so(tmp_path: Path) -> None:
    """Not by anybody else's signal; by its parent's, which a loader that hangs must obey."""
    code = """
import os, signal, time
from protoseg.training.stop import keep_loading
child = os.fork()
if not child:
    keep_loading(0)
    time.sleep(60)
time.sleep(0.5)
if not os.fork():
    os.kill(child, signal.SIGTERM)
    os._exit(0)
os.wait()
time.sleep(0.5)
print(os.waitpid(child, os.WNOHANG))
os.kill(child, signal.SIGTERM)
print(os.waitpid(child, 0)[1])
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout == "(0, 0)\n0\n", done.stderr
    assert time.monotonic() - begun < 40


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", Reason.LOST),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", Reason.LOST),
        ("Caught RuntimeError in DataLoader worker process 0.", Reason.CODE_ERROR),
    ],
)
def test_what_torch_says_of_a_loader_process(text: str, reason: Reason) -> None:
    assert endings.reason_of(RuntimeError(text))[0] is reason


def test_a_batch_that_died_with_its_loader_is_no_error_of_the_code(tmp_path: Path) -> None:
    """The worker fetches the tensors of a batch from the loader process, which is gone."""

    def reason(work: Callable[[], object]) -> Reason:
        try:
            work()
        except Exception as error:
            return endings.reason_of(error)[0]
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
    assert endings.is_lost_loader(seen.value)
    assert not endings.is_lost_loader(RuntimeError("something else"))
