"""The retry policy: one test for each row of its table, and for each question about a run."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from protoseg.errors import UsageError
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.runs import retry
from protoseg.runs.folder import RunFolder
from protoseg.runs.retry import RULES, count_failures_in_a_row, is_automatic, is_due, may_retry
from protoseg.runs.states import Reason, State
from runs.run_folders import DIED, add_attempt, add_checkpoint, state_of


class Row(NamedTuple):
    """The expected behaviour after an attempt that ended for a reason."""

    limit: int | None
    counts_after_progress: bool
    is_automatic: bool
    requeues_ending_job: bool
    is_configurable: bool


EXPECTED = {
    "preempted": Row(None, False, True, True, True),
    "timeout": Row(0, False, True, True, False),
    "node_failure": Row(10, False, True, False, True),
    "lost": Row(5, False, True, False, True),
    "cancelled": Row(None, False, False, False, True),
    "storage": Row(None, False, False, False, True),
    "out_of_memory": Row(0, True, False, False, True),
    "bad_data": Row(0, True, False, False, False),
    "bad_config": Row(0, True, False, False, False),
    "code_error": Row(0, True, False, False, False),
}
ROWS = [pytest.param(Reason(name), row, id=name) for name, row in EXPECTED.items()]


def in_a_row(run: RunFolder) -> int:
    return count_failures_in_a_row(run.attempts(), run.checkpoint_iteration())


def test_every_reason_has_a_rule() -> None:
    assert set(RULES) == set(Reason) == {Reason(name) for name in EXPECTED}


@pytest.mark.parametrize(("reason", "row"), ROWS)
def test_the_run_has_failed_after_more_attempts_than_the_limit(
    run: RunFolder, reason: Reason, row: Row
) -> None:
    limit = 12 if row.limit is None else row.limit
    for number in range(1, limit + 2):
        add_attempt(run, DIED if reason is Reason.LOST else reason.value)
        may = row.limit is None or number <= row.limit
        assert state_of(run) == (State.INTERRUPTED if may else State.FAILED, reason)
    assert may_retry(reason, 10_000) == (row.limit is None)


@pytest.mark.parametrize(("reason", "row"), ROWS)
def test_attempts_with_progress_are_counted_only_if_the_run_itself_is_the_cause(
    run: RunFolder, reason: Reason, row: Row
) -> None:
    for iteration in range(12):
        add_attempt(run, reason.value, 10 * iteration)
    add_checkpoint(run, 120)
    assert in_a_row(run) == (12 if row.counts_after_progress else 0)
    expected = State.FAILED if row.counts_after_progress else State.INTERRUPTED
    assert state_of(run) == (expected, reason)


@pytest.mark.parametrize(("reason", "row"), ROWS)
def test_only_an_interrupted_run_is_restarted_without_the_user(reason: Reason, row: Row) -> None:
    assert is_automatic(State.INTERRUPTED, reason) == row.is_automatic
    for state in set(State) - {State.INTERRUPTED}:
        assert not is_automatic(state, reason)


@pytest.mark.parametrize(("reason", "row"), ROWS)
def test_an_ending_job_is_requeued_only_if_it_was_not_cancelled(reason: Reason, row: Row) -> None:
    assert retry.requeues_ending_job(reason) == row.requeues_ending_job


@pytest.mark.parametrize(("reason", "row"), ROWS)
def test_launch_settings_change_the_limits_that_a_profile_may_set(
    run: RunFolder, reason: Reason, row: Row
) -> None:
    add_attempt(run, reason.value)
    for limit, expected in ((0, State.FAILED), (1, State.INTERRUPTED), (None, State.INTERRUPTED)):
        run.launch.write_text(json.dumps({"retries": {reason.value: limit}}))
        assert state_of(run) == (expected if row.is_configurable else State.FAILED, reason)


@pytest.mark.parametrize(("reason", "row"), ROWS)
def test_a_cluster_profile_sets_only_configurable_limits(reason: Reason, row: Row) -> None:
    ClusterProfile(retries={reason.value: row.limit})
    if row.is_configurable:
        assert ClusterProfile(retries={reason.value: 3}).retries == {reason.value: 3}
    else:
        with pytest.raises(UsageError, match=f"retries.{reason.value}: "):
            ClusterProfile(retries={reason.value: 3})


@pytest.mark.parametrize("limit", ["many", 1.5, [], True])
def test_a_limit_that_is_no_whole_number_is_ignored(run: RunFolder, limit: Any) -> None:
    run.launch.write_text(json.dumps({"retries": {"lost": limit, "out_of_memory": limit}}))
    add_attempt(run, DIED)
    assert state_of(run) == (State.INTERRUPTED, Reason.LOST)
    add_attempt(run, "out_of_memory")
    assert state_of(run) == (State.FAILED, Reason.OUT_OF_MEMORY)


@pytest.mark.parametrize("launch", [None, [], {"retries": 3}, {"retries": {"unknown": 3}}])
def test_damaged_launch_settings_leave_the_limits(run: RunFolder, launch: Any) -> None:
    run.launch.write_text(json.dumps(launch))
    add_attempt(run, "code_error")
    assert state_of(run) == (State.FAILED, Reason.CODE_ERROR)
    add_attempt(run, DIED)
    assert state_of(run) == (State.INTERRUPTED, Reason.LOST)


@pytest.mark.parametrize(
    ("state", "reason", "due", "due_with_retry_failed"),
    [
        (State.NEW, None, True, True),
        (State.INTERRUPTED, Reason.CANCELLED, True, True),
        (State.INTERRUPTED, Reason.STORAGE, True, True),
        (State.INTERRUPTED, Reason.LOST, True, True),
        (State.FAILED, Reason.CODE_ERROR, False, True),
        (State.FAILED, Reason.LOST, False, True),
        (State.FAILED, None, False, False),
        (State.QUEUED, None, False, False),
        (State.RUNNING, None, False, False),
        (State.DONE, None, False, False),
    ],
)
def test_a_sweep_trains_new_interrupted_and_on_request_failed_runs(
    state: State, reason: Reason | None, due: bool, due_with_retry_failed: bool
) -> None:
    assert is_due(state, reason, retry_failed=False) == due
    assert is_due(state, reason, retry_failed=True) == due_with_retry_failed


def test_more_memory_allows_one_more_attempt_unless_the_profile_sets_a_limit() -> None:
    profile: dict[str, int | None] = {"lost": 2}
    assert retry.add_memory_retry(profile) == {"lost": 2, "out_of_memory": 1}
    assert retry.add_memory_retry({"out_of_memory": 0}) == {"out_of_memory": 0}
    assert profile == {"lost": 2}


def test_without_attempts_no_failure_is_counted(run: RunFolder) -> None:
    assert in_a_row(run) == 0


def test_progress_between_failures_restarts_the_count(run: RunFolder) -> None:
    for iteration in range(20):
        add_attempt(run, DIED, iteration)
    assert in_a_row(run) == 1
    assert state_of(run) == (State.INTERRUPTED, Reason.LOST)


def test_another_reason_restarts_the_count(run: RunFolder) -> None:
    for reason in ("timeout", "timeout", "preempted", "timeout", "timeout", "timeout"):
        add_attempt(run, reason)
    assert in_a_row(run) == 3


def test_progress_that_was_lost_does_not_restart_the_count(run: RunFolder) -> None:
    for iteration in (0, 50, 50, 0):
        add_attempt(run, DIED, iteration)
    assert in_a_row(run) == 3


def test_successes_without_a_record_count_as_lost_attempts(run: RunFolder) -> None:
    for number in range(1, 7):
        add_attempt(run, None if number % 2 else DIED)
        assert in_a_row(run) == number
    assert state_of(run) == (State.FAILED, Reason.LOST)


def test_a_timeout_is_retried_while_each_attempt_makes_progress(run: RunFolder) -> None:
    for iteration in (0, 40, 80):
        add_attempt(run, "timeout", iteration)
        add_checkpoint(run, iteration + 40)
        assert state_of(run) == (State.INTERRUPTED, Reason.TIMEOUT)
    add_attempt(run, "timeout", 120)
    assert state_of(run) == (State.FAILED, Reason.TIMEOUT)
    assert "raise the limit" in run.status().message
