"""Tests of the facts inside a job, with captured output for stopped workers."""

from __future__ import annotations

import datetime
import signal
import time

import pytest
from waiting import DEADLINE

from protoseg.runs.states import Reason
from protoseg.slurm import environment
from protoseg.slurm.environment import CurrentJob, current_job, explain_signal, is_job_active
from protoseg.slurm.jobs import Job
from protoseg.slurm.queries import wait_for_end_in_sacct
from slurm.commands import DOWN, NO_JOB, Commands, captured, sacct_lines

NOW = "2026-11-20T09:54:47"


@pytest.fixture(autouse=True)
def _time_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long time limits for slow machines."""
    monkeypatch.setattr(environment, "SECONDS", DEADLINE)


def set_job(monkeypatch: pytest.MonkeyPatch, array: str, restarts: int = 0) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", array)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))


def set_time(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Set the clock to a time, e.g. that of the captured output."""
    seconds = datetime.datetime.fromisoformat(f"{moment}+00:00").timestamp()
    monkeypatch.setattr(time, "time", lambda: seconds)


def install_scontrol(commands: Commands, name: str) -> str:
    """Install scontrol with captured output, and return the id of its array."""
    text = captured(f"inside_{name}")
    commands.prints("scontrol", text)
    return text.partition("ArrayJobId=")[2].partition(" ")[0]


def test_current_job_reads_the_environment(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert current_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "130")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert current_job() == CurrentJob("130", 0, "node7", "")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "123")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert current_job() == CurrentJob("123_4", 2, "node7", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "$(id)")
    assert current_job() is None


CASES = [
    ("cancelled", signal.SIGTERM, "CANCELLED by 0", Reason.CANCELLED, "by root"),
    ("cancelled", signal.SIGTERM, "PREEMPTED", Reason.PREEMPTED, "PREEMPTED"),
    ("cancelled", signal.SIGTERM, None, Reason.CANCELLED, "was cancelled, or SLURM ended"),
    ("requeued", signal.SIGTERM, "REQUEUED", Reason.PREEMPTED, "REQUEUED"),
    ("requeued", signal.SIGTERM, None, Reason.PREEMPTED, "was requeued; SLURM does not know"),
    ("preempted", signal.SIGTERM, "PREEMPTED", Reason.PREEMPTED, "higher priority"),
    ("preempted", signal.SIGTERM, "NODE_FAIL", Reason.NODE_FAILURE, "the node failed"),
    ("grace", signal.SIGTERM, "RUNNING", Reason.PREEMPTED, "higher priority"),
    ("grace", signal.SIGUSR2, "RUNNING", Reason.PREEMPTED, "higher priority"),
    ("warned", signal.SIGUSR2, "RUNNING", Reason.TIMEOUT, "limit of 00:01:00 was near"),
    ("limit", signal.SIGTERM, None, Reason.TIMEOUT, "limit of 00:01:00 was reached"),
    ("signalled", signal.SIGTERM, "RUNNING", Reason.LOST, "while the job runs"),
    ("signalled", signal.SIGUSR2, "RUNNING", Reason.TIMEOUT, "SIGUSR2"),
]


@pytest.mark.parametrize(("name", "number", "past", "reason", "text"), CASES)
def test_why_stopped_gives_the_reason(
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    past: str | None,
    reason: Reason,
    text: str,
) -> None:
    array = install_scontrol(commands, name)
    set_job(monkeypatch, array)
    set_time(monkeypatch, NOW)
    if past:
        commands.prints("sacct", sacct_lines((f"{array}_0", past, NOW)))
    actual, sentence = explain_signal(number)
    assert actual == reason
    assert text in sentence
    assert "\n" not in sentence
    (call,) = commands.calls("scontrol")
    assert f" {array}_0 " in call


def test_a_signal_by_a_user_long_before_the_limit_is_lost(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = install_scontrol(commands, "signalled")
    set_job(monkeypatch, array)
    set_time(monkeypatch, "2026-11-20T05:00:00")
    assert explain_signal(signal.SIGTERM)[0] == Reason.LOST
    # sbatch sends SIGUSR2 before the time limit, with some profiles hours before.
    assert explain_signal(signal.SIGUSR2)[0] == Reason.TIMEOUT


def test_late_accounting_is_queried_again(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = install_scontrol(commands, "requeued")
    set_job(monkeypatch, array)
    early, late = commands.folder / "early", commands.folder / "late"
    early.write_text(sacct_lines((f"{array}_0", "RUNNING", NOW)))
    next_one = (f"{array}_0", "PENDING", "2026-11-20T09:55:00")
    late.write_text(sacct_lines((f"{array}_0", "NODE_FAIL", NOW), next_one))
    queried = f"{early}.seen"
    commands.script(
        "sacct", f"/bin/cat {early}; [ -e {queried} ] && /bin/mv {late} {early}; echo > {queried}"
    )
    assert explain_signal(signal.SIGTERM)[0] == Reason.NODE_FAILURE
    assert len(commands.calls("sacct")) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, 99])
def test_an_unreachable_controller_gives_lost(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    set_job(monkeypatch, "39")
    for _ in range(2):
        reason, sentence = explain_signal(number)
        assert (reason, "did not answer" in sentence) == (Reason.LOST, True)
        assert explain_signal(signal.SIGUSR2)[0] == Reason.TIMEOUT
        commands.prints("scontrol", errors=DOWN, status=1)


def test_a_hanging_controller_is_stopped_in_time(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_job(monkeypatch, "39")
    commands.hangs("scontrol")
    with monkeypatch.context() as hurry:
        hurry.setattr(environment, "SECONDS", 0.1)
        assert explain_signal(signal.SIGTERM)[0] == Reason.LOST
        assert is_job_active("39_0") is None
    array = install_scontrol(commands, "cancelled")
    commands.hangs("sacct")
    set_job(monkeypatch, array)
    left: list[float] = []

    def ending(key: str, seconds: float) -> Job | None:
        left.append(seconds)
        return wait_for_end_in_sacct(key, 0.1)

    monkeypatch.setattr(environment, "wait_for_end_in_sacct", ending)
    assert explain_signal(signal.SIGTERM)[0] == Reason.CANCELLED
    assert 0 < left[0] < DEADLINE, "the rest of the time limit"
    assert len(commands.calls("sacct")) <= 1


def test_is_job_active_for_each_state(commands: Commands) -> None:
    assert is_job_active("23_1") is None, "this machine has no scontrol"
    commands.prints("scontrol", captured("scontrol_array"))
    assert is_job_active("23_5") is True
    assert is_job_active("23_1") is False
    commands.prints("scontrol", captured("inside_cancelled"))
    assert is_job_active("39_0") is True, "a completing job may still save"
    suspended = captured("inside_grace").replace("JobState=RUNNING", "JobState=SUSPENDED")
    commands.prints("scontrol", suspended)
    assert is_job_active("44_0") is True, "a suspended job can continue"
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
