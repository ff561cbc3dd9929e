"""One question to a scheduler that may be half there."""

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
    sacct_lines,
    squeue_lines,
)

YESTERDAY = "2026-11-19T10:00:00"


def test_squeue_alone_is_asked_where_it_knows_all(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING"), ("1_1", "PENDING")))
    commands.prints("sacct", sacct_lines())
    answer = SlurmClient().ask(["1_0", "1_1"])
    assert {id: job.state for id, job in answer.jobs.items()} == {
        "1_0": "RUNNING",
        "1_1": "PENDING",
    }
    assert (answer.reachable, answer.accounting, answer.problem) == (True, True, "")
    assert len(commands.calls("squeue")) == 1
    assert commands.calls("sacct") == []


def test_what_squeue_forgot_is_asked_of_sacct_in_one_call(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    commands.prints(
        "sacct",
        sacct_lines(
            ("1_1", "PREEMPTED", YESTERDAY),
            ("1_1", "TIMEOUT", "2026-11-19T12:00:00"),
            ("2_0", "COMPLETED", YESTERDAY),
        ),
    )
    answer = SlurmClient().ask(["1_0", "1_1", "2_0", "3_0"])
    assert {id: (job.state, job.source, job.restarts) for id, job in answer.jobs.items()} == {
        "1_0": ("RUNNING", "squeue", 0),
        "1_1": ("TIMEOUT", "sacct", 1),
        "2_0": ("COMPLETED", "sacct", 0),
    }
    assert answer.reachable
    (call,) = commands.calls("sacct")
    assert "--jobs=1,2,3 " in call


def test_what_accounting_believes_alive_is_unknown_where_the_controller_forgot_it(
    commands: Commands,
) -> None:
    commands.prints("squeue", squeue_lines())
    commands.prints("sacct", sacct_lines(("1_0", "RUNNING", YESTERDAY), ("1_1", "REQUEUED", "")))
    answer = SlurmClient().ask(["1_0", "1_1"])
    assert (answer.jobs, answer.reachable) == ({}, True)


def test_who_cancelled_a_job_is_asked_of_accounting(commands: Commands) -> None:
    commands.prints("squeue", captured("squeue"))
    commands.prints("sacct", captured("sacct"))
    job = SlurmClient().ask(["23_2"]).jobs["23_2"]
    assert (job.state, job.by, job.source, job.exit_code) == ("CANCELLED", "0", "squeue", "0:15")


def test_a_site_without_sacct(commands: Commands) -> None:
    commands.prints("squeue", captured("squeue"))
    answer = SlurmClient().ask(["23_1", "99_1"])
    assert (answer.jobs["23_1"].state, answer.jobs["23_1"].exit_code) == ("FAILED", "7:0")
    assert "99_1" not in answer.jobs
    assert (answer.reachable, answer.accounting) == (True, False)
    assert answer.problem == "sacct: not on this machine"


def test_accounting_that_is_down(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    commands.prints("sacct", errors=NO_DATABASE, status=1)
    answer = SlurmClient().ask(["1_0", "1_1"])
    assert list(answer.jobs) == ["1_0"]
    assert (answer.reachable, answer.accounting) == (True, False)
    assert "Problem talking to the database" in answer.problem


def test_a_controller_that_is_down(commands: Commands) -> None:
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
    answer = SlurmClient().ask([f"1_{n}" for n in range(5)])
    assert {id: job.state for id, job in answer.jobs.items()} == {
        "1_0": "RUNNING",
        "1_1": "COMPLETED",
    }, "the others may wait in its queue again"
    assert not answer.reachable
    assert answer.accounting
    assert "Unable to contact slurm controller" in answer.problem
    assert commands.calls("scontrol") == [], "18 s for each array, for the same silence"


def test_everything_hangs(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    real = queries.call
    monkeypatch.setattr(queries, "call", lambda command, seconds=30.0: real(command, 0.1))
    for name in ("squeue", "sacct", "scontrol"):
        commands.hangs(name)
    answer = SlurmClient().ask(["1_0"])
    assert (answer.jobs, answer.reachable, answer.accounting) == ({}, False, False)
    assert "no answer in" in answer.problem


def test_scontrol_where_squeue_is_a_sites_own_table(commands: Commands) -> None:
    commands.prints("squeue", "JOBID PARTITION NAME USER ST TIME NODES\n")
    commands.prints("scontrol", f"{BANNER}\n" + captured("scontrol_array"))
    answer = SlurmClient().ask(["23_1", "23_5"])
    assert {id: (j.state, j.source) for id, j in answer.jobs.items()} == {
        "23_1": ("FAILED", "scontrol"),
        "23_5": ("RUNNING", "scontrol"),
    }
    assert answer.reachable
    commands.prints("scontrol", errors=NO_JOB, status=1)
    answer = SlurmClient().ask(["99_1"])
    assert (answer.jobs, answer.reachable) == ({}, True)


def test_no_cluster_at_all(commands: Commands) -> None:
    answer = SlurmClient().ask(["1_0"])
    assert (answer.jobs, answer.reachable, answer.accounting) == ({}, False, False)


def test_what_is_no_id_reaches_no_command_line(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines(("1_0", "RUNNING")))
    scheduler = SlurmClient()
    assert list(scheduler.ask(["1_0", "$(id)", "--all", "1;2", ""]).jobs) == ["1_0"]
    (call,) = commands.calls("squeue")
    assert "--jobs=1 " in call
    assert scheduler.ask(["--all"]).jobs == {}
    assert scheduler.starts("--all") == []
    for act in (lambda: scheduler.cancel(["1_0", "-u root"]), lambda: scheduler.requeue("--all")):
        with pytest.raises(ProtosegError, match="is no job id"):
            act()
    assert commands.calls("scancel") == commands.calls("scontrol") == []


def test_names_are_found_in_the_queue_and_in_accounting(commands: Commands) -> None:
    commands.prints("squeue", captured("squeue"))
    lines = sacct_lines(("7_1", "COMPLETED", YESTERDAY), ("7_2", "FAILED", YESTERDAY))
    commands.prints("sacct", lines.replace("matrix.x", "matrix.0a1b2c3d"))
    scheduler = SlurmClient()
    assert scheduler.named("matrix.0a1b2c3d") == ("7", "23")
    (asked,) = re.findall(r"--starttime=(\S+)", commands.calls("sacct")[0])
    back = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    back -= datetime.datetime.fromisoformat(asked)
    assert datetime.timedelta(days=29) < back < datetime.timedelta(days=31)
    assert scheduler.named("matrix") == ()
    assert scheduler.named("a;b") == scheduler.named("") == scheduler.named("x,y") == ()


def test_a_name_is_not_called_unknown_by_a_silent_controller(commands: Commands) -> None:
    commands.prints("squeue", errors=DOWN, status=1)
    commands.prints("sacct", sacct_lines())
    with pytest.raises(SlurmUnreachable, match="Unable to contact"):
        SlurmClient().named("matrix.x")
    commands.prints("squeue", squeue_lines())
    assert SlurmClient().named("matrix.x") == ()
    commands.prints("sacct", errors=NO_DATABASE, status=1)
    assert SlurmClient().named("matrix.x") == ()


def test_incarnations(commands: Commands) -> None:
    assert SlurmClient().starts("23_3") == []
    commands.prints("sacct", captured("sacct"))
    assert [job.state for job in SlurmClient().starts("23_3")] == ["REQUEUED", "RUNNING"]


def test_cancel_names_the_tasks_of_an_array_together(commands: Commands) -> None:
    commands.prints("scancel")
    SlurmClient().cancel(f"5_{n}" for n in range(1000))
    assert [call.strip() for call in commands.calls("scancel")] == ["5_[0-999]"]
    SlurmClient().cancel([])
    assert len(commands.calls("scancel")) == 1


def test_cancel_and_requeue_say_what_slurm_said(commands: Commands) -> None:
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


def test_a_requeue_that_is_cancelled_with_its_job_is_not_tried_again(commands: Commands) -> None:
    commands.script("scontrol", "kill -TERM $$")
    with pytest.raises(ProtosegError, match="job 12_0 was not requeued"):
        SlurmClient().requeue("12_0")
    assert len(commands.calls("scontrol")) == 1
