"""Searches on a real SLURM: small jobs submit their next stages."""

from __future__ import annotations

import json

from launch.harness import Harness
from testbed.testbed import Testbed

from protoseg.launch.submission import open_submissions
from slurm.testbed.test_submit import (
    LATER,
    ONE_ROW,
    ONE_SEED,
    TWO_TRIALS,
    copy_matrix,
    harness,
    read_states,
    run_sweep,
    wait_done,
)

__all__ = ["harness"]


def list_next_stage(harness: Harness, cluster: Testbed) -> dict[str, str]:
    """The small jobs in SLURM's memory -> their states."""
    names = ",".join(path.stem for path in harness.runs.glob(".submissions/next_stage/*.sh"))
    query = ("squeue", "--noheader", "--states=all", f"--name={names or 'none'}", "--format=%i %T")
    return dict(line.split() for line in cluster.query(*query).splitlines())


def wait_for_next_stage(harness: Harness, cluster: Testbed) -> None:
    """Wait until all small jobs have ended."""
    active = {"PENDING", "RUNNING", "COMPLETING"}
    harness.wait_until(
        lambda: not active & {*list_next_stage(harness, cluster).values()},
        "the end of the job of the next stage",
    )


def read_logs(harness: Harness) -> str:
    """What the sweeps of the small jobs printed."""
    logs = harness.runs.glob(".submissions/next_stage/logs/*.txt")
    return "\n".join(path.read_text() for path in sorted(logs))


def test_one_sweep_trains_both_stages_of_a_search(
    harness: Harness,
    cluster: Testbed,
) -> None:
    matrix = copy_matrix(harness, TWO_TRIALS, ONE_SEED)
    first = run_sweep(harness, matrix)
    assert "4 runs: 4 new." in first.stdout
    assert "tuned: to be chosen: 2 final runs. Job " in first.stdout
    ((job, _),) = list_next_stage(harness, cluster).items()
    assert "logs/tuned-next." in first.stdout
    # The trials wait or run: nothing is chosen, and nothing is submitted twice.
    early = run_sweep(harness, matrix, "--allow-missing")
    assert "submitted" not in early.stdout
    if "Job " in early.stdout:  # some trials have not ended
        assert f"Job {job} runs the same sweep again" in early.stdout
    wait_done(harness, matrix, 4 + 2)
    assert (harness.runs / "choices" / "tuned.json").exists()
    wait_for_next_stage(harness, cluster)
    assert list_next_stage(harness, cluster) == {job: "COMPLETED"}
    log = read_logs(harness)
    assert log.index("Chosen, ") < log.index("2 runs: 2 new.")
    assert "Nothing to submit." in run_sweep(harness, matrix).stdout
    assert list_next_stage(harness, cluster) == {job: "COMPLETED"}
    tables = harness.run("tables", matrix, "--keep-records")
    assert "Tuned: 2 trials per row" in tables.stdout
    assert harness.run("verify", matrix).returncode == 0


def test_one_sweep_trains_the_rungs_of_a_search(
    harness: Harness,
    cluster: Testbed,
) -> None:
    halving = ("trials: 3", "trials: 2\n  halving: {rungs: [2]}")
    matrix = copy_matrix(harness, halving, ONE_ROW, ONE_SEED)
    assert "2 runs: 2 new." in run_sweep(harness, matrix).stdout
    harness.wait_until(lambda: len(harness.records()) == 2 + 1 + 1, "the records of three stages")
    wait_for_next_stage(harness, cluster)
    assert [*list_next_stage(harness, cluster).values()] == ["COMPLETED"] * 2
    assert "this sweep has submitted nothing" not in read_logs(harness)
    assert harness.run("tables", matrix, "--keep-records").returncode == 0
    assert harness.run("verify", matrix).returncode == 0


def test_a_cancelled_trial_ends_the_search(
    harness: Harness,
    cluster: Testbed,
) -> None:
    """One trial is cancelled by protoseg before it starts, the others by scancel."""
    matrix = copy_matrix(harness)
    run_sweep(harness, matrix, LATER)
    first, *others = read_states(harness, matrix)
    assert harness.run("cancel", first["run_id"]).returncode == 0
    cluster.query("scancel", *(run["job"] for run in others))
    wait_for_next_stage(harness, cluster)
    log = read_logs(harness)
    assert f"tuned: cancelled: {first['run_id']}" in log
    assert "Nothing is submitted." in log
    assert "submitted  job" not in log
    (state,) = list_next_stage(harness, cluster).values()
    assert state == "FAILED"
    assert {run["state"] for run in read_states(harness, matrix)} <= {"new", "interrupted"}


def test_a_cancelled_matrix_has_no_job_that_waits(
    harness: Harness,
    cluster: Testbed,
) -> None:
    matrix = copy_matrix(harness)
    run_sweep(harness, matrix, LATER)
    ((job, _),) = list_next_stage(harness, cluster).items()
    assert f"Job {job} runs the same sweep again" in run_sweep(harness, matrix, LATER).stdout
    assert [*list_next_stage(harness, cluster)] == [job], "it depends on the same jobs"
    cancelled = harness.run("cancel", matrix)
    assert cancelled.returncode == 0, cancelled.stderr
    assert f"Cancelled: the job that submits the next stage ({job})." in cancelled.stdout
    assert list_next_stage(harness, cluster) in ({}, {job: "CANCELLED"})
    assert "Nothing to cancel" in harness.run("cancel", matrix).stdout


def test_a_sweep_replaces_a_small_job_that_was_killed(
    harness: Harness,
    cluster: Testbed,
) -> None:
    matrix = copy_matrix(harness, TWO_TRIALS, ONE_ROW)
    run_sweep(harness, matrix, LATER)
    ((first, _),) = list_next_stage(harness, cluster).items()
    cluster.query("scancel", first)
    again = run_sweep(harness, matrix, LATER)
    assert "submitted  job" not in again.stdout
    (second,) = list_next_stage(harness, cluster).keys() - {first}
    assert f"Job {second} runs the same sweep again" in again.stdout
    (trials,) = open_submissions(harness.runs)
    cluster.query("scontrol", "update", f"JobId={trials.job_id}", "StartTime=now")
    harness.wait_until((harness.runs / "choices" / "tuned.json").exists, "the choice")
    wait_for_next_stage(harness, cluster)
    # The final runs begin later too.
    assert "2 runs, each" in read_logs(harness)
    assert harness.run("cancel", matrix).returncode == 0


def test_trials_stay_submitted_if_the_small_job_is_refused(
    harness: Harness,
    cluster: Testbed,
) -> None:
    matrix = copy_matrix(harness)
    nowhere = "cluster.next_stage_sbatch.partition=nowhere"
    first = run_sweep(harness, matrix, LATER, nowhere)
    assert "submitted  job" in first.stdout
    assert "Run the same sweep again when the trials are done" in first.stdout
    assert "No job does this: sbatch: " in first.stdout
    assert "partition" in first.stdout
    off = run_sweep(harness, matrix, LATER, "cluster.next_stage=false", "--json")
    (job,) = json.loads(off.stdout)["next_stage"].values()
    assert job["problem"] == "the cluster testbed has next_stage: false."
    assert list_next_stage(harness, cluster) == {}
    assert harness.run("cancel", matrix).returncode == 0
