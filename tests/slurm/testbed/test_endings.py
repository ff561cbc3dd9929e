"""Tests that each end of a real job gives its attempts their reasons.

`runs.test_end_reasons` lists the test of each row of the table.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch.harness import Harness
from testbed.testbed import Testbed

from protoseg import files
from protoseg.launch.diagnosis import record_job_end
from protoseg.runs import claim
from protoseg.runs.attempts import Attempt
from protoseg.runs.claim import host_identity, process_start
from protoseg.runs.folder import RunFolder, now
from protoseg.runs.states import Reason
from protoseg.slurm.client import SlurmClient
from protoseg.slurm.jobs import Job
from slurm.testbed.test_client import Jobs
from slurm.testbed.test_submit import (
    ROWS,
    STOPPED,
    harness,
    list_attempts,
    read_states,
    run_sweep,
    wait_done,
    wait_for_one_folder,
    wait_for_state,
)

__all__ = ["harness"]

FAILING = "case $SLURM_ARRAY_TASK_ID in 0) exit 7;; 1) kill -9 $$;; 2) exit 74;; 3) exit 78;; esac"
ONCE = "[ ${SLURM_RESTART_COUNT:-0} = 0 ] || exit 0\n"
"""The second start of a requeued job completes at once."""


@pytest.fixture
def jobs(cluster: Testbed, tmp_path: Path) -> Jobs:
    return Jobs(tmp_path, cluster)


def begin_attempt(folder: Path, key: str) -> RunFolder:
    """Begin an attempt as a worker of a job does that dies later."""
    run = RunFolder(folder / key)
    start = {"time": now(), "pid": os.getpid(), "job": key, "restarts": 0, "iteration": 0}
    run.start_attempt(start)
    return run


def wait_ended(cluster: Testbed, key: str) -> Job:
    """Wait until a job has ended, also in accounting, and return SLURM's view of it."""
    client = SlurmClient()
    ended: list[Job] = []

    def has_ended() -> bool:
        job = client.query_jobs([key], fresh=True).jobs.get(key)
        starts = client.list_starts(key)
        if job is None or not job.has_ended or not starts or not starts[-1].has_ended:
            return False
        # Accounting has the state of a cancelled job before the user who cancelled it.
        if job.state == "CANCELLED" and not (job.by and starts[-1].by):
            return False
        ended.append(job)
        return True

    cluster.wait_until(f"the end of {key}", has_ended)
    return ended[-1]


def wait_running(cluster: Testbed, *keys: str) -> None:
    def running() -> bool:
        jobs = SlurmClient().query_jobs(keys, fresh=True).jobs
        return all(key in jobs and jobs[key].state == "RUNNING" for key in keys)

    cluster.wait_until(f"the start of {', '.join(keys)}", running)


def record_end(run: RunFolder, job: Job) -> Attempt:
    """Record the end of a job, and return the first attempt."""
    assert record_job_end(run, job.id, job, accounting=True, past=SlurmClient().list_starts)
    return run.attempts()[0]


def test_a_job_that_failed_gives_its_exit_status(
    cluster: Testbed, jobs: Jobs, tmp_path: Path
) -> None:
    array = jobs.submit("--array=0-3", script=FAILING)
    expected = {
        0: (Reason.LOST, "with exit status 7"),
        1: (Reason.LOST, "killed by signal 9"),
        2: (Reason.STORAGE, "could not be written"),
    }
    for task, (reason, text) in expected.items():
        key = f"{array}_{task}"
        attempt = record_end(begin_attempt(tmp_path, key), wait_ended(cluster, key))
        assert attempt.reason is reason, attempt.message
        assert text in attempt.message
    guessed = begin_attempt(tmp_path / "guessed", f"{array}_1")
    end = {"time": now(), "reason": "lost", "message": "SIGTERM; SLURM did not answer why"}
    files.create_json(guessed.attempts_folder / "0001" / "end.json", end)
    assert "did not answer" in record_end(guessed, wait_ended(cluster, f"{array}_1")).message
    unbegun = RunFolder(tmp_path / "unbegun")
    assert record_end(unbegun, wait_ended(cluster, f"{array}_3")).reason is Reason.BAD_CONFIG
    assert record_end(unbegun, wait_ended(cluster, f"{array}_0")).reason is Reason.BAD_CONFIG
    assert [attempt.reason for attempt in unbegun.attempts()] == [Reason.BAD_CONFIG, Reason.LOST]


def test_a_job_that_slurm_ended_gives_slurms_reason(
    cluster: Testbed, jobs: Jobs, tmp_path: Path
) -> None:
    sleep = f"{ONCE}exec sleep 600"
    array = jobs.submit("--array=0-2", "--nodelist=node1", script=sleep)
    preempted = jobs.submit("--array=0", "--nodelist=node2", script=sleep) + "_0"
    cancelled, limited, requeued = (f"{array}_{task}" for task in range(3))
    wait_running(cluster, cancelled, limited, requeued, preempted)
    keys = [cancelled, limited, requeued, preempted]
    runs = {key: begin_attempt(tmp_path, key) for key in keys}
    cluster.query("scontrol", "update", f"JobId={limited}", "EndTime=now+1")
    cluster.query("scancel", cancelled)
    cluster.query("scontrol", "requeue", requeued)
    urgent = ["--partition=urgent", "--nodelist=node2", "--cpus-per-task=8"]
    jobs.submit(*urgent, script="sleep 1")
    expected = {
        cancelled: (Reason.CANCELLED, "cancelled by root"),
        limited: (Reason.TIMEOUT, "(TIMEOUT)"),
        requeued: (Reason.PREEMPTED, "(REQUEUED)"),
        preempted: (Reason.PREEMPTED, "(PREEMPTED)"),
    }
    for key, (reason, text) in expected.items():
        job = wait_ended(cluster, key)
        attempt = record_end(runs[key], job)
        assert attempt.reason is reason, (attempt, job, SlurmClient().list_starts(key))
        assert text in attempt.message
        assert len(runs[key].attempts()) == 1, "the second start completed without an attempt"


def test_a_dead_node_is_the_reason_also_after_a_start_without_a_row(
    cluster: Testbed, jobs: Jobs, tmp_path: Path
) -> None:
    """The job is launched on a dead node first: SLURM has one row for this start and the next."""
    never = jobs.submit("--array=0", "--nodelist=node2", "--no-requeue", script="exec sleep 600")
    wait_running(cluster, f"{never}_0")
    unrequeued = begin_attempt(tmp_path, f"{never}_0")
    cluster.kill_node("node2")
    full = "[ ${SLURM_RESTART_COUNT:-0} -gt 1 ] && exit 74\nexec sleep 600"
    key = jobs.submit("--array=0", "--nodelist=node2", script=full) + "_0"
    wait_running(cluster, key)
    cluster.declare_down("node2")
    cluster.start_slurmd("node2")
    client = SlurmClient()

    def restarted() -> bool:
        job = client.query_jobs([key], fresh=True).jobs[key]
        return job.state == "RUNNING" and job.restarts == 1

    cluster.wait_until(f"the second start of {key}", restarted)
    run = begin_attempt(tmp_path, key)
    start = run.attempts()[0].start
    (run.attempts_folder / "0001" / "start.json").unlink()
    run.attempts_folder.joinpath("0001").rmdir()
    run.start_attempt({**start, "restarts": 1})
    cluster.kill_node("node2")
    cluster.declare_down("node2")
    cluster.start_slurmd("node2")
    job = wait_ended(cluster, key)
    attempt = record_end(run, job)
    assert attempt.reason is Reason.NODE_FAILURE, attempt.message
    assert [each.reason for each in run.attempts()] == [Reason.NODE_FAILURE, Reason.STORAGE]
    attempt = record_end(unrequeued, wait_ended(cluster, f"{never}_0"))
    assert attempt.reason is Reason.NODE_FAILURE, attempt.message
    record_job_end(again := begin_attempt(tmp_path / "no accounting", key), key, job)
    first, second = again.attempts()
    assert (first.reason, second.reason) == (Reason.LOST, Reason.STORAGE)
    assert "SLURM requeued its job" in first.message


def test_a_job_killed_for_its_memory_is_out_of_memory(
    strict_cluster: Testbed, tmp_path: Path
) -> None:
    hungry = f"exec {sys.executable} -c 'a = bytearray(400_000_000); print(len(a))'"
    jobs = Jobs(tmp_path, strict_cluster)
    key = jobs.submit("--array=0", "--mem=100M", script=hungry) + "_0"
    attempt = record_end(begin_attempt(tmp_path, key), wait_ended(strict_cluster, key))
    assert attempt.reason is Reason.OUT_OF_MEMORY, attempt.message


def test_a_dead_worker_is_lost_if_its_job_meets_its_time_limit_later(
    cluster: Testbed, jobs: Jobs, tmp_path: Path
) -> None:
    """SLURM does not notice the end of the worker, here of a process that holds the claim."""
    key = jobs.submit("--array=0", "--nodelist=node1", script="exec sleep 600") + "_0"
    wait_running(cluster, key)
    run = RunFolder(tmp_path / key)
    run.path.mkdir()
    worker = (
        "import os, sys, time; from protoseg.runs import claim; from pathlib import Path\n"
        "from protoseg.runs.folder import RunFolder, now\n"
        "run = RunFolder(Path(sys.argv[1])); claim.acquire(run.claim, job=sys.argv[2])\n"
        "start = dict(time=now(), pid=os.getpid(), job=sys.argv[2], restarts=0, iteration=0)\n"
        "run.start_attempt(start); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", worker, str(run.path), key])
    cluster.wait_until("the attempt", lambda: len(run.attempts()) == 1)
    process.kill()
    process.wait()
    held = claim.read_claim(run.claim)
    assert held is not None
    assert held[0].host == host_identity()
    assert process_start(held[0].pid) is None
    cluster.query("scontrol", "update", f"JobId={key}", "EndTime=now+45")
    attempt = record_end(run, wait_ended(cluster, key))
    assert attempt.reason is Reason.LOST, attempt.message
    assert "last sign of life" in attempt.message
    assert "(TIMEOUT)" in attempt.message


@pytest.fixture
def small_disk(harness: Harness) -> Iterator[Path]:
    """A disk of 64 MiB for the runs folder."""
    harness.runs.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "runs", str(harness.runs)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a disk here")
    yield harness.runs
    harness.end_processes()
    subprocess.run(["umount", "--lazy", str(harness.runs)], check=True)


def test_a_worker_on_a_full_disk_ends_for_its_storage(
    harness: Harness, cluster: Testbed, small_disk: Path
) -> None:
    matrix = harness.matrix(ROWS[:1], [0], **STOPPED)
    run_sweep(harness, matrix)
    folder = wait_for_one_folder(harness)
    worker = harness.wait_for_pause(folder)
    job = folder.attempts()[0].job
    filling = small_disk / "filling"
    subprocess.run(["dd", "if=/dev/zero", f"of={filling}", "bs=4k"], capture_output=True)
    os.kill(worker, signal.SIGTERM)
    wait_ended(cluster, job)
    filling.unlink()
    wait_for_state(harness, matrix, lambda runs: runs[0]["state"] == "interrupted", "the end")
    (attempt,) = list_attempts(harness, folder.run_id)
    assert (attempt["reason"], attempt["state"]) == ("storage", "ended")


def test_every_attempt_of_a_finished_run_has_an_ending(harness: Harness, cluster: Testbed) -> None:
    """The first attempt's end is unknown to its task; the second one's worker dies at its end."""
    matrix = harness.matrix(ROWS[:1], [0], **STOPPED)
    run_sweep(harness, matrix, "cluster.checkpoint_seconds=0")
    folder = wait_for_one_folder(harness)
    harness.wait_for_pause(folder)
    (run,) = read_states(harness, matrix)
    cluster.kill_node(run["host"])
    cluster.declare_down(run["host"])
    cluster.start_slurmd(run["host"])
    harness.wait_until(lambda: len(folder.attempts()) == 2, "the second attempt")
    wait_done(harness, matrix, 1)
    paths = [folder.attempts_folder / f"000{number}" for number in (1, 2)]
    (paths[0] / "verdict.json").unlink()  # as if the disk had been full then
    harness.wait_until((paths[1] / "end.json").exists, "the end of the second attempt")
    wait_ended(cluster, folder.attempts()[1].job)
    (paths[1] / "end.json").unlink()  # as if the worker was killed after it wrote the record
    for settled in (harness.runs / ".submissions").glob("*/settled.json"):
        settled.unlink()
    assert read_states(harness, matrix)[0]["state"] == "done"
    first, second = folder.attempts()
    assert (first.reason, first.verdict is not None) == (Reason.NODE_FAILURE, True)
    assert second.ending is not None
    assert (second.reason, second.message) == (None, "record written")
    for settled in (harness.runs / ".submissions").glob("*/settled.json"):
        assert "0" in settled.read_text(), "the task needs no more queries"
