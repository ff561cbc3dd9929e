"""Sweeps on a real SLURM: submit, leave, come back; and what goes wrong in between."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launch.lab import Lab
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
LATER = "cluster.sbatch={begin: now+2hours}"
STOPPED = {"iterations": 8, "pause_after": 6}
"""Runs that are stopped on purpose: they wait for it after iteration 6."""


@pytest.fixture
def lab(
    cluster: Testbed, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    data = tmp_path_factory.getbasetemp() / "slurm-data"
    lab = Lab(tmp_path, data, dict(cluster.env))
    yield lab
    for submission in open_submissions(lab.runs):
        cluster.run("scancel", f"--name={submission.name}")
    lab.end_processes()


def sweep(lab: Lab, matrix: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = lab.run("sweep", matrix, "cluster=testbed", "cluster.memory=1G", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def states(lab: Lab, matrix: str) -> list[dict[str, Any]]:
    for answers in (lab.runs / ".submissions").glob("*.json"):
        answers.unlink()  # they stay valid for 10 s
    done = lab.run("status", matrix, "--json")
    assert "Traceback" not in done.stderr
    runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    return runs


def attempts(lab: Lab, run: str) -> list[dict[str, Any]]:
    done = lab.run("logs", run, "--list", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def only(lab: Lab) -> RunFolder:
    (folder,) = lab.wait_for_folders()
    return folder


def wait_for_state(
    lab: Lab, matrix: str, condition: Callable[[list[dict[str, Any]]], bool], what: str
) -> None:
    """Wait until ``protoseg status`` shows what is expected."""
    # Longer pauses than elsewhere: each look is a command.
    wait_until(lambda: condition(states(lab, matrix)), what, logs=lab.logs(), poll_seconds=1)


def wait_done(lab: Lab, matrix: str, runs: int) -> None:
    """Wait until all runs have their records, and status says so."""
    lab.wait_until(lambda: len(list(lab.runs.glob("*/record.json"))) == runs, f"{runs} records")
    wait_for_state(lab, matrix, lambda runs: all(r["state"] == "done" for r in runs), "done")


def wait_for_end(lab: Lab, cluster: Testbed, job: str) -> None:
    """Wait until no task of a job waits or runs."""
    query = ("squeue", "--noheader", f"--jobs={job}", "--states=pending,running")
    lab.wait_until(lambda: cluster.ask(*query) == "", f"the end of job {job}")


def wrapper(lab: Lab, script: str) -> None:
    """Put an ``sbatch`` before the real one."""
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    folder = lab.folder / "bin"
    folder.mkdir()
    path = folder / "sbatch"
    path.write_text(f"#!/bin/bash\n{script.replace('REAL', real)}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    lab.environment["PATH"] = f"{folder}:{os.environ['PATH']}"


def test_submit_leave_come_back(lab: Lab) -> None:
    matrix = lab.matrix(ROWS, [0])
    planned = lab.run("plan", matrix, "cluster=testbed", "--sbatch")
    assert planned.returncode == 0, planned.stderr
    assert "#SBATCH --array=0-1" in planned.stdout
    assert lab.folders() == []
    first = sweep(lab, matrix)
    assert "2 runs, each 1 core" in first.stdout
    again = sweep(lab, matrix)
    assert "Nothing to submit" in again.stdout
    assert len(list((lab.runs / ".submissions").glob("*-*"))) == 1
    wait_done(lab, matrix, 2)
    for folder in lab.folders():
        assert read_record(folder.record)["attempts"] == 1
        (attempt,) = attempts(lab, folder.run_id)
        assert (attempt["state"], attempt["node"][:4]) == ("done", "node")
    assert "Nothing to submit" in sweep(lab, matrix).stdout
    tables = lab.run("tables", matrix, "--out", str(lab.folder / "tables"))
    assert tables.returncode == 0, tables.stderr
    assert "iteration 6/6" in lab.run("logs", lab.folders()[0].run_id).stdout
    assert open_submissions(lab.runs) == [], "nothing is asked about any more"


def test_a_killed_worker_goes_back_into_the_queue(lab: Lab) -> None:
    matrix = lab.matrix(ROWS[:1], [0], **STOPPED)
    sweep(lab, matrix, "cluster.checkpoint_seconds=0")
    folder = only(lab)
    os.kill(lab.wait_for_pause(folder), signal.SIGKILL)
    wait_done(lab, matrix, 1)
    first, second = attempts(lab, folder.run_id)
    assert (first["reason"], first["job"]) == ("lost", second["job"])
    assert "SIGKILL" in first["message"]
    assert (second["state"], second["restarts"]) == ("done", 1)
    assert second["iteration"] == 6


def test_a_node_that_slurm_gives_up_is_the_reason_though_its_worker_lived_on(
    lab: Lab, cluster: Testbed
) -> None:
    matrix = lab.matrix(ROWS[:1], [0], **STOPPED)
    sweep(lab, matrix)
    folder = only(lab)
    lab.wait_for_pause(folder)
    (run,) = states(lab, matrix)
    cluster.kill_slurmd(run["host"])
    cluster.declare_down(run["host"])
    assert "RUNNING" not in cluster.ask("squeue", "--noheader", "--format=%T")
    cluster.start_slurmd(run["host"])
    lab.wait_until(lambda: folder.attempts()[0].ending, "the end of the first attempt")
    assert folder.attempts()[0].reason is Reason.NODE_FAILURE
    assert lab.run("cancel", matrix).returncode == 0


def test_a_run_cancelled_after_its_node_died_has_a_reason(lab: Lab, cluster: Testbed) -> None:
    matrix = lab.matrix(ROWS[:1], [0], **STOPPED)
    sweep(lab, matrix)
    folder = only(lab)
    lab.wait_for_pause(folder)
    (run,) = states(lab, matrix)
    cluster.kill_node(run["host"])
    assert lab.run("cancel", matrix).returncode == 0
    cluster.start_slurmd(run["host"])
    wait_for_state(lab, matrix, lambda runs: runs[0]["state"] == "interrupted", "the cancel")
    (attempt,) = attempts(lab, folder.run_id)
    assert attempt["reason"] in ("cancelled", "node_failure", "lost")


def test_cancelled_runs_save_and_stay_away_until_the_next_sweep(lab: Lab, cluster: Testbed) -> None:
    """One is cancelled by protoseg, the other by scancel."""
    matrix = lab.matrix(ROWS, [0], **STOPPED)
    sweep(lab, matrix, "cluster.checkpoint_seconds=600")
    for folder in lab.wait_for_folders(2):
        lab.wait_for_pause(folder)
    first, second = states(lab, matrix)
    done = lab.run("cancel", first["run_id"])
    assert done.returncode == 0, done.stderr
    assert "1 under way" in done.stdout
    cluster.ask("scancel", second["job"])
    wait_for_state(
        lab,
        matrix,
        lambda runs: (
            {(run["state"], run["reason"]) for run in runs} == {("interrupted", "cancelled")}
        ),
        "two cancelled runs",
    )
    for folder in lab.folders():
        assert folder.checkpoint_iteration() == 7, "it saved before it went"
    sweep(lab, matrix)
    wait_done(lab, matrix, 2)
    for folder in lab.folders():
        assert [attempt.began_at for attempt in folder.attempts()] == [0, 7]


def test_jobs_cancelled_while_they_wait(lab: Lab, cluster: Testbed) -> None:
    matrix = lab.matrix(ROWS, [0])
    sweep(lab, matrix, LATER)
    first, second = states(lab, matrix)
    assert (first["state"], second["state"]) == ("queued", "queued")
    wait_for_state(
        lab, matrix, lambda runs: "BeginTime" in runs[0]["message"], "its reason to wait"
    )
    assert lab.run("cancel", first["run_id"]).returncode == 0
    cluster.ask("scancel", second["job"])
    wait_for_state(
        lab, matrix, lambda runs: runs[1]["state"] == "interrupted", "the second one's end"
    )
    first, second = states(lab, matrix)
    assert (first["state"], first["attempts"]) == ("new", 0), "it never began"
    assert second["reason"] == "cancelled"
    assert "Nothing to cancel" in lab.run("cancel", matrix).stdout


def test_a_failure_of_the_run_itself_is_not_tried_again(lab: Lab, cluster: Testbed) -> None:
    matrix = lab.matrix(ROWS[:1], [0])
    sweep(lab, matrix, "dataset.digest=" + "0" * 64)
    folder = only(lab)
    lab.wait_until(lambda: folder.status().state is State.FAILED, "the failure")
    (attempt,) = attempts(lab, folder.run_id)
    assert attempt["reason"] == "bad_data"
    wait_for_end(lab, cluster, attempt["job"])
    assert len(folder.attempts()) == 1
    again = sweep(lab, matrix, "dataset.digest=" + "0" * 64, code=1)
    assert "--retry-failed" in again.stderr


def test_a_script_that_can_not_start_says_why(lab: Lab) -> None:
    matrix = lab.matrix(ROWS[:1], [0])
    sweep(lab, matrix, "cluster.modules=[no-such-module]")
    wait_for_state(lab, matrix, lambda runs: runs[0]["attempts"] == 1, "the end of the job")
    (run,) = states(lab, matrix)
    assert (run["state"], run["reason"]) == ("failed", "bad_config")
    assert "module" in run["message"]
    assert "module" in lab.run("logs", run["run_id"], "--batch").stdout


def test_a_sweep_killed_before_its_answer_is_reconciled(lab: Lab, cluster: Testbed) -> None:
    matrix = lab.matrix(ROWS, [0])
    wrapper(lab, 'REAL "$@"; touch "$0.done"; sleep 600')
    process = lab.start("sweep", matrix, "cluster=testbed", LATER)
    lab.wait_until((lab.folder / "bin" / "sbatch.done").exists, "the submission")
    os.killpg(process.pid, signal.SIGKILL)
    lab.finish(process)
    (submission,) = open_submissions(lab.runs)
    assert submission.job_id == "", "its answer got lost"
    assert {run["state"] for run in states(lab, matrix)} == {"queued"}
    lab.environment["PATH"] = os.environ["PATH"]
    assert "Nothing to submit" in sweep(lab, matrix, LATER).stdout
    found = read_submission(submission.folder)
    assert found is not None
    queued = cluster.ask("squeue", "--noheader", f"--name={submission.name}", "--format=%F")
    assert found.job_id in queued.split()
    assert lab.run("cancel", matrix).returncode == 0


def test_a_sweep_killed_before_sbatch_submits_again(lab: Lab, cluster: Testbed) -> None:
    matrix = lab.matrix(ROWS, [0])
    wrapper(lab, 'touch "$0.done"; sleep 600')
    process = lab.start("sweep", matrix, "cluster=testbed", LATER)
    lab.wait_until((lab.folder / "bin" / "sbatch.done").exists, "the submission")
    os.killpg(process.pid, signal.SIGKILL)
    lab.finish(process)
    (lost,) = open_submissions(lab.runs)
    # Old enough that nobody waits for its sbatch any more.
    earlier = {**lost.intent, "clock": lost.intent["clock"] - 60}
    files.write_json(lost.folder / "intent.json", earlier)
    lab.environment["PATH"] = os.environ["PATH"]
    assert "submitted  job" in sweep(lab, matrix, LATER).stdout
    assert lost.withdrawn
    # It arrives after all: its tasks see that they were given up, and leave the runs alone.
    script = str(lost.folder / "script.sh")
    job = cluster.ask("sbatch", "--parsable", "--begin=now", script)
    lab.wait_until(lambda: len(list(lost.folder.glob(f"logs/{job}_*.txt"))) == 2, "its tasks")
    wait_for_end(lab, cluster, job)
    assert all("withdrawn" in path.read_text() for path in lost.folder.glob("logs/*.txt"))
    assert lab.folders() == []
    assert lab.run("cancel", matrix).returncode == 0


def test_where_there_is_no_sbatch_nothing_is_left_behind(lab: Lab) -> None:
    matrix = lab.matrix(ROWS, [0])
    path = lab.environment.get("PATH", os.environ["PATH"])
    lab.environment["PATH"] = str(lab.folder)
    refused = lab.run("sweep", matrix, "cluster=testbed")
    assert refused.returncode == 2
    assert "sbatch: not found on this machine" in refused.stderr
    lab.environment["PATH"] = path
    assert {run["state"] for run in states(lab, matrix)} == {"new"}


def test_memory_is_raised_once_by_the_next_sweep(lab: Lab) -> None:
    matrix = lab.matrix(ROWS[:1], [0])
    more = ["cluster.memory=60M", "cluster.memory_escalation=20"]
    done = lab.run("sweep", matrix, "cluster=testbed", *more)
    assert done.returncode == 0, done.stderr

    wait_for_state(
        lab,
        matrix,
        lambda runs: (runs[0]["state"], runs[0]["reason"]) == ("interrupted", "out_of_memory"),
        "the end of the job for its memory",
    )
    again = lab.run("sweep", matrix, "cluster=testbed", *more)
    assert "1200M" in again.stdout, again.stdout + again.stderr
    wait_done(lab, matrix, 1)


def test_two_sweeps_at_once_submit_each_run_once(lab: Lab) -> None:
    matrix = lab.matrix(ROWS, [0, 1, 2])
    both = [lab.start("sweep", matrix, "cluster=testbed", LATER) for _ in range(2)]
    done = [lab.finish(process) for process in both]
    assert [command.returncode for command in done] == [0, 0]
    submitted = [run for s in open_submissions(lab.runs) for run in s.run_ids]
    assert len(submitted) == len(set(submitted)) == 6
    assert sum("Nothing to submit" in command.stdout for command in done) == 1
    assert lab.run("cancel", matrix).returncode == 0


def test_a_limit_at_submission_takes_what_fits_and_leaves_the_rest(lab: Lab) -> None:
    matrix = lab.matrix(ROWS, list(range(12)))
    wrapper(lab, 'echo x >> "$0.calls"; exec REAL "$@"')
    first = sweep(lab, matrix, LATER, "cluster.qos=small", code=1)
    counted = [run["state"] for run in states(lab, matrix)]
    assert (counted.count("queued"), counted.count("new")) == (20, 4)
    assert "4 runs were not taken" in first.stderr
    assert "QOSMaxSubmitJobPerUserLimit" in first.stderr
    calls = (lab.folder / "bin" / "sbatch.calls").read_text().count("x")
    assert calls < 15
    rest = sweep(lab, matrix, LATER)
    assert "4 runs, each" in rest.stdout
    assert lab.run("cancel", matrix).returncode == 0


def test_a_thousand_runs_take_few_calls_and_nobody_stays(lab: Lab) -> None:
    grid = [{"label": f"m = 0.{n}", "method": "released", "method.momentum": n / 1000, **TINY}
            for n in range(500, 1000)]  # fmt: skip
    matrix = lab.matrix(grid, [0, 1])
    wrapper(lab, 'echo x >> "$0.calls"; exec REAL "$@"')
    process = lab.start("sweep", matrix, "cluster=testbed", LATER, "--json")
    done = lab.finish(process)
    assert done.returncode == 0, done.stderr
    assert sum(map(len, json.loads(done.stdout)["jobs"].values())) == 1000
    assert (lab.folder / "bin" / "sbatch.calls").read_text().count("x") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert json.loads(sweep(lab, matrix, LATER, "--json").stdout)["jobs"] == {}
    assert (lab.folder / "bin" / "sbatch.calls").read_text().count("x") == 1
    counted = {run["state"] for run in states(lab, matrix)}
    assert counted == {"queued"}
    assert lab.run("cancel", matrix).returncode == 0
    assert {run["state"] for run in states(lab, matrix)} == {"new"}


def test_a_time_limit_goes_on_from_its_checkpoint(lab: Lab, cluster: Testbed) -> None:
    matrix = lab.matrix(ROWS[:1], [0], **STOPPED)
    sweep(lab, matrix, "cluster.signal_seconds=50")
    folder = only(lab)
    lab.wait_for_pause(folder)
    # SLURM looks at limits every 30 s, and warns if the end is less than 50 + 30 s away. The worker
    # has 45 s at least: a look at the limit itself comes 60 s later, or after the worker is gone.
    (run,) = states(lab, matrix)
    cluster.ask("scontrol", "update", f"JobId={run['job']}", "EndTime=now+75")
    lab.wait_until(lambda: len(folder.attempts()) > 1, "the next attempt")
    first, second, *_ = folder.attempts()
    assert (first.reason, first.end and first.end["reason"]) == (Reason.TIMEOUT, "timeout")
    assert second.job == first.job
    assert second.began_at == 7
    lab.run("cancel", matrix)
