"""Tests of the job that submits the next stage of a search, with commands that imitate SLURM."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

import pytest
from slurm.commands import DOWN, Commands, dependency_lines

from launch.test_sbatch import parse_options
from protoseg.config.matrix import Matrix, TableSpec
from protoseg.errors import UsageError
from protoseg.launch import next_stage, submission
from protoseg.launch.next_stage import (
    NextStage,
    cancel_next_stage,
    describe_next_stage,
    make_script,
    name_next_stage,
    submit_next_stage,
)
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.sbatch_errors import SubmissionRefused
from protoseg.slurm.client import SlurmClient, SlurmUnreachable

MATRIX = Matrix("a search", "", (), TableSpec(), ())
REFUSED = "sbatch: error: Batch job submission failed: "


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A machine without commands; the test installs some."""
    return Commands(tmp_path / "site", monkeypatch)


@pytest.fixture
def stage(tmp_path: Path) -> NextStage:
    runs = tmp_path / "meine läufe"
    arguments = ("sweep", "my matrix.yaml", "seed=0,1", "cluster.sbatch={begin: 'now'}")
    work = tmp_path / "it's $(work)"
    work.mkdir()
    return NextStage(name_next_stage(MATRIX, runs), runs, arguments, work)


def install_queue(commands: Commands, stage: NextStage, *jobs: tuple[str, str, str]) -> None:
    """Let squeue show jobs of the search with (id, state, dependency)."""
    commands.prints("squeue", dependency_lines(stage.name, *jobs))


def test_a_search_has_one_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def name(runs: Path = tmp_path, *overrides: str) -> str:
        return name_next_stage(dataclasses.replace(MATRIX, overrides=overrides), runs)

    assert name() == name()
    assert name().startswith("a-search-next.")
    assert name(tmp_path, "seed=0", "a=1") == name(tmp_path, "a=1", "seed=0")
    others = {name(tmp_path, "seed=0"), name(tmp_path, "seed=1"), name(tmp_path / "x")}
    long = [name_next_stage(dataclasses.replace(MATRIX, name="m" * n), tmp_path) for n in (50, 60)]
    monkeypatch.setattr(next_stage, "get_user_name", lambda: "another")
    assert len({name(), *others, *long}) == 6
    assert "-next." in long[0]


def test_the_script_runs_the_sweep_in_its_folder(stage: NextStage) -> None:
    profile = ClusterProfile(
        partition="gpu",
        account="lab",
        qos="long",
        reservation="r",
        gpus=8,
        memory="200G",
        time="1-0",
        constraint="nvlink",
        sbatch={"exclusive": True},
        modules=("cuda/1",),
        environment={"A": "b c"},
    )
    text = make_script(stage, profile, ["12", "13"])
    options = parse_options(text)
    assert options.pop("output") == f"{stage.folder}/logs/%x_%j.txt"
    assert options.pop("chdir") == str(stage.folder)
    assert options == {
        "account": "lab",
        "partition": "gpu",
        "qos": "long",
        "reservation": "r",
        "dependency": "afterany:12:13",
        "job-name": stage.name,
        "mem": "1G",
        "time": "0:30:00",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": "1",
        "requeue": True,
        "open-mode": "append",
        "signal": "USR2@90",
    }
    *setup, last = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert setup == [
        "umask o-w",
        "module load cuda/1 || exit 78",
        "export A='b c'",
        f"cd {shlex.quote(str(stage.working_folder))} || exit 1",
        "export SUBMITIT_EXECUTOR=slurm",
    ]
    assert shlex.split(last) == [
        *("exec", sys.executable, "-P", "-m", "protoseg.cli", *stage.arguments)
    ]


def test_the_profile_changes_the_options_of_the_job(stage: NextStage) -> None:
    changes = {"partition": "cpu", "time": "0:05:00", "mem": "4G", "comment": "a\\b"}
    profile = ClusterProfile(
        partition="gpu", time="10", signal_seconds=60, requeue=False, next_stage_sbatch=changes
    )
    options = parse_options(make_script(stage, profile, ["1"]))
    assert {name: options[name] for name in changes} == {**changes, "comment": "a\\\\b"}
    assert "no-requeue" in options
    assert "partition cpu" in describe_next_stage(profile)
    # A partition for short jobs has a short limit.
    short = dataclasses.replace(profile, next_stage_sbatch={})
    assert parse_options(make_script(stage, short, ["1"]))["time"] == "0:10:00"
    off = dataclasses.replace(profile, next_stage=False)
    assert "next_stage: false" in describe_next_stage(off)


def test_paths_that_a_script_cannot_contain_are_an_error(stage: NextStage) -> None:
    for changes, message in (
        ({"working_folder": Path("/a\nb")}, "working folder: "),
        ({"arguments": ("a\nb",)}, "argument "),
        ({"runs_folder": Path("/a\\b")}, "a backslash in its name"),
    ):
        with pytest.raises(UsageError, match=message):
            make_script(dataclasses.replace(stage, **changes), ClusterProfile(), ["1"])  # type: ignore[arg-type]


def test_a_job_that_waits_for_the_same_jobs_is_not_doubled(
    commands: Commands, stage: NextStage
) -> None:
    commands.script("sbatch", "echo 20")
    client, profile = SlurmClient(), ClusterProfile()
    assert submit_next_stage(stage, profile, ["12", "13"], client) == "20"
    assert commands.calls("squeue") == [], "there was no such job before"
    assert stage.script.read_text() == make_script(stage, profile, ["12", "13"])
    assert stage.locate_log("20").parent.is_dir()
    waiting = ("20", "PENDING", "afterany:12_*(unfulfilled),afterany:13_*(unfulfilled)")
    install_queue(commands, stage, waiting)
    commands.script("sbatch", "echo 21")
    assert submit_next_stage(stage, profile, ["13"], client) == "20"
    assert submit_next_stage(stage, profile, ["12", "13"], client) == "20"
    assert submit_next_stage(stage, profile, ["12", "13", "14"], client) == "21"
    # One that has begun does not know of these jobs.
    install_queue(commands, stage, ("20", "RUNNING", ""), ("19", "COMPLETED", "afterany:13_*"))
    assert submit_next_stage(stage, profile, ["13"], client) == "21"


def test_a_lost_answer_submits_no_second_job(commands: Commands, stage: NextStage) -> None:
    lost = f"{REFUSED}Socket timed out on send/recv operation"
    commands.prints("sbatch", errors=lost, status=1)
    install_queue(commands, stage, ("20", "PENDING", "afterany:12(unfulfilled)"))
    assert submit_next_stage(stage, ClusterProfile(), ["12"], SlurmClient()) == "20"
    assert len(commands.calls("sbatch")) == 1
    install_queue(commands, stage)
    with pytest.raises(SubmissionRefused, match="Socket timed out"):
        submit_next_stage(stage, ClusterProfile(), ["12"], SlurmClient())


def test_a_refusal_contains_the_message_of_slurm(commands: Commands, stage: NextStage) -> None:
    commands.prints("sbatch", errors=f"{REFUSED}Access denied", status=1)
    with pytest.raises(SubmissionRefused, match=r"Access denied\.$"):
        submit_next_stage(stage, ClusterProfile(), ["12"], SlurmClient())
    commands.prints("squeue", errors=DOWN, status=1)
    with pytest.raises(SlurmUnreachable, match="Unable to contact"):
        submit_next_stage(stage, ClusterProfile(), ["12"], SlurmClient())


def test_the_jobs_of_a_search_are_cancelled(commands: Commands, stage: NextStage) -> None:
    assert cancel_next_stage(MATRIX, stage.runs_folder) == []
    assert commands.calls("squeue") == [], "no job was submitted"
    commands.script("sbatch", "echo 20")
    submit_next_stage(stage, ClusterProfile(), ["12"], SlurmClient())
    install_queue(commands, stage, ("21", "PENDING", "afterany:12"), ("20", "RUNNING", ""))
    commands.prints("scancel")
    assert cancel_next_stage(MATRIX, stage.runs_folder) == ["20", "21"]
    assert commands.calls("scancel") == ["20 21 "]


def test_the_newest_task_of_a_run_decides_whether_it_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "shapes-tiny-s0-0123456789"
    clock = [1_000_000.0]
    monkeypatch.setattr(submission.time, "time", lambda: clock[0])
    first = submission.write_intent(tmp_path, "m", [(run, {})], launch={})
    first.close_tasks({0: f"{submission.CANCELLED_BY} me"})
    assert submission.find_cancelled_runs(tmp_path) == {run: "cancelled by me"}
    clock[0] += 5
    second = submission.write_intent(tmp_path, "m", [(run, {})], launch={})
    assert submission.find_cancelled_runs(tmp_path) == {}
    second.withdraw("refused")
    assert submission.find_cancelled_runs(tmp_path) == {run: "cancelled by me"}
