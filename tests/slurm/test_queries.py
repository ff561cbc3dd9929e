"""squeue, sacct and scontrol as a real cluster printed them."""

from __future__ import annotations

import pytest

from protoseg.slurm.jobs import Job
from protoseg.slurm.queries import sacct, scontrol, shown, squeue
from slurm.commands import BANNER, DOWN, NO_JOB, Commands, captured, sacct_lines, squeue_lines

TASKS = [f"{array}_{task}" for array in (23, 32, 33) for task in range(30)]


def test_squeue_tells_waiting_running_and_ended_jobs(commands: Commands) -> None:
    commands.prints("squeue", captured("squeue"))
    found = squeue(TASKS)
    assert (found.problem, found.silent) == ("", False)
    jobs = {id: starts[-1] for id, starts in found.jobs.items()}
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
    assert "32_25" not in jobs, "cancelled alone while it waited: SLURM keeps no trace of it"
    assert jobs["23_5"].node == "node1"
    assert jobs["23_5"].end == "2026-11-20T10:12:13+00:00"


def test_sacct_tells_every_incarnation(commands: Commands) -> None:
    commands.prints("sacct", captured("sacct"))
    jobs = sacct(["23", "32", "33"], TASKS).jobs
    assert [(j.state, j.restarts) for j in jobs["23_3"]] == [("REQUEUED", 0), ("RUNNING", 1)]
    (cancelled,) = jobs["23_2"]
    assert (cancelled.state, cancelled.by) == ("CANCELLED", "0")
    assert [j.state for j in jobs["32_28"]] == ["PENDING"]
    assert "32_25" not in jobs
    assert {jobs[f"33_{n}"][-1].by for n in range(10)} == {"0"}
    assert jobs["32_28"][0].node == ""


def test_the_newest_incarnation_counts_in_whatever_order_they_come(commands: Commands) -> None:
    rows = [
        ("5_1", "RUNNING", "2026-11-20T12:00:00"),
        ("5_1", "PREEMPTED", "2026-11-20T10:00:00"),
        ("5_1", "NODE_FAIL", "2026-11-20T11:00:00"),
    ]
    commands.prints("sacct", sacct_lines(*rows))
    states = [job.state for job in sacct(["5"], ["5_1"]).jobs["5_1"]]
    assert states == ["PREEMPTED", "NODE_FAIL", "RUNNING"]


def test_an_array_cancelled_before_it_ran_is_one_row(commands: Commands) -> None:
    commands.prints("sacct", sacct_lines(("25", "CANCELLED by 1000", "2026-11-20T10:00:00")))
    jobs = sacct(["25"], ["25_0", "25_7", "26_1"]).jobs
    assert {id: job[-1].by for id, job in jobs.items()} == {"25_0": "1000", "25_7": "1000"}


def test_scontrol_tells_tasks_and_the_rest_that_waits(commands: Commands) -> None:
    commands.prints("scontrol", captured("scontrol_array"))
    jobs = {id: found[-1] for id, found in scontrol([f"23_{n}" for n in range(9)]).jobs.items()}
    assert len(jobs) == 9
    assert (jobs["23_1"].state, jobs["23_1"].exit_code) == ("FAILED", "7:0")
    assert (jobs["23_8"].state, jobs["23_8"].why) == ("TIMEOUT", "TimeLimit")
    assert jobs["23_3"].restarts == 1
    commands.prints("scontrol", captured("scontrol_pending"))
    found = scontrol(TASKS[30:60])
    assert {id for id, job in found.jobs.items() if job[-1].waiting} == {
        f"32_{n}" for n in (5, 7, *range(20, 25), *range(26, 30))
    }


@pytest.mark.parametrize(
    "source", [squeue, lambda ids: sacct(["23"], ids)], ids=["squeue", "sacct"]
)
def test_banners_change_nothing(commands: Commands, source: object) -> None:
    for name in ("squeue", "sacct"):
        text = captured(name)
        commands.prints(name, f"{BANNER}\n\n{text}{BANNER}\n", errors=BANNER)
    with_banner = source(TASKS)
    for name in ("squeue", "sacct"):
        commands.prints(name, captured(name))
    assert with_banner == source(TASKS)
    assert with_banner.jobs


def test_one_unknown_job_is_an_answer(commands: Commands) -> None:
    commands.prints("squeue", errors=NO_JOB, status=1)
    found = squeue(["999_1"])
    assert (found.jobs, found.problem) == ({}, "")
    commands.prints("scontrol", "Job 40_50 not found\n", status=1)
    assert scontrol(["40_50"]).problem == ""


def test_silence_is_told_from_refusal(commands: Commands) -> None:
    commands.prints("squeue", errors=DOWN, status=1)
    assert squeue(["1_1"]).silent
    slow = "slurm_load_jobs error: Socket timed out on send/recv operation"
    commands.prints("squeue", errors=slow, status=1)
    assert squeue(["1_1"]).silent
    commands.prints("squeue", errors="squeue: error: Unrecognized option: --Format", status=1)
    found = squeue(["1_1"])
    assert found.problem
    assert not found.silent


def test_a_wrapper_that_prints_its_own_table_is_no_answer(commands: Commands) -> None:
    table = "JOBID PARTITION NAME USER ST TIME NODES NODELIST(REASON)\n"
    commands.prints("squeue", table)
    assert squeue(["1_1"]).problem == ("squeue: prints something else than what it was asked for")


def test_of_thousands_of_ids_every_array_is_named_once(commands: Commands) -> None:
    commands.prints("squeue", squeue_lines())
    ids = [f"{10_000_000 + array}_{task}" for array in range(6000) for task in range(2)]
    assert squeue(ids).problem == ""
    first, second = commands.calls("squeue")
    assert first.count(",1") + second.count(",1") == 6000 - 2
    assert max(len(word) for word in first.split()) < 2**16


def test_scontrol_is_asked_for_a_few_arrays_alone(commands: Commands) -> None:
    commands.prints("scontrol", errors=NO_JOB, status=1)
    found = scontrol([f"{array}_1" for array in range(1, 100)])
    assert len(commands.calls("scontrol")) == 16
    assert found.problem == "scontrol: 83 arrays not asked for"


def test_lines_that_are_no_jobs(commands: Commands) -> None:
    assert (
        list(shown("JobId=\nJobId=7\nnonsense\nJobId=8 Restarts=x JobState=RUNNING", ["7", "8"]))
        != []
    )
    assert [id for id, *_ in shown("JobId=7 ArrayTaskId=N/A ArrayJobId=7", ["7", "7_1"])] == []
