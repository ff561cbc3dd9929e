"""Inside a job: what the controller said to workers that were being stopped."""

from __future__ import annotations

import datetime
import signal
import time

import pytest
from waiting import DEADLINE

from protoseg.runs.states import Reason
from protoseg.slurm import environment
from protoseg.slurm.environment import CurrentJob, current_job, is_job_active, why_stopped
from protoseg.slurm.jobs import Job
from protoseg.slurm.queries import ending_in_sacct
from slurm.commands import DOWN, NO_JOB, Commands, captured, sacct_lines

NOW = "2026-11-20T09:54:47"


@pytest.fixture(autouse=True)
def _time_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is not a silent scheduler."""
    monkeypatch.setattr(environment, "SECONDS", DEADLINE)


def inside(monkeypatch: pytest.MonkeyPatch, array: str, restarts: int = 0) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", array)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))


def at(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Let it be the time at which the output was captured."""
    seconds = datetime.datetime.fromisoformat(f"{moment}+00:00").timestamp()
    monkeypatch.setattr(time, "time", lambda: seconds)


def shown(commands: Commands, name: str) -> str:
    """Let scontrol print what it printed then; the id of its job."""
    text = captured(f"inside_{name}")
    commands.prints("scontrol", text)
    return text.partition("ArrayJobId=")[2].partition(" ")[0]


def test_the_job_here(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "130")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert current_job() == CurrentJob("130", "130", 0, "node7", "")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "123")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert current_job() == CurrentJob("123_4", "130", 2, "node7", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "$(id)")
    assert current_job() is None


CASES = [
    ("cancelled", signal.SIGTERM, "CANCELLED by 0", Reason.CANCELLED, "by root"),
    ("cancelled", signal.SIGTERM, "PREEMPTED", Reason.PREEMPTED, "PREEMPTED"),
    ("cancelled", signal.SIGTERM, None, Reason.CANCELLED, "was cancelled, or ended"),
    ("requeued", signal.SIGTERM, "REQUEUED", Reason.PREEMPTED, "REQUEUED"),
    ("requeued", signal.SIGTERM, None, Reason.PREEMPTED, "was requeued; SLURM could not say"),
    ("preempted", signal.SIGTERM, "PREEMPTED", Reason.PREEMPTED, "higher priority"),
    ("preempted", signal.SIGTERM, "NODE_FAIL", Reason.NODE_FAILURE, "the node failed"),
    ("grace", signal.SIGTERM, "RUNNING", Reason.PREEMPTED, "higher priority"),
    ("grace", signal.SIGUSR2, "RUNNING", Reason.PREEMPTED, "higher priority"),
    ("warned", signal.SIGUSR2, "RUNNING", Reason.TIMEOUT, "limit of 00:01:00 was near"),
    ("limit", signal.SIGTERM, None, Reason.TIMEOUT, "limit of 00:01:00 was reached"),
    ("signalled", signal.SIGTERM, "RUNNING", Reason.LOST, "while the job goes on"),
    ("signalled", signal.SIGUSR2, "RUNNING", Reason.TIMEOUT, "SIGUSR2"),
]


@pytest.mark.parametrize(("name", "number", "past", "reason", "words"), CASES)
def test_why_a_worker_was_stopped(
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    past: str | None,
    reason: Reason,
    words: str,
) -> None:
    array = shown(commands, name)
    inside(monkeypatch, array)
    at(monkeypatch, NOW)
    if past:
        commands.prints("sacct", sacct_lines((f"{array}_0", past, NOW)))
    found, sentence = why_stopped(number)
    assert found == reason
    assert words in sentence
    assert "\n" not in sentence
    (call,) = commands.calls("scontrol")
    assert f" {array}_0 " in call


def test_a_signal_by_hand_long_before_the_end(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = shown(commands, "signalled")
    inside(monkeypatch, array)
    at(monkeypatch, "2026-11-20T05:00:00")
    assert why_stopped(signal.SIGTERM)[0] == Reason.LOST
    # sbatch was told to send this one before the limit, by hours if the profile says so.
    assert why_stopped(signal.SIGUSR2)[0] == Reason.TIMEOUT


def test_accounting_that_is_a_moment_late_is_asked_again(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = shown(commands, "requeued")
    inside(monkeypatch, array)
    early, late = commands.folder / "early", commands.folder / "late"
    early.write_text(sacct_lines((f"{array}_0", "RUNNING", NOW)))
    next_one = (f"{array}_0", "PENDING", "2026-11-20T09:55:00")
    late.write_text(sacct_lines((f"{array}_0", "NODE_FAIL", NOW), next_one))
    asked = f"{early}.seen"
    commands.script(
        "sacct", f"/bin/cat {early}; [ -e {asked} ] && /bin/mv {late} {early}; echo > {asked}"
    )
    assert why_stopped(signal.SIGTERM)[0] == Reason.NODE_FAILURE
    assert len(commands.calls("sacct")) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, 99])
def test_a_silent_controller(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    inside(monkeypatch, "39")
    for _ in range(2):
        reason, sentence = why_stopped(number)
        assert (reason, "from the scheduler" in sentence) == (Reason.LOST, True)
        assert why_stopped(signal.SIGUSR2)[0] == Reason.TIMEOUT
        commands.prints("scontrol", errors=DOWN, status=1)


def test_a_controller_that_hangs_takes_no_longer_than_it_may(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, "39")
    commands.hangs("scontrol")
    with monkeypatch.context() as hurry:
        hurry.setattr(environment, "SECONDS", 0.1)
        assert why_stopped(signal.SIGTERM)[0] == Reason.LOST
        assert is_job_active("39_0") is None
    array = shown(commands, "cancelled")
    commands.hangs("sacct")
    inside(monkeypatch, array)
    left: list[float] = []

    def ending(key: str, seconds: float) -> Job | None:
        left.append(seconds)
        return ending_in_sacct(key, 0.1)

    monkeypatch.setattr(environment, "ending_in_sacct", ending)
    assert why_stopped(signal.SIGTERM)[0] == Reason.CANCELLED
    assert 0 < left[0] < DEADLINE, "what scontrol left of the time"
    assert len(commands.calls("sacct")) <= 1


def test_whether_another_job_runs(commands: Commands) -> None:
    assert is_job_active("23_1") is None, "no scontrol here"
    commands.prints("scontrol", captured("scontrol_array"))
    assert is_job_active("23_5") is True
    assert is_job_active("23_1") is False
    commands.prints("scontrol", captured("inside_cancelled"))
    assert is_job_active("39_0") is True, "it may still save"
    suspended = captured("inside_grace").replace("JobState=RUNNING", "JobState=SUSPENDED")
    commands.prints("scontrol", suspended)
    assert is_job_active("44_0") is True, "it goes on one day"
    commands.prints("scontrol", captured("scontrol_pending"))
    assert is_job_active("32_20") is False
    commands.prints("scontrol", errors=NO_JOB, status=1)
    assert is_job_active("99_1") is False
    commands.prints("scontrol", "Job 40_50 not found\n", status=1)
    assert is_job_active("40_50") is False
    commands.prints("scontrol", errors=DOWN, status=1)
    assert is_job_active("23_5") is None
    commands.prints("scontrol", "something else\n")
    assert is_job_active("23_5") is None
    before = len(commands.calls("scontrol"))
    assert is_job_active("--all") is None
    assert len(commands.calls("scontrol")) == before
