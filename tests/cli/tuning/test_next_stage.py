"""Searches on a cluster: the small job that submits the next stage, with a false ``sbatch``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from slurm.commands import DOWN, Commands

from cli.conftest import CommandLine
from cli.tuning.conftest import Tuned
from protoseg.launch.submission import CANCELLED_BY, open_submissions

CLUSTER = "cluster=testbed"
VALUES = (40.0, 50.0, 45.0, 30.0, 20.0, 35.0)
DONE = 5 * 4
"""Iterations that five trials have trained."""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A login node whose sbatch accepts jobs; SLURM does not answer otherwise."""
    commands = Commands(tmp_path / "site", monkeypatch)
    commands.script("sbatch", "echo 101")
    return commands


def read_arguments(tuned: Tuned) -> list[str]:
    """The arguments of protoseg in the batch script of the small job."""
    (script,) = tuned.protoseg.lab.runs.glob(".submissions/next_stage/*.sh")
    return shlex.split(script.read_text().splitlines()[-1])[5:]


def fail_last_trial(tuned: Tuned, reason: str) -> str:
    """Record all trials but the last one, which ended for a reason; return its run id."""
    tuned.record_trials((*VALUES[:-1], None))
    last = tuned.trials()[-1]
    tuned.protoseg.lab.fail(last.spec, reason, "a message")
    return last.run_id


def test_a_plan_names_the_small_job(protoseg: CommandLine, tuned: Tuned) -> None:
    sentence = "A small job (1 core, 1G; 0:30:00) submits the next stage when the trials have ended"
    assert sentence in protoseg("plan", tuned.path, CLUSTER).out
    assert "small job" not in protoseg("plan", tuned.path).out
    assert "small job" not in protoseg("plan", "quickstart", CLUSTER).out
    off = protoseg("plan", tuned.path, CLUSTER, "cluster.next_stage=false").out
    assert "The cluster testbed has next_stage: false: after the trials, run the same" in off


def test_a_plan_shows_the_script_of_the_small_job(protoseg: CommandLine, tuned: Tuned) -> None:
    partition = "cluster.next_stage_sbatch.partition=cpu"
    out = protoseg("plan", tuned.path, "seed=0,1", CLUSTER, partition, "--sbatch").out
    first, second = out.split("# ---- the next stage of tuned, after the arrays above\n")
    assert "#SBATCH --array=0-5" in first
    assert "#SBATCH --dependency=afterany:ARRAY\n" in second
    assert "#SBATCH --partition=cpu\n" in second
    operands = f"sweep {tuned.path} seed=0,1 {CLUSTER} {partition} "
    assert operands in second
    off = protoseg("plan", tuned.path, CLUSTER, "cluster.next_stage=false", "--sbatch").out
    assert "next stage" not in off
    tuned.record_trials(VALUES)
    tuned.record_finals((2, 3))
    protoseg("sweep", tuned.path)
    assert "next stage" not in protoseg("plan", tuned.path, CLUSTER, "--sbatch").out


def test_the_small_job_has_the_loggers_of_the_sweep(
    tuned: Tuned, protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOSEG_LOGGERS", "jsonl,tensorboard")
    monkeypatch.setattr("protoseg.loggers.registry.PACKAGES", {})  # none is needed here
    out = protoseg("plan", tuned.path, CLUSTER, "--sbatch").out
    _, second = out.split("# ---- the next stage of tuned, after the arrays above\n")
    assert "--logger jsonl --logger tensorboard" in second


def test_a_sweep_submits_the_small_job_after_the_trials(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    result = protoseg("sweep", tuned.path, "seed=0,1", CLUSTER, "--allow-missing", "--retry-failed")
    assert (result.status, result.err) == (0, "")
    assert "tuned: to be chosen: 4 final runs. Job 101 runs the same sweep again" in result.out
    assert re.search(r"Its log: .*/logs/tuned-next\.[0-9a-f]{12}_101\.txt", result.out)
    assert len(commands.calls("sbatch")) == 2
    arguments = read_arguments(tuned)
    assert arguments[:4] == ["sweep", tuned.path, "seed=0,1", CLUSTER]
    assert arguments[-2:] == ["--next-stage", "0"]
    assert "--allow-missing" in arguments
    assert "--retry-failed" not in arguments, "failed trials would be trained again and again"
    folders = dict(zip(arguments[5:-2:2], arguments[6:-2:2], strict=True))
    assert folders["--runs"] == str(protoseg.lab.runs)
    assert {*folders} == {
        f"--{name}" for name in ("runs", "data", "weights", "results", "experiments", "clusters")
    }


def test_each_search_of_a_sweep_has_its_small_job(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    other = Path(tuned.path).with_name("other.yaml")
    other.write_text(Path(tuned.path).read_text().replace("seed: 100", "seed: 200"))
    result = protoseg("sweep", tuned.path, str(other), "quickstart", CLUSTER)
    assert result.out.count("runs the same sweep again") == 2
    scripts = sorted(protoseg.lab.runs.glob(".submissions/next_stage/*.sh"))
    operands = [shlex.split(path.read_text().splitlines()[-1])[6:8] for path in scripts]
    assert operands == [[str(other), CLUSTER], [tuned.path, CLUSTER]]


def test_the_option_of_the_small_job_needs_a_cluster(protoseg: CommandLine, tuned: Tuned) -> None:
    result = protoseg("sweep", tuned.path, "--next-stage", "0")
    assert result.status == 2
    assert "--next-stage: no cluster is named. Add cluster=NAME." in result.err


def test_a_refusal_is_one_sentence(protoseg: CommandLine, tuned: Tuned, commands: Commands) -> None:
    commands.script("sbatch", 'case "$2" in *next*) echo "error: No." >&2; exit 1;; esac; echo 101')
    result = protoseg("sweep", tuned.path, CLUSTER)
    assert (result.status, result.err) == (0, "")
    assert "submitted  job 101: 6 runs" in result.out
    assert (
        "tuned: to be chosen: 4 final runs. Run the same sweep again when the trials are done; it "
        "chooses and submits them. No job does this: sbatch: error: No."
    ) in result.out
    data = protoseg("sweep", tuned.path, CLUSTER, "cluster.next_stage=false", "--json").json
    assert data["next_stage"]["tuned"] == {
        "job": "",
        "log": "",
        "problem": "the cluster testbed has next_stage: false.",
    }


def test_the_small_job_submits_the_final_runs(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    tuned.record_trials(VALUES)
    result = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", "0")
    assert result.status == 0
    assert "Chosen, " in result.out
    assert "submitted  job 101: 4 runs" in result.out
    assert len(commands.calls("sbatch")) == 1, "nothing follows the final runs"


def test_a_node_that_may_not_submit_leaves_the_final_runs(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    tuned.record_trials(VALUES)
    commands.prints("sbatch", errors="sbatch: error: Access denied", status=1)
    result = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", "0")
    assert result.status == 1
    assert "4 runs not submitted: sbatch: Access denied. Run the sweep again later." in result.err
    commands.script("sbatch", "echo 102")
    assert "submitted  job 102: 4 runs" in protoseg("sweep", tuned.path, CLUSTER).out


def test_a_cancelled_trial_ends_the_search(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    run_id = fail_last_trial(tuned, "cancelled")
    result = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", "0")
    assert result.status == 1
    assert f"tuned: cancelled: {run_id}. Nothing is submitted. To continue, run the" in result.err
    assert commands.calls("sbatch") == []
    # A user who sweeps again wants the trial.
    assert "submitted  job 101: 1 run" in protoseg("sweep", tuned.path, CLUSTER).out


def test_trials_cancelled_before_their_start_end_the_search(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    protoseg("sweep", tuned.path, CLUSTER)
    (submission,) = open_submissions(protoseg.lab.runs)
    submission.close_tasks(dict.fromkeys(range(6), f"{CANCELLED_BY} me"))
    result = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", "0")
    assert f"tuned: cancelled: {submission.run_ids[0]} and 5 others." in result.err
    assert len(commands.calls("sbatch")) == 2


def test_cancelled_final_runs_are_not_submitted_again(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    """A small job may wait after a user has submitted and cancelled the final runs."""
    tuned.record_trials(VALUES)
    for run in tuned.list_finals((2, 3)):
        protoseg.lab.fail(run.spec, "cancelled", "by me")
    result = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", "0")
    assert "and 3 others. Nothing is submitted." in result.err
    assert commands.calls("sbatch") == []


def test_a_chain_of_small_jobs_needs_progress(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    """A full disk ends trials again and again."""
    fail_last_trial(tuned, "storage")
    stopped = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", str(DONE))
    assert stopped.status == 1
    assert "the jobs before this one trained no trial further. Nothing is sub" in stopped.err
    assert commands.calls("sbatch") == []
    continued = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", str(DONE - 1))
    assert "submitted  job 101: 1 run" in continued.out
    assert read_arguments(tuned)[-1] == str(DONE)


def test_a_small_job_that_submits_nothing_has_no_successor(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    protoseg("sweep", tuned.path, CLUSTER, "cluster.next_stage=false")
    result = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", "0")
    assert "Nothing to submit." in result.out
    assert "No job does this: this sweep has submitted nothing." in result.out
    assert len(commands.calls("sbatch")) == 1


def test_failed_trials_end_the_search(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    fail_last_trial(tuned, "bad_data")
    result = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", "0")
    assert result.status == 1
    assert "tuned: ProtoSeg, K = 2: to be chosen: 1 of 3 trials has no result" in result.err
    assert commands.calls("sbatch") == []
    missing = protoseg("sweep", tuned.path, CLUSTER, "--next-stage", "0", "--allow-missing")
    assert "submitted  job 101: 4 runs" in missing.out


def test_cancel_reports_a_small_job_that_it_cannot_cancel(
    protoseg: CommandLine, tuned: Tuned, commands: Commands
) -> None:
    protoseg("sweep", tuned.path, CLUSTER)
    commands.prints("squeue", errors=DOWN, status=1)
    commands.prints("scancel")
    result = protoseg("cancel", tuned.path)
    assert result.status == 1
    assert "tuned: the job that submits its next stage: squeue: " in result.err
