"""Tests of sweeps on a real SLURM, undisturbed and with faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launch.harness import Harness
from testbed.testbed import Testbed
from waiting import wait_until

from protoseg import files
from protoseg.launch.submission import open_submissions, read_submission
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.runs.states import Reason, State

TINY = {"backbone": "tiny", "decoder": "fcn"}
ROWS = [
    {"label": "parametric", "method": "parametric", **TINY},
    {"label": "prototypes", "method": "released", **TINY},
]
TUNED = Path(__file__).parents[2] / "cli" / "tuning" / "tuned.yaml"
"""A matrix of two rows x three trials, then two rows x two seeds."""
TWO_TRIALS = ("trials: 3", "trials: 2")
ONE_ROW = ("  - {label: Parametric, method: parametric}\n", "")
ONE_SEED = ("seeds: [0, 1]", "seeds: [0]")
"""Changes of the matrix: every run is a job, which imports torch and mmseg anew."""
LATER = "cluster.sbatch={begin: now+2hours}"
STOPPED = {"iterations": 8, "pause_after": 6}
"""Runs that pause after iteration 6, where the test stops them."""


@pytest.fixture
def harness(
    cluster: Testbed, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    data = tmp_path_factory.getbasetemp() / "slurm-data"
    harness = Harness(tmp_path, data, dict(cluster.env))
    yield harness
    for submission in open_submissions(harness.runs):
        cluster.run("scancel", f"--name={submission.name}")
    harness.end_processes()


def run_sweep(
    harness: Harness, matrix: str, *arguments: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = harness.run("sweep", matrix, "cluster=testbed", "cluster.memory=1G", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def copy_matrix(harness: Harness, *changes: tuple[str, str]) -> str:
    """Copy the matrix of a search into the folder of the test, with another text."""
    path = Path(shutil.copy(TUNED, harness.folder))
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return str(path)


def read_states(harness: Harness, matrix: str) -> list[dict[str, Any]]:
    for answers in (harness.runs / ".submissions").glob("*.json"):
        answers.unlink()  # cached answers are valid for 10 s
    done = harness.run("status", matrix, "--json")
    assert "Traceback" not in done.stderr
    runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    return runs


def list_attempts(harness: Harness, run: str) -> list[dict[str, Any]]:
    done = harness.run("logs", run, "--list", "--json")
    assert done.returncode == 0, done.stderr
    attempts: list[dict[str, Any]] = json.loads(done.stdout)
    return attempts


def wait_for_one_folder(harness: Harness) -> RunFolder:
    (folder,) = harness.wait_for_folders()
    return folder


def wait_for_state(
    harness: Harness, matrix: str, condition: Callable[[list[dict[str, Any]]], bool], what: str
) -> None:
    """Wait until the output of ``protoseg status`` fulfils a condition."""
    # Each poll is a command, so pauses are longer.
    wait_until(
        lambda: condition(read_states(harness, matrix)), what, logs=harness.logs(), poll_seconds=1
    )


def wait_done(harness: Harness, matrix: str, runs: int) -> None:
    """Wait until all runs have records and status shows them as done."""
    harness.wait_until(
        lambda: len(list(harness.runs.glob("*/record.json"))) == runs, f"{runs} records"
    )
    wait_for_state(harness, matrix, lambda runs: all(r["state"] == "done" for r in runs), "done")


def wait_for_end(harness: Harness, cluster: Testbed, job: str) -> None:
    """Wait until no task of a job waits or runs."""
    query = ("squeue", "--noheader", f"--jobs={job}", "--states=pending,running")
    harness.wait_until(lambda: cluster.query(*query) == "", f"the end of job {job}")


def install_sbatch_wrapper(harness: Harness, script: str) -> None:
    """Install an ``sbatch`` script before the real one on PATH."""
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    folder = harness.folder / "bin"
    folder.mkdir()
    path = folder / "sbatch"
    path.write_text(f"#!/bin/bash\n{script.replace('REAL', real)}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    harness.environment["PATH"] = f"{folder}:{os.environ['PATH']}"


def test_a_submitted_sweep_finishes_without_the_submitter(harness: Harness) -> None:
    matrix = harness.matrix(ROWS, [0])
    planned = harness.run("plan", matrix, "cluster=testbed", "--sbatch")
    assert planned.returncode == 0, planned.stderr
    assert "#SBATCH --array=0-1" in planned.stdout
    assert harness.folders() == []
    first = run_sweep(harness, matrix)
    assert "2 runs, each 1 core" in first.stdout
    again = run_sweep(harness, matrix)
    assert "Nothing to submit" in again.stdout
    assert len(list((harness.runs / ".submissions").glob("*-*"))) == 1
    wait_done(harness, matrix, 2)
    for folder in harness.folders():
        assert read_record(folder.record)["attempts"] == 1
        (attempt,) = list_attempts(harness, folder.run_id)
        assert (attempt["state"], attempt["node"][:4]) == ("done", "node")
    assert "Nothing to submit" in run_sweep(harness, matrix).stdout
    tables = harness.run("tables", matrix, "--out", str(harness.folder / "tables"))
    assert tables.returncode == 0, tables.stderr
    assert "iteration 6/6" in harness.run("logs", harness.folders()[0].run_id).stdout
    assert open_submissions(harness.runs) == [], "no task needs a query"


def test_a_run_with_a_killed_worker_is_requeued(harness: Harness) -> None:
    matrix = harness.matrix(ROWS[:1], [0], **STOPPED)
    run_sweep(harness, matrix, "cluster.checkpoint_seconds=0")
    folder = wait_for_one_folder(harness)
    os.kill(harness.wait_for_pause(folder), signal.SIGKILL)
    wait_done(harness, matrix, 1)
    first, second = list_attempts(harness, folder.run_id)
    assert (first["reason"], first["job"]) == ("lost", second["job"])
    assert "SIGKILL" in first["message"]
    assert (second["state"], second["restarts"]) == ("done", 1)
    assert second["iteration"] == 6


def test_a_node_set_down_is_the_reason_while_its_worker_lives(
    harness: Harness, cluster: Testbed
) -> None:
    matrix = harness.matrix(ROWS[:1], [0], **STOPPED)
    run_sweep(harness, matrix)
    folder = wait_for_one_folder(harness)
    harness.wait_for_pause(folder)
    (run,) = read_states(harness, matrix)
    cluster.kill_slurmd(run["host"])
    cluster.declare_down(run["host"])
    assert "RUNNING" not in cluster.query("squeue", "--noheader", "--format=%T")
    cluster.start_slurmd(run["host"])
    harness.wait_until(lambda: folder.attempts()[0].ending, "the end of the first attempt")
    assert folder.attempts()[0].reason is Reason.NODE_FAILURE
    assert harness.run("cancel", matrix).returncode == 0


def test_a_run_cancelled_after_its_node_died_has_a_reason(
    harness: Harness, cluster: Testbed
) -> None:
    matrix = harness.matrix(ROWS[:1], [0], **STOPPED)
    run_sweep(harness, matrix)
    folder = wait_for_one_folder(harness)
    harness.wait_for_pause(folder)
    (run,) = read_states(harness, matrix)
    cluster.kill_node(run["host"])
    assert harness.run("cancel", matrix).returncode == 0
    cluster.start_slurmd(run["host"])
    wait_for_state(harness, matrix, lambda runs: runs[0]["state"] == "interrupted", "the cancel")
    (attempt,) = list_attempts(harness, folder.run_id)
    assert attempt["reason"] in ("cancelled", "node_failure", "lost")


def test_cancelled_runs_save_and_wait_for_the_next_sweep(
    harness: Harness, cluster: Testbed
) -> None:
    """One is cancelled by protoseg, the other by scancel."""
    matrix = harness.matrix(ROWS, [0], **STOPPED)
    run_sweep(harness, matrix, "cluster.checkpoint_seconds=600")
    for folder in harness.wait_for_folders(2):
        harness.wait_for_pause(folder)
    first, second = read_states(harness, matrix)
    done = harness.run("cancel", first["run_id"])
    assert done.returncode == 0, done.stderr
    assert "1 running" in done.stdout
    cluster.query("scancel", second["job"])
    wait_for_state(
        harness,
        matrix,
        lambda runs: (
            {(run["state"], run["reason"]) for run in runs} == {("interrupted", "cancelled")}
        ),
        "two cancelled runs",
    )
    for folder in harness.folders():
        assert folder.checkpoint_iteration() == 7, "the worker saved before its end"
    run_sweep(harness, matrix)
    wait_done(harness, matrix, 2)
    for folder in harness.folders():
        assert [attempt.began_at for attempt in folder.attempts()] == [0, 7]


def test_pending_jobs_can_be_cancelled(harness: Harness, cluster: Testbed) -> None:
    matrix = harness.matrix(ROWS, [0])
    run_sweep(harness, matrix, LATER)
    first, second = read_states(harness, matrix)
    assert (first["state"], second["state"]) == ("queued", "queued")
    wait_for_state(
        harness,
        matrix,
        lambda runs: "BeginTime" in runs[0]["message"],
        "the reason why the job waits",
    )
    assert harness.run("cancel", first["run_id"]).returncode == 0
    cluster.query("scancel", second["job"])
    wait_for_state(
        harness, matrix, lambda runs: runs[1]["state"] == "interrupted", "the second one's end"
    )
    first, second = read_states(harness, matrix)
    assert (first["state"], first["attempts"]) == ("new", 0), "the run never began"
    assert second["reason"] == "cancelled"
    assert "Nothing to cancel" in harness.run("cancel", matrix).stdout


def test_a_run_with_bad_data_is_not_retried(harness: Harness, cluster: Testbed) -> None:
    matrix = harness.matrix(ROWS[:1], [0])
    run_sweep(harness, matrix, "dataset.digest=" + "0" * 64)
    folder = wait_for_one_folder(harness)
    harness.wait_until(lambda: folder.status().state is State.FAILED, "the failure")
    (attempt,) = list_attempts(harness, folder.run_id)
    assert attempt["reason"] == "bad_data"
    wait_for_end(harness, cluster, attempt["job"])
    assert len(folder.attempts()) == 1
    again = run_sweep(harness, matrix, "dataset.digest=" + "0" * 64, code=1)
    assert "--retry-failed" in again.stderr


def test_a_script_that_cannot_start_gives_a_reason(harness: Harness) -> None:
    matrix = harness.matrix(ROWS[:1], [0])
    run_sweep(harness, matrix, "cluster.modules=[no-such-module]")
    wait_for_state(harness, matrix, lambda runs: runs[0]["attempts"] == 1, "the end of the job")
    (run,) = read_states(harness, matrix)
    assert (run["state"], run["reason"]) == ("failed", "bad_config")
    assert "module" in run["message"]
    assert "module" in harness.run("logs", run["run_id"], "--batch").stdout


def test_the_next_sweep_finds_the_job_of_a_killed_sweep(harness: Harness, cluster: Testbed) -> None:
    matrix = harness.matrix(ROWS, [0])
    install_sbatch_wrapper(harness, 'REAL "$@"; touch "$0.done"; sleep 600')
    process = harness.start("sweep", matrix, "cluster=testbed", LATER)
    harness.wait_until((harness.folder / "bin" / "sbatch.done").exists, "the submission")
    os.killpg(process.pid, signal.SIGKILL)
    harness.finish(process)
    (submission,) = open_submissions(harness.runs)
    assert submission.job_id == "", "the answer was lost"
    assert {run["state"] for run in read_states(harness, matrix)} == {"queued"}
    harness.environment["PATH"] = os.environ["PATH"]
    assert "Nothing to submit" in run_sweep(harness, matrix, LATER).stdout
    reconciled = read_submission(submission.folder)
    assert reconciled is not None
    queued = cluster.query("squeue", "--noheader", f"--name={submission.name}", "--format=%F")
    assert reconciled.job_id in queued.split()
    assert harness.run("cancel", matrix).returncode == 0


def test_the_next_sweep_submits_the_runs_of_a_killed_sweep(
    harness: Harness, cluster: Testbed
) -> None:
    matrix = harness.matrix(ROWS, [0])
    install_sbatch_wrapper(harness, 'touch "$0.done"; sleep 600')
    process = harness.start("sweep", matrix, "cluster=testbed", LATER)
    harness.wait_until((harness.folder / "bin" / "sbatch.done").exists, "the submission")
    os.killpg(process.pid, signal.SIGKILL)
    harness.finish(process)
    (lost,) = open_submissions(harness.runs)
    # So old that the next sweep does not wait for its sbatch.
    earlier = {**lost.intent, "clock": lost.intent["clock"] - 60}
    files.write_json(lost.folder / "intent.json", earlier)
    harness.environment["PATH"] = os.environ["PATH"]
    assert "submitted  job" in run_sweep(harness, matrix, LATER).stdout
    assert lost.is_withdrawn
    # The job arrives later: its tasks find the withdrawal and exit without training.
    script = str(lost.folder / "script.sh")
    job = cluster.query("sbatch", "--parsable", "--begin=now", script)
    harness.wait_until(lambda: len(list(lost.folder.glob(f"logs/{job}_*.txt"))) == 2, "its tasks")
    wait_for_end(harness, cluster, job)
    assert all("withdrawn" in path.read_text() for path in lost.folder.glob("logs/*.txt"))
    assert harness.folders() == []
    assert harness.run("cancel", matrix).returncode == 0


def test_a_missing_sbatch_leaves_no_submission(harness: Harness) -> None:
    matrix = harness.matrix(ROWS, [0])
    path = harness.environment.get("PATH", os.environ["PATH"])
    harness.environment["PATH"] = str(harness.folder)
    refused = harness.run("sweep", matrix, "cluster=testbed")
    assert refused.returncode == 2
    assert "sbatch: not found on this machine" in refused.stderr
    harness.environment["PATH"] = path
    assert {run["state"] for run in read_states(harness, matrix)} == {"new"}


def test_the_next_sweep_raises_the_memory_once(harness: Harness) -> None:
    matrix = harness.matrix(ROWS[:1], [0])
    more = ["cluster.memory=60M", "cluster.memory_escalation=20"]
    done = harness.run("sweep", matrix, "cluster=testbed", *more)
    assert done.returncode == 0, done.stderr

    wait_for_state(
        harness,
        matrix,
        lambda runs: (runs[0]["state"], runs[0]["reason"]) == ("interrupted", "out_of_memory"),
        "the end of the job for its memory",
    )
    again = harness.run("sweep", matrix, "cluster=testbed", *more)
    assert "1200M" in again.stdout, again.stdout + again.stderr
    wait_done(harness, matrix, 1)


def test_concurrent_sweeps_submit_each_run_once(harness: Harness) -> None:
    matrix = harness.matrix(ROWS, [0, 1, 2])
    both = [harness.start("sweep", matrix, "cluster=testbed", LATER) for _ in range(2)]
    done = [harness.finish(process) for process in both]
    assert [command.returncode for command in done] == [0, 0]
    submitted = [run for s in open_submissions(harness.runs) for run in s.run_ids]
    assert len(submitted) == len(set(submitted)) == 6
    assert sum("Nothing to submit" in command.stdout for command in done) == 1
    assert harness.run("cancel", matrix).returncode == 0


def test_a_limit_on_jobs_accepts_as_many_as_fit(harness: Harness) -> None:
    matrix = harness.matrix(ROWS, list(range(12)))
    install_sbatch_wrapper(harness, 'echo x >> "$0.calls"; exec REAL "$@"')
    first = run_sweep(harness, matrix, LATER, "cluster.qos=small", code=1)
    counted = [run["state"] for run in read_states(harness, matrix)]
    assert (counted.count("queued"), counted.count("new")) == (20, 4)
    assert "4 runs not submitted" in first.stderr
    assert "QOSMaxSubmitJobPerUserLimit" in first.stderr
    calls = (harness.folder / "bin" / "sbatch.calls").read_text().count("x")
    assert calls < 15
    rest = run_sweep(harness, matrix, LATER)
    assert "4 runs, each" in rest.stdout
    assert harness.run("cancel", matrix).returncode == 0


def test_a_thousand_runs_take_one_call(harness: Harness) -> None:
    grid = [{"label": f"m = 0.{n}", "method": "released", "method.momentum": n / 1000, **TINY}
            for n in range(500, 1000)]  # fmt: skip
    matrix = harness.matrix(grid, [0, 1])
    install_sbatch_wrapper(harness, 'echo x >> "$0.calls"; exec REAL "$@"')
    process = harness.start("sweep", matrix, "cluster=testbed", LATER, "--json")
    done = harness.finish(process)
    assert done.returncode == 0, done.stderr
    assert sum(map(len, json.loads(done.stdout)["jobs"].values())) == 1000
    assert (harness.folder / "bin" / "sbatch.calls").read_text().count("x") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert json.loads(run_sweep(harness, matrix, LATER, "--json").stdout)["jobs"] == {}
    assert (harness.folder / "bin" / "sbatch.calls").read_text().count("x") == 1
    counted = {run["state"] for run in read_states(harness, matrix)}
    assert counted == {"queued"}
    assert harness.run("cancel", matrix).returncode == 0
    assert {run["state"] for run in read_states(harness, matrix)} == {"new"}


def test_a_run_resumes_after_its_time_limit(harness: Harness, cluster: Testbed) -> None:
    matrix = harness.matrix(ROWS[:1], [0], **STOPPED)
    run_sweep(harness, matrix, "cluster.signal_seconds=50")
    folder = wait_for_one_folder(harness)
    harness.wait_for_pause(folder)
    # SLURM checks limits every 30 s, and warns if the end is less than 50 + 30 s away. The worker
    # has at least 45 s: the limit itself is enforced 60 s later.
    (run,) = read_states(harness, matrix)
    cluster.query("scontrol", "update", f"JobId={run['job']}", "EndTime=now+75")
    harness.wait_until(lambda: len(folder.attempts()) > 1, "the next attempt")
    first, second, *_ = folder.attempts()
    assert (first.reason, first.end and first.end["reason"]) == (Reason.TIMEOUT, "timeout")
    assert second.job == first.job
    assert second.began_at == 7
    harness.run("cancel", matrix)


def test_two_sweeps_submit_the_two_stages_of_a_search(harness: Harness) -> None:
    matrix = copy_matrix(harness, TWO_TRIALS, ONE_ROW)
    alone = "cluster.next_stage=false"
    first = run_sweep(harness, matrix, alone)
    assert "2 runs: 2 new." in first.stdout
    assert "tuned: to be chosen: 2 final runs. Run the same sweep again when" in first.stdout
    # The trials are queued or running, so nothing is chosen and nothing is submitted twice.
    early = run_sweep(harness, matrix, alone, "--allow-missing")
    assert "submitted" not in early.stdout
    assert not (harness.runs / "choices").exists()
    wait_done(harness, matrix, 2)
    second = run_sweep(harness, matrix)
    assert second.stdout.index("Chosen, ") < second.stdout.index("2 runs: 2 new.")
    wait_done(harness, matrix, 2 + 2)


def test_a_failed_trial_on_a_cluster_is_named(harness: Harness) -> None:
    # One row needs a file of weights that does not exist.
    no_weights = "{label: Parametric, method: parametric, backbone.weights: missing.pth}"
    row = "{label: Parametric, method: parametric}"
    matrix = copy_matrix(harness, TWO_TRIALS, (row, no_weights))
    run_sweep(harness, matrix)
    wait_for_state(
        harness,
        matrix,
        lambda runs: all(run["state"] in ("done", "failed") for run in runs),
        "the end of all trials",
    )
    again = run_sweep(harness, matrix, "--allow-missing", code=1)
    assert (
        "tuned: Parametric: to be chosen: 2 of 2 trials have no result: trial 1 (" in again.stderr
    )
    assert "Run the same sweep again" not in again.stdout
