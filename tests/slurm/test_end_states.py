"""SLURM's end states as reasons."""

from __future__ import annotations

import os
import pwd

import pytest

from protoseg.runs.states import Reason
from protoseg.slurm.end_states import reason_of
from protoseg.slurm.jobs import ACTIVE, ENDED, WAITING, Job


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("CANCELLED", Reason.CANCELLED),
        ("PREEMPTED", Reason.PREEMPTED),
        ("REVOKED", Reason.PREEMPTED),
        ("NODE_FAIL", Reason.NODE_FAILURE),
        ("BOOT_FAIL", Reason.NODE_FAILURE),
        ("LAUNCH_FAILED", Reason.NODE_FAILURE),
        ("TIMEOUT", Reason.TIMEOUT),
        ("DEADLINE", Reason.TIMEOUT),
        ("OUT_OF_MEMORY", Reason.OUT_OF_MEMORY),
        ("FAILED", Reason.LOST),
    ],
)
def test_every_bad_end_has_its_reason(state: str, reason: Reason) -> None:
    found = reason_of(Job("1_0", state, node="node1"))
    assert found is not None
    assert found[0] == reason
    assert f"({state})" in found[1]
    assert "node1" in found[1]


def test_every_end_but_the_good_one_has_a_reason() -> None:
    for state in ENDED - {"COMPLETED"}:
        assert reason_of(Job("1_0", state)), state
    for state in WAITING | ACTIVE | {"COMPLETED", "", "SOMETHING_NEW"}:
        assert reason_of(Job("1_0", state)) is None, state


def test_who_cancelled_is_named() -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    assert f"by {me} " in reason_of(Job("1", "CANCELLED", by=str(os.getuid())))[1]  # type: ignore[index]
    assert "by user 3999999999 " in reason_of(Job("1", "CANCELLED", by="3999999999"))[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("7:0", "with exit status 7"),
        ("0:9", "killed by signal 9"),
        ("137:0", "with exit status 137 (signal 9)"),
        ("127:0", "with exit status 127 (a command was not found)"),
        ("0:0", "ended without a word ("),
        ("", "ended without a word ("),
    ],
)
def test_a_failed_job_tells_its_exit_status(code: str, words: str) -> None:
    assert words in reason_of(Job("1", "FAILED", exit_code=code))[1]  # type: ignore[index]
