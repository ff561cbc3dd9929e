"""Tests of squeue, sacct and scontrol with captured output."""

from __future__ import annotations

import pytest

from protoseg.slurm.jobs import Job
from protoseg.slurm.queries import parse_scontrol, query_sacct, query_scontrol, query_squeue
from slurm.commands import BANNER, DOWN, NO_JOB, Commands, captured, sacct_lines, squeue_lines

TASKS = [f"{array}_{task}" for array in (23, 32, 33) for task in range(30)]


def test_squeue_shows_waiting_running_and_ended_jobs(commands: Commands) -> None:
    commands.prints("squeue", captured("squeue"))
    result = query_squeue(TASKS)
    assert (result.problem, result.is_silent) == ("", False)
    jobs = {id: starts[-1] for id, starts in result.jobs.items()}
    states = {id: job.state for id, job in jobs.items() if id.startswith("23_")}
    assert states == {
        "23_0": "COMPLETED", "23_1": "FAILED", "23_2": "CANCELLED", "23_3": "RUNNING",
        "23_4": "FAILED", "23_5": "RUNNING", "23_6": "TIMEOUT", "23_7": "TIMEOUT",
        "23_8": "TIMEOUT",
    }  # fmt: skip
    assert (jobs["23_1"].exit_code, jobs["23_4"].exit_code) == ("7:0", "0:9")
    assert (jobs["23_3"].restarts, jobs["23_5"].restarts) == (1, 0)
    assert jobs["32_20"] == Job(
        "32_20", "PENDING", "JobArrayTaskLimit", exit_code="0:0", name="other.ffff0000",
        submitted="2026-11-20T09:52:16+00:00",
    )  # fmt: skip
    assert "32_25" not in jobs, (
        "SLURM keeps no trace of a single task that was cancelled in the queue"
    )
    assert jobs["23_5"].node == "node1"
    assert jobs["23_5"].end == "2026-11-20T10:12:13+00:00"


def test_sacct_shows_every_start(commands: Commands) -> None:
    commands.prints("sacct", captured("sacct"))
    jobs = query_sacct(["23", "32", "33"], TASKS).jobs
    assert [(j.state, j.restarts) for j in jobs["23_3"]] == [("REQUEUED", 0), ("RUNNING", 1)]
    (cancelled,) = jobs["23_2"]
    assert (cancelled.state, cancelled.by) == ("CANCELLED", "0")
    assert [j.state for j in jobs["32_28"]] == ["PENDING"]
    assert "32_25" not in jobs
    assert {jobs[f"33_{n}"][-1].by for n in range(10)} == {"0"}
    assert jobs["32_28"][0].node == ""


def test_starts_are_sorted_by_submission_time(commands: Commands) -> None:
    rows = [
        ("5_1", "RUNNING", "2026-11-20T12:00:00"),
        ("5_1", "PREEMPTED", "2026-11-20T10:00:00"),
        ("5_1", "NODE_FAIL", "2026-11-20T11:00:00"),
    ]
    commands.prints("sacct", sacct_lines(*rows))
    states = [job.state for job in query_sacct(["5"], ["5_1"]).jobs["5_1"]]
    assert states == ["PREEMPTED", "NODE_FAIL", "RUNNING"]


def test_all_tasks_of_a_cancelled_array_share_its_row(commands: Commands) -> None:
    commands.prints("sacct", sacct_lines(("25", "CANCELLED by 1000", "2026-11-20T10:00:00")))
    jobs = query_sacct(["25"], ["25_0", "25_7", "26_1"]).jobs
    assert {id: job[-1].by for id, job in jobs.items()} == {"25_0": "1000", "25_7": "1000"}


def test_scontrol_shows_tasks_and_pending_expressions(commands: Commands) -> None:
    commands.prints("scontrol", captured("scontrol_array"))
    jobs = {
        id: starts[-1] for id, starts in query_scontrol([f"23_{n}" for n in range(9)]).jobs.items()
    }
    assert len(jobs) == 9
    assert (jobs["23_1"].state, jobs["23_1"].exit_code) == ("FAILED", "7:0")
    assert (jobs["23_8"].state, jobs["23_8"].why) == ("TIMEOUT", "TimeLimit")
    assert jobs["23_3"].restarts == 1
    commands.prints("scontrol", captured("scontrol_pending"))
    result = query_scontrol(TASKS[30:60])
    assert {id for id, starts in result.jobs.items() if starts[-1].is_waiting} == {
        f"32_{n}" for n in (5, 7, *range(20, 25), *range(26, 30))
    }


@pytest.mark.parametrize(
    "source", [query_squeue, lambda ids: query_sacct(["23"], ids)], ids=["squeue", "sacct"]
)
def test_banners_are_ignored(commands: Commands, source: object) -> None:
    for name in ("squeue", "sacct"):
        text = captured(name)
        commands.prints(name, f"{BANNER}\n\n{text}{BANNER}\n", errors=BANNER)
    with_banner = source(TASKS)
    for name in ("squeue", "sacct"):
        commands.prints(name, captured(name))
    assert with_banner == source(TASKS)
    assert with_banner.jobs


def test_an_unknown_job_is_an_answer(commands: Commands) -> None:
    commands.prints("squeue", errors=NO_JOB, status=1)
    result = query_squeue(["999_1"])
    assert (result.jobs, result.problem) == ({}, "")
    commands.prints("scontrol", "Job 40_50 not found\n", status=1)
    assert query_scontrol(["40_50"]).problem == ""


def test_an_unreachable_controller_differs_from_a_refusal(commands: Commands) -> None:
    commands.prints("squeue", errors=DOWN, status=1)
    assert query_squeue(["1_1"]).is_silent
    slow = "slurm_load_jobs error: Socket timed out on send/recv operation"
    commands.prints("squeue", errors=slow, status=1)
    assert query_squeue(["1_1"]).is_silent
    commands.prints("squeue", errors="squeue: error: Unrecognized option: --Format", status=1)
    result = query_squeue(["1_1"])
    assert result.problem
    assert not result.is_silent


def test_a_wrapper_with_its_own_table_is_no_answer(commands: Commands) -> None:
    table = "JOBID PARTITION NAME USER ST TIME NODES NODELIST(REASON)\n"
    commands.prints("squeue", table)
    assert query_squeue(["1_1"]).problem == (
        "squeue: the output does not have the requested columns"
    )


def test_each_array_of_thousands_of_ids_is_queried_once(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines())
    ids = [f"{10_000_000 + array}_{task}" for array in range(6000) for task in range(2)]
    assert query_squeue(ids).problem == ""
    first, second = commands.calls("squeue")
    assert first.count(",1") + second.count(",1") == 6000 - 2
    assert max(len(word) for word in first.split()) < 2**16


def test_scontrol_is_called_for_few_arrays(commands: Commands) -> None:
    commands.prints("scontrol", errors=NO_JOB, status=1)
    result = query_scontrol([f"{array}_1" for array in range(1, 100)])
    assert len(commands.calls("scontrol")) == 16
    assert result.problem == "scontrol: 83 arrays not queried"


def test_lines_without_jobs_are_ignored(commands: Commands) -> None:
    assert (
        list(
            parse_scontrol(
                "JobId=\nJobId=7\nnonsense\nJobId=8 Restarts=x JobState=RUNNING", ["7", "8"]
            )
        )
        != []
    )
    assert [
        id for id, *_ in parse_scontrol("JobId=7 ArrayTaskId=N/A ArrayJobId=7", ["7", "7_1"])
    ] == []
