"""Sweeps on a real SLURM: submit, leave, come back; and what goes wrong in between."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dispatch.lab import Lab, trained_to, wait_for, worker_pid

from protoseg.dispatch.submission import open_submissions, read_submission
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.runs.states import Reason, State

TINY = {"backbone": "tiny", "decoder": "fcn"}
ROWS = [
    {"label": "parametric", "method": "parametric", **TINY},
    {"label": "prototypes", "method": "released", **TINY},
]
LATER = "cluster.sbatch={begin: now+2hours}"
LONG = 100_000
"""Iterations of runs that are stopped on purpose."""


@pytest.fixture
def lab(cluster: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    data = tmp_path_factory.getbasetemp() / "slurm-data"
    lab = Lab(tmp_path, data, dict(cluster.env))
    yield lab
    for submission in open_submissions(lab.runs):
        subprocess.run(["scancel", f"--name={submission.name}"], env={**os.environ, **cluster.env})


def sweep(lab: Lab, matrix: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = lab.run("sweep", matrix, "cluster=testbed", "cluster.memory=1G", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def states(lab: Lab, matrix: str) -> list[dict[str, Any]]:
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
    (folder,) = wait_for(lab.folders, "the run folder")
    return folder


def wait_done(lab: Lab, matrix: str) -> None:
    wait_for(lambda: all(r["state"] == "done" for r in states(lab, matrix)), "all records")


def squeue(lab: Lab, *words: str) -> str:
    environment = {**os.environ, **lab.environment}
    command = ["squeue", "--noheader", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


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
    matrix = lab.matrix(ROWS, [0, 1])
    planned = lab.run("plan", matrix, "cluster=testbed", "--sbatch")
    assert planned.returncode == 0, planned.stderr
    assert "#SBATCH --array=0-3" in planned.stdout
    assert lab.folders() == []
    first = sweep(lab, matrix)
    assert "4 runs, each 1 core" in first.stdout
    again = sweep(lab, matrix)
    assert "Nothing to submit" in again.stdout
    assert len(list((lab.runs / ".submissions").glob("*-*"))) == 1
    wait_done(lab, matrix)
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
    matrix = lab.matrix(ROWS[:1], [0], iterations=400)
    sweep(lab, matrix, "cluster.checkpoint_seconds=0")
    folder = only(lab)
    wait_for(lambda: trained_to(folder, 20), "a checkpoint")
    os.kill(worker_pid(folder), signal.SIGKILL)
    wait_done(lab, matrix)
    first, second = attempts(lab, folder.run_id)
    assert (first["reason"], first["job"]) == ("lost", second["job"])
    assert "SIGKILL" in first["message"]
    assert (second["state"], second["restarts"]) == ("done", 1)
    assert second["iteration"] >= 20


def test_a_node_that_slurm_gives_up_is_the_reason_though_its_worker_lived_on(
    lab: Lab, cluster: Any
) -> None:
    matrix = lab.matrix(ROWS[:1], [0], iterations=LONG)
    sweep(lab, matrix)
    folder = only(lab)
    wait_for(lambda: folder.status().iteration > 5, "some training")
    (run,) = states(lab, matrix)
    cluster.kill_slurmd(run["host"])
    wait_for(lambda: "RUNNING" not in squeue(lab, "--format=%T"), "that SLURM misses the node")
    cluster.start_slurmd(run["host"])
    wait_for(lambda: folder.attempts()[0].ending, "the end of the first attempt")
    assert folder.attempts()[0].reason is Reason.NODE_FAILURE
    assert lab.run("cancel", matrix).returncode == 0


def test_a_run_cancelled_after_its_node_died_has_a_reason(lab: Lab, cluster: Any) -> None:
    matrix = lab.matrix(ROWS[:1], [0], iterations=LONG)
    sweep(lab, matrix)
    folder = only(lab)
    wait_for(lambda: folder.status().iteration > 5, "some training")
    (run,) = states(lab, matrix)
    cluster.kill_node(run["host"])
    assert lab.run("cancel", matrix).returncode == 0
    cluster.start_slurmd(run["host"])
    wait_for(lambda: states(lab, matrix)[0]["state"] == "interrupted", "what SLURM says")
    (attempt,) = attempts(lab, folder.run_id)
    assert attempt["reason"] in ("cancelled", "node_failure", "lost")


@pytest.mark.parametrize("how", ["protoseg", "scancel"])
def test_a_cancelled_run_saves_and_stays_away_until_the_next_sweep(lab: Lab, how: str) -> None:
    matrix = lab.matrix(ROWS[:1], [0], iterations=LONG)
    sweep(lab, matrix, "cluster.checkpoint_seconds=600")
    folder = only(lab)
    wait_for(lambda: folder.status().iteration > 5, "some training")
    (run,) = states(lab, matrix)
    assert run["job"]
    if how == "protoseg":
        done = lab.run("cancel", matrix)
        assert done.returncode == 0, done.stderr
        assert "1 under way" in done.stdout
    else:
        subprocess.run(["scancel", run["job"]], env={**os.environ, **lab.environment}, check=True)
    wait_for(lambda: folder.status().state is State.INTERRUPTED, "its end")
    (run,) = states(lab, matrix)
    assert (run["state"], run["reason"]) == ("interrupted", "cancelled")
    assert folder.checkpoint_iteration() > 5, "it saved before it went"
    sweep(lab, matrix)
    wait_for(lambda: len(folder.attempts()) == 2, "the next attempt")
    assert folder.attempts()[1].began_at > 5
    assert lab.run("cancel", folder.run_id).returncode == 0
    wait_for(lambda: folder.status().state is State.INTERRUPTED, "its end")


def test_jobs_cancelled_while_they_wait(lab: Lab) -> None:
    matrix = lab.matrix(ROWS, [0], iterations=LONG)
    sweep(lab, matrix, LATER)
    first, second = states(lab, matrix)
    assert (first["state"], second["state"]) == ("queued", "queued")
    wait_for(lambda: "BeginTime" in states(lab, matrix)[0]["message"], "its reason to wait")
    assert lab.run("cancel", first["run_id"]).returncode == 0
    subprocess.run(["scancel", second["job"]], env={**os.environ, **lab.environment}, check=True)
    wait_for(lambda: states(lab, matrix)[1]["state"] == "interrupted", "the second one's end")
    first, second = states(lab, matrix)
    assert (first["state"], first["attempts"]) == ("new", 0), "it never began"
    assert second["reason"] == "cancelled"
    assert "Nothing to cancel" in lab.run("cancel", matrix).stdout


def test_a_failure_of_the_run_itself_is_not_tried_again(lab: Lab) -> None:
    matrix = lab.matrix(ROWS[:1], [0])
    sweep(lab, matrix, "dataset.digest=" + "0" * 64)
    folder = only(lab)
    wait_for(lambda: folder.status().state is State.FAILED, "the failure")
    (attempt,) = attempts(lab, folder.run_id)
    assert attempt["reason"] == "bad_data"
    wait_for(lambda: not squeue(lab, f"--jobs={attempt['job']}", "--states=pending,running"), "end")
    assert len(folder.attempts()) == 1
    again = sweep(lab, matrix, "dataset.digest=" + "0" * 64, code=1)
    assert "--retry-failed" in again.stderr


def test_a_script_that_can_not_start_says_why(lab: Lab) -> None:
    matrix = lab.matrix(ROWS[:1], [0])
    sweep(lab, matrix, "cluster.modules=[no-such-module]")
    wait_for(lambda: states(lab, matrix)[0]["attempts"] == 1, "the end of the job")
    (run,) = states(lab, matrix)
    assert (run["state"], run["reason"]) == ("failed", "bad_config")
    assert "module" in run["message"]
    assert "module" in lab.run("logs", run["run_id"], "--batch").stdout


def test_a_sweep_killed_before_its_answer_is_reconciled(lab: Lab) -> None:
    matrix = lab.matrix(ROWS, [0])
    wrapper(lab, 'REAL "$@"; touch "$0.done"; sleep 600')
    process = lab.start("sweep", matrix, "cluster=testbed", LATER)
    wait_for((lab.folder / "bin" / "sbatch.done").exists, "the submission")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (submission,) = open_submissions(lab.runs)
    assert submission.job_id == "", "its answer got lost"
    assert {run["state"] for run in states(lab, matrix)} == {"queued"}
    lab.environment["PATH"] = os.environ["PATH"]
    assert "Nothing to submit" in sweep(lab, matrix, LATER).stdout
    found = read_submission(submission.folder)
    assert found is not None
    assert found.job_id in squeue(lab, f"--name={submission.name}", "--format=%F")
    assert lab.run("cancel", matrix).returncode == 0


def test_a_sweep_killed_before_sbatch_submits_again(lab: Lab) -> None:
    matrix = lab.matrix(ROWS, [0])
    wrapper(lab, 'touch "$0.done"; sleep 600')
    process = lab.start("sweep", matrix, "cluster=testbed", LATER)
    wait_for((lab.folder / "bin" / "sbatch.done").exists, "the submission")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (lost,) = open_submissions(lab.runs)
    lab.environment["PATH"] = os.environ["PATH"]
    assert "submitted  job" in sweep(lab, matrix, LATER).stdout
    assert lost.withdrawn
    # It arrives after all: its tasks see that they were given up, and leave the runs alone.
    script = subprocess.run(
        ["sbatch", "--parsable", "--begin=now", str(lost.folder / "script.sh")],
        env={**os.environ, **lab.environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    job = script.stdout.strip()
    wait_for(lambda: len(list(lost.folder.glob(f"logs/{job}_*.txt"))) == 2, "its tasks")
    wait_for(lambda: not squeue(lab, f"--jobs={job}", "--states=pending,running"), "their end")
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

    def stopped() -> bool:
        (run,) = states(lab, matrix)
        return bool(run["state"] == "interrupted" and run["reason"] == "out_of_memory")

    wait_for(stopped, "the end of the job for its memory")
    again = lab.run("sweep", matrix, "cluster=testbed", *more)
    assert "1200M" in again.stdout, again.stdout + again.stderr
    wait_done(lab, matrix)


def test_two_sweeps_at_once_submit_each_run_once(lab: Lab) -> None:
    matrix = lab.matrix(ROWS, [0, 1, 2])
    both = [lab.start("sweep", matrix, "cluster=testbed", LATER) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    submitted = [run for s in open_submissions(lab.runs) for run in s.run_ids]
    assert len(submitted) == len(set(submitted)) == 6
    assert sum("Nothing to submit" in text for text in said) == 1
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
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert sum(map(len, json.loads(out)["jobs"].values())) == 1000
    assert (lab.folder / "bin" / "sbatch.calls").read_text().count("x") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert json.loads(sweep(lab, matrix, LATER, "--json").stdout)["jobs"] == {}
    assert (lab.folder / "bin" / "sbatch.calls").read_text().count("x") == 1
    counted = {run["state"] for run in states(lab, matrix)}
    assert counted == {"queued"}
    assert lab.run("cancel", matrix).returncode == 0
    assert {run["state"] for run in states(lab, matrix)} == {"new"}


def test_a_time_limit_goes_on_from_its_checkpoint(lab: Lab) -> None:
    matrix = lab.matrix(ROWS[:1], [0], iterations=LONG)
    sweep(lab, matrix, "cluster.time=1", "cluster.signal_seconds=5")
    folder = only(lab)
    first = wait_for(lambda: [a for a in folder.attempts() if a.end], "the first limit")[0]
    assert (first.reason, first.end and first.end["reason"]) == (Reason.TIMEOUT, "timeout")
    second = wait_for(lambda: folder.attempts()[1:], "the next attempt")[0]
    assert second.job == first.job
    assert second.began_at > 0
    assert lab.run("cancel", matrix).returncode == 0
