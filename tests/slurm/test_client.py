"""Tests of the client, also with a SLURM that answers only in part."""

from __future__ import annotations

import datetime
import re

import pytest

from protoseg.errors import ProtosegError
from protoseg.slurm import queries
from protoseg.slurm.client import SlurmClient, SlurmUnreachable
from slurm.commands import (
    BANNER,
    DOWN,
    NO_DATABASE,
    NO_JOB,
    Commands,
    captured,
    dependency_lines,
    sacct_lines,
    squeue_lines,
)

YESTERDAY = "2026-11-19T10:00:00"


def test_sacct_is_not_called_if_squeue_shows_all_jobs(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING"), ("1_1", "PENDING")))
    commands.prints("sacct", sacct_lines())
    answer = SlurmClient().query_jobs(["1_0", "1_1"])
    assert {id: job.state for id, job in answer.jobs.items()} == {
        "1_0": "RUNNING",
        "1_1": "PENDING",
    }
    assert (answer.reachable, answer.accounting, answer.problem) == (True, True, "")
    assert len(commands.calls("squeue")) == 1
    assert commands.calls("sacct") == []


def test_one_sacct_call_covers_all_missing_jobs(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    commands.prints(
        "sacct",
        sacct_lines(
            ("1_1", "PREEMPTED", YESTERDAY),
            ("1_1", "TIMEOUT", "2026-11-19T12:00:00"),
            ("2_0", "COMPLETED", YESTERDAY),
        ),
    )
    answer = SlurmClient().query_jobs(["1_0", "1_1", "2_0", "3_0"])
    assert {id: (job.state, job.source, job.restarts) for id, job in answer.jobs.items()} == {
        "1_0": ("RUNNING", "squeue", 0),
        "1_1": ("TIMEOUT", "sacct", 1),
        "2_0": ("COMPLETED", "sacct", 0),
    }
    assert answer.reachable
    (call,) = commands.calls("sacct")
    assert "--jobs=1,2,3 " in call


def test_a_running_job_only_in_accounting_is_unknown(
    commands: Commands,
) -> None:
    commands.prints("squeue", squeue_lines())
    commands.prints("sacct", sacct_lines(("1_0", "RUNNING", YESTERDAY), ("1_1", "REQUEUED", "")))
    answer = SlurmClient().query_jobs(["1_0", "1_1"])
    assert (answer.jobs, answer.reachable) == ({}, True)


def test_accounting_names_the_user_who_cancelled(commands: Commands) -> None:
    commands.prints("squeue", captured("squeue"))
    commands.prints("sacct", captured("sacct"))
    job = SlurmClient().query_jobs(["23_2"]).jobs["23_2"]
    assert (job.state, job.by, job.source, job.exit_code) == ("CANCELLED", "0", "squeue", "0:15")


def test_a_cluster_without_sacct_is_reachable(commands: Commands) -> None:
    commands.prints("squeue", captured("squeue"))
    answer = SlurmClient().query_jobs(["23_1", "99_1"])
    assert (answer.jobs["23_1"].state, answer.jobs["23_1"].exit_code) == ("FAILED", "7:0")
    assert "99_1" not in answer.jobs
    assert (answer.reachable, answer.accounting) == (True, False)
    assert answer.problem == "sacct: not on this machine"


def test_broken_accounting_is_reported(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    commands.prints("sacct", errors=NO_DATABASE, status=1)
    answer = SlurmClient().query_jobs(["1_0", "1_1"])
    assert list(answer.jobs) == ["1_0"]
    assert (answer.reachable, answer.accounting) == (True, False)
    assert "Problem talking to the database" in answer.problem


def test_an_unreachable_controller_is_reported(commands: Commands) -> None:
    commands.prints("squeue", errors=DOWN, status=1)
    commands.prints(
        "sacct",
        sacct_lines(
            ("1_0", "RUNNING", YESTERDAY),
            ("1_1", "COMPLETED", YESTERDAY),
            ("1_2", "PREEMPTED", YESTERDAY),
            ("1_3", "NODE_FAIL", YESTERDAY),
        ),
    )
    commands.prints("scontrol", errors=DOWN, status=1)
    answer = SlurmClient().query_jobs([f"1_{n}" for n in range(5)])
    assert {id: job.state for id, job in answer.jobs.items()} == {
        "1_0": "RUNNING",
        "1_1": "COMPLETED",
    }, "the others may be requeued"
    assert not answer.reachable
    assert answer.accounting
    assert "Unable to contact slurm controller" in answer.problem
    assert commands.calls("scontrol") == [], "scontrol would take 18 s per array without an answer"


def test_hanging_commands_are_unreachable(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = queries.run_command
    monkeypatch.setattr(queries, "run_command", lambda command, seconds=30.0: real(command, 0.1))
    for name in ("squeue", "sacct", "scontrol"):
        commands.hangs(name)
    answer = SlurmClient().query_jobs(["1_0"])
    assert (answer.jobs, answer.reachable, answer.accounting) == ({}, False, False)
    assert "no answer in" in answer.problem


def test_scontrol_replaces_an_unusable_squeue(commands: Commands) -> None:
    commands.prints("squeue", "JOBID PARTITION NAME USER ST TIME NODES\n")
    commands.prints("scontrol", f"{BANNER}\n" + captured("scontrol_array"))
    answer = SlurmClient().query_jobs(["23_1", "23_5"])
    assert {id: (j.state, j.source) for id, j in answer.jobs.items()} == {
        "23_1": ("FAILED", "scontrol"),
        "23_5": ("RUNNING", "scontrol"),
    }
    assert answer.reachable
    commands.prints("scontrol", errors=NO_JOB, status=1)
    answer = SlurmClient().query_jobs(["99_1"])
    assert (answer.jobs, answer.reachable) == ({}, True)


def test_without_slurm_nothing_is_reachable(commands: Commands) -> None:
    answer = SlurmClient().query_jobs(["1_0"])
    assert (answer.jobs, answer.reachable, answer.accounting) == ({}, False, False)


def test_invalid_ids_reach_no_command_line(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    slurm_client = SlurmClient()
    assert list(slurm_client.query_jobs(["1_0", "$(id)", "--all", "1;2", ""]).jobs) == ["1_0"]
    (call,) = commands.calls("squeue")
    assert "--jobs=1 " in call
    assert slurm_client.query_jobs(["--all"]).jobs == {}
    assert slurm_client.list_starts("--all") == []
    for act in (
        lambda: slurm_client.cancel(["1_0", "-u root"]),
        lambda: slurm_client.requeue("--all"),
    ):
        with pytest.raises(ProtosegError, match="is not a job id"):
            act()
    assert commands.calls("scancel") == commands.calls("scontrol") == []


def test_find_jobs_by_name_searches_queue_and_accounting(commands: Commands) -> None:
    commands.prints("squeue", captured("squeue"))
    lines = sacct_lines(("7_1", "COMPLETED", YESTERDAY), ("7_2", "FAILED", YESTERDAY))
    commands.prints("sacct", lines.replace("matrix.x", "matrix.0a1b2c3d"))
    slurm_client = SlurmClient()
    assert slurm_client.find_jobs_by_name("matrix.0a1b2c3d") == ("7", "23")
    (start_time,) = re.findall(r"--starttime=(\S+)", commands.calls("sacct")[0])
    back = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    back -= datetime.datetime.fromisoformat(start_time)
    assert datetime.timedelta(days=29) < back < datetime.timedelta(days=31)
    assert slurm_client.find_jobs_by_name("matrix") == ()
    assert (
        slurm_client.find_jobs_by_name("a;b")
        == slurm_client.find_jobs_by_name("")
        == slurm_client.find_jobs_by_name("x,y")
        == ()
    )


def test_find_jobs_by_name_raises_without_an_answer(commands: Commands) -> None:
    commands.prints("squeue", errors=DOWN, status=1)
    commands.prints("sacct", sacct_lines())
    with pytest.raises(SlurmUnreachable, match="Unable to contact"):
        SlurmClient().find_jobs_by_name("matrix.x")
    commands.prints("squeue", squeue_lines())
    assert SlurmClient().find_jobs_by_name("matrix.x") == ()
    commands.prints("sacct", errors=NO_DATABASE, status=1)
    assert SlurmClient().find_jobs_by_name("matrix.x") == ()


def test_dependent_jobs_are_those_that_wait_or_run(commands: Commands) -> None:
    lines = dependency_lines(
        "m-next.1",
        ("9", "COMPLETED", "(null)"),
        ("12", "PENDING", "afterany:10_*(unfulfilled),afterany:11(unfulfilled)"),
        ("8", "RUNNING", "(null)"),
    )
    commands.prints("squeue", BANNER + "\n" + lines)
    jobs = SlurmClient().list_dependent_jobs("m-next.1")
    assert [(job.id, job.is_waiting, sorted(job.waits_for)) for job in jobs] == [
        ("8", False, []),
        ("12", True, ["10", "11"]),
    ]
    assert SlurmClient().list_dependent_jobs("m-next.2") == []
    commands.prints("squeue", errors=DOWN, status=1)
    with pytest.raises(SlurmUnreachable, match="Unable to contact"):
        SlurmClient().list_dependent_jobs("m-next.1")


def test_list_starts_shows_all_starts(commands: Commands) -> None:
    assert SlurmClient().list_starts("23_3") == []
    commands.prints("sacct", captured("sacct"))
    assert [job.state for job in SlurmClient().list_starts("23_3")] == ["REQUEUED", "RUNNING"]


def test_cancel_passes_the_tasks_of_an_array_together(commands: Commands) -> None:
    commands.prints("scancel")
    SlurmClient().cancel(f"5_{n}" for n in range(1000))
    assert [call.strip() for call in commands.calls("scancel")] == ["5_[0-999]"]
    SlurmClient().cancel([])
    assert len(commands.calls("scancel")) == 1


def test_errors_of_cancel_and_requeue_contain_slurms_message(commands: Commands) -> None:
    down = "scancel: error: Kill job error on job id 1_1: Unable to contact slurm controller"
    commands.prints("scancel", errors=down, status=8)
    with pytest.raises(ProtosegError, match="Unable to contact slurm controller"):
        SlurmClient().cancel(["1_1"])
    commands.prints("scancel", errors="scancel: error: Invalid job id 1_1", status=1)
    SlurmClient().cancel(["1_1"])
    commands.prints("scontrol", errors="12_0: Job is pending execution", status=1)
    with pytest.raises(ProtosegError, match=r"job 12_0 .*Job is pending execution"):
        SlurmClient().requeue("12_0")
    commands.prints("scontrol")
    SlurmClient().requeue("12_0")


def test_a_requeue_stopped_by_sigterm_is_not_repeated(commands: Commands) -> None:
    commands.script("scontrol", "kill -TERM $$")
    with pytest.raises(ProtosegError, match="job 12_0 was not requeued"):
        SlurmClient().requeue("12_0")
    assert len(commands.calls("scontrol")) == 1
