"""Tests of the mapping from SLURM's end states to reasons."""

from __future__ import annotations

import os
import pwd

import pytest

from protoseg.runs.end_reasons import diagnose
from protoseg.runs.evidence import Evidence
from protoseg.runs.states import Reason
from protoseg.slurm.end_states import describe_job_end, job_end_evidence
from protoseg.slurm.jobs import ACTIVE, ENDED, WAITING, Job


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("CANCELLED", Reason.CANCELLED),
        ("PREEMPTED", Reason.PREEMPTED),
        ("REVOKED", Reason.PREEMPTED),
        ("REQUEUED", Reason.PREEMPTED),
        ("NODE_FAIL", Reason.NODE_FAILURE),
        ("BOOT_FAIL", Reason.NODE_FAILURE),
        ("LAUNCH_FAILED", Reason.NODE_FAILURE),
        ("RECONFIG_FAIL", Reason.NODE_FAILURE),
        ("TIMEOUT", Reason.TIMEOUT),
        ("DEADLINE", Reason.TIMEOUT),
        ("OUT_OF_MEMORY", Reason.OUT_OF_MEMORY),
        ("FAILED", Reason.LOST),
    ],
)
def test_each_end_state_has_a_reason(state: str, reason: Reason) -> None:
    job = Job("1_0", state, node="node1")
    assert diagnose(Evidence(**job_end_evidence(job)))[0] == reason
    assert f"({state})" in describe_job_end(job)
    assert "node1" in describe_job_end(job)


def test_only_completed_jobs_have_no_end_state() -> None:
    for state in ENDED - {"COMPLETED"}:
        assert job_end_evidence(Job("1_0", state)), state
    for state in (WAITING - {"REQUEUED"}) | ACTIVE | {"COMPLETED", "", "SOMETHING_NEW"}:
        assert job_end_evidence(Job("1_0", state)) == {}, state
    assert job_end_evidence(None) == {}


def test_the_sentence_names_the_user_who_cancelled() -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    assert f"by {me} " in describe_job_end(Job("1", "CANCELLED", by=str(os.getuid())))
    assert "by user 3999999999 " in describe_job_end(Job("1", "CANCELLED", by="3999999999"))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("7:0", "with exit status 7"),
        ("0:9", "killed by signal 9"),
        ("137:0", "with exit status 137 (signal 9)"),
        ("127:0", "with exit status 127 (a command was not found)"),
        ("0:0", "failed without a message ("),
        ("", "failed without a message ("),
    ],
)
def test_the_sentence_contains_the_exit_status(code: str, text: str) -> None:
    assert text in describe_job_end(Job("1", "FAILED", exit_code=code))
