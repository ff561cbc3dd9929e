"""Tests of one run on two processes of a real srun: on one node, on two, and with failures."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training.small import ends, log, make_folder, small_spec
from training.test_worker import SPEC, assert_same_result
from waiting import wait_until

from protoseg.config.schema import RunSpec
from protoseg.datasets.layout import find_root
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record

SECOND_FAILS = """
import os
from protoseg.errors import DataError
from protoseg.training.loop import TrainingLoop
inner = TrainingLoop._note
def fail(self, iteration, losses):
    inner(self, iteration, losses)
    if iteration == 3 and os.environ["SLURM_PROCID"] == "1":
        raise DataError("images/00003.png: cannot be read")
TrainingLoop._note = fail
"""
SECOND_IS_KILLED = SECOND_FAILS.replace(
    'raise DataError("images/00003.png: cannot be read")', "os.kill(os.getpid(), 9)"
)
PAUSE = """
import time
from protoseg.training.loop import TrainingLoop
report = TrainingLoop._report
def pause(self, iteration):
    report(self, iteration)
    while iteration == 6 and self.stop.signal_number is None:
        time.sleep(0.02)
TrainingLoop._report = pause
"""
"""Every process pauses after iteration 6 until a signal arrives."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    find_root(small_spec().dataset, folder)
    return folder


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return small_spec(*SPEC)


class Job:
    """A batch job whose only step is a worker of two processes."""

    def __init__(self, cluster: Any, folder: RunFolder, *options: str, code: str = "") -> None:
        self.cluster = cluster
        self.output = folder.path / f"job-{time.monotonic_ns()}.txt"
        program = f"import sys\nfrom protoseg.training import worker\n{code}\n"
        program += "sys.exit(worker.main(sys.argv[1:]))"
        worker = shlex.join([sys.executable, "-c", program, str(folder.path)])
        script = folder.path / "job.sh"
        script.write_text(
            "#!/bin/sh\nexport OMP_NUM_THREADS=1\n"
            f"srun --ntasks=2 --kill-on-bad-exit=1 --unbuffered {worker}\n"
            'echo "srun ended with $?"\n'
        )
        self.id = cluster.query(
            *("sbatch", "--parsable", "--ntasks=2", *options, "--time=5", "--mem=2G"),
            *(f"--output={self.output}", str(script)),
        ).strip()

    def end(self) -> int:
        """Wait for the end of srun, and return its exit status."""
        statuses: list[str] = []

        def has_ended() -> bool:
            text = self.output.read_text() if self.output.exists() else ""
            statuses[:] = re.findall(r"srun ended with (\d+)", text)
            return bool(statuses)

        wait_until(has_ended, f"the end of job {self.id}", logs=self.logs(), poll_seconds=0.1)
        return int(statuses[0])

    def logs(self) -> Iterator[Path]:
        """Yield the output of the job and the logs of its workers."""
        yield self.output
        yield from self.output.parent.glob("attempts/*/log*.txt")


def assert_finished(folder: RunFolder, job: Job) -> None:
    """Assert that the newest attempt, with two processes, wrote the record."""
    assert job.end() == 0, job.output.read_text() + log(folder)
    record = read_record(folder.record)
    assert record["provenance"]["processes"] == 2
    assert record["metrics"]["images"] == 4
    attempt = folder.attempts()[-1]
    assert attempt.start["job"] == job.id
    assert attempt.start["node"] in job.cluster.nodes
    assert attempt.start["processes"] == 2
    assert not list(folder.path.glob(".meeting*"))


def test_two_processes_train_one_run_and_resume_bit_identically(
    cluster: Any, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    """One run is undisturbed; of the other one process is killed, then it is stopped on request.

    All jobs use one node, but the last one uses two.
    """
    undisturbed = make_folder(tmp_path / "undisturbed", spec, data)
    assert_finished(undisturbed, Job(cluster, undisturbed, "--nodes=1"))
    assert len(undisturbed.attempts()) == 1
    folder = make_folder(tmp_path / "disturbed", spec, data, checkpoint_seconds=0)
    job = Job(cluster, folder, "--nodes=1", code=SECOND_IS_KILLED)
    assert job.end() == 137, "srun ends the other process"
    assert ends(folder) == ["lost"], (
        "recorded by the first process, or derived from the missing end"
    )
    job = Job(cluster, folder, "--nodes=1", code=PAUSE)
    wait_until(lambda: "iteration 6/12" in log(folder), "the sixth iteration", logs=job.logs())
    cluster.query("scancel", "--signal=USR2", job.id)
    assert job.end() in (75, 137), "137: srun kills processes that are about to exit"
    assert len(ends(folder)) == 2
    assert re.search(r"resuming from iteration [23]\n", log(folder))
    assert "; saved" in folder.attempts()[1].message
    checkpoints = [path.name for path in folder.checkpoints.glob("*.pth")]
    assert len(checkpoints) <= 2, "one file of both processes, and the one before it"
    assert max(checkpoints) in ("iter_00000006.pth", "iter_00000007.pth")
    assert not folder.claim.exists()
    assert_finished(folder, Job(cluster, folder, "--nodes=2"))
    assert re.search(r"resuming from iteration [67]\n", log(folder))
    assert [ends(folder)[0], ends(folder)[2]] == ["lost", None]
    assert_same_result(folder, undisturbed)


def test_the_reason_of_the_second_process_is_recorded(
    cluster: Any, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data)
    job = Job(cluster, folder, "--nodes=1", code=SECOND_FAILS)
    assert job.end() in (1, 137)
    assert ends(folder) == ["bad_data"]
    assert folder.attempts()[0].message.startswith("process 1 of 2: images/00003.png")
