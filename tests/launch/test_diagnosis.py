"""Tests that each attempt of a job gets exactly one ending, with given answers of SLURM."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest
from report.lab import make_record, make_spec

from launch.test_queue import RUN, FixedClient, read_status, write_submission
from protoseg import files
from protoseg.config.fields import to_plain
from protoseg.config.identity import run_id
from protoseg.launch.diagnosis import record_job_end
from protoseg.launch.queue import Queue
from protoseg.launch.submission import write_intent
from protoseg.runs import claim
from protoseg.runs.end_reasons import SILENT_SECONDS
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import NOT_WRITTEN, Reason, State
from protoseg.slurm.client import Job

DONE = make_spec()
BEGAN = "2026-01-01T10:{:02}:00+00:00"
KEY = "5_0"


def begin_attempt(run: RunFolder, minute: int, restarts: int = 0, **start: Any) -> Path:
    """Begin an attempt at a minute after 10:00."""
    files.make_folder(run.path)
    content = {"time": BEGAN.format(minute), "job": KEY, "restarts": restarts, "iteration": 0}
    return run.start_attempt({**content, **start})


def end_attempt(attempt: Path, reason: str | None, minute: int) -> None:
    content = {"time": BEGAN.format(minute), "reason": reason, "message": "so"}
    files.create_json(attempt / "end.json", content)


def sacct_job(state: str, start: int, end: int, restarts: int, code: str = "") -> Job:
    """A row of accounting, for a start from one minute to another."""
    return Job(
        KEY, state, submitted=BEGAN.format(start), start=BEGAN.format(start),
        end=BEGAN.format(end), restarts=restarts, exit_code=code, source="sacct",
    )  # fmt: skip


def reasons(run: RunFolder) -> list[Reason | None]:
    assert all(attempt.ending is not None for attempt in run.attempts())
    return [attempt.reason for attempt in run.attempts()]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / RUN)


def test_all_attempts_of_a_requeued_job_get_an_ending(run: RunFolder) -> None:
    for number in range(3):
        begin_attempt(run, 10 * number, restarts=number)
    starts = [
        sacct_job("NODE_FAIL", 0, 9, 0),
        sacct_job("PREEMPTED", 10, 19, 1),
        sacct_job("TIMEOUT", 20, 29, 2),
    ]
    end_attempt(run.attempts_folder / "0003", "timeout", 28)
    assert record_job_end(run, KEY, starts[-1], past=lambda key: starts)
    assert reasons(run) == [Reason.NODE_FAILURE, Reason.PREEMPTED, Reason.TIMEOUT]


def test_without_accounting_earlier_attempts_are_lost(run: RunFolder) -> None:
    begin_attempt(run, 0)
    begin_attempt(run, 10, restarts=1)
    record_job_end(run, KEY, Job(KEY, "TIMEOUT", restarts=1))
    assert reasons(run) == [Reason.LOST, Reason.TIMEOUT]
    assert "SLURM requeued its job" in run.attempts()[0].message


def test_the_times_decide_in_which_start_an_attempt_ran(run: RunFolder) -> None:
    """The first launch failed and has no row: the attempt's restarts are not the row's number."""
    begin_attempt(run, 10, restarts=1)
    starts = [
        sacct_job("NODE_FAIL", 10, 19, 0),
        sacct_job("FAILED", 20, 21, 1, f"{NOT_WRITTEN}:0"),
    ]
    record_job_end(run, KEY, starts[-1], past=lambda key: starts)
    assert reasons(run) == [Reason.NODE_FAILURE, Reason.STORAGE]


def test_a_row_of_a_later_start_is_no_evidence(run: RunFolder) -> None:
    begin_attempt(run, 0)
    (row,) = starts = [sacct_job("TIMEOUT", 10, 19, 0)]
    record_job_end(run, KEY, row, past=lambda key: starts)
    assert reasons(run) == [Reason.LOST, Reason.TIMEOUT]


@pytest.mark.parametrize("is_silent", [False, True])
def test_the_time_limit_is_not_the_reason_of_a_worker_that_died_before(
    run: RunFolder, is_silent: bool
) -> None:
    attempt = begin_attempt(run, 0, pid=1)
    (attempt / "log.txt").touch()
    holder = {"host": "gpu1", "pid": 1, "process_started": "1", "nonce": "x", "job": KEY}
    files.create_json(run.claim, holder)
    end = sacct_job("TIMEOUT", 0, 30, 0)
    ended = datetime.datetime.fromisoformat(end.end).timestamp()
    last_sign = ended - SILENT_SECONDS + (-1 if is_silent else 1)
    for path in (run.claim, attempt / "log.txt"):
        os.utime(path, (last_sign, last_sign))
    record_job_end(run, KEY, end, past=lambda key: [end])
    assert reasons(run) == [Reason.LOST if is_silent else Reason.TIMEOUT]
    assert ("31 s before" in run.attempts()[0].message) == is_silent


def test_a_live_worker_keeps_its_attempt_open(tmp_path: Path, run: RunFolder) -> None:
    submission = write_submission(tmp_path)
    begin_attempt(run, 0)
    status = run.status()
    held = claim.acquire(run.claim, job=KEY)
    assert held is not None
    try:
        assert not record_job_end(run, KEY, Job(KEY, "TIMEOUT"))
        Queue(tmp_path, FixedClient(Job(KEY, "TIMEOUT"))).apply({RUN: status})
        assert submission.closed_tasks() == {}
    finally:
        held.release()
    assert read_status(tmp_path, FixedClient(Job(KEY, "TIMEOUT"))).reason is Reason.TIMEOUT
    assert submission.closed_tasks().keys() == {0}


def test_attempts_of_a_run_with_a_record_get_their_endings(tmp_path: Path) -> None:
    """The second worker was killed between its record and its end."""
    run = RunFolder(tmp_path / run_id(DONE))
    run.create(to_plain(DONE), {})
    submission = write_intent(tmp_path, "m", [(run.run_id, {})], launch={})
    submission.note_job("5")
    begin_attempt(run, 0)
    begin_attempt(run, 10, restarts=1)
    files.create_json(run.record, make_record(DONE, 50.0, attempts=2))
    running = FixedClient(Job(KEY, "RUNNING", restarts=1))
    Queue(tmp_path, running).apply({run.run_id: run.status()})
    assert submission.closed_tasks() == {}, "its worker may still write its end"
    client = FixedClient(Job(KEY, "COMPLETED", restarts=1))
    client.list_starts = lambda id: [sacct_job("NODE_FAIL", 0, 9, 0)]  # type: ignore[method-assign]
    status = Queue(tmp_path, client).apply({run.run_id: run.status()})[run.run_id]
    assert status.state is State.DONE
    assert reasons(run) == [Reason.NODE_FAILURE, None]
    assert submission.closed_tasks().keys() == {0}


@pytest.mark.parametrize("state", ["NODE_FAIL", "RUNNING"])
def test_a_requeued_job_that_waits_shows_the_end_of_its_attempt(
    tmp_path: Path, run: RunFolder, state: str
) -> None:
    write_submission(tmp_path)
    begin_attempt(run, 0)
    client = FixedClient(Job(KEY, "PENDING", why="launch failed requeued held", restarts=1))
    client.list_starts = lambda id: [sacct_job(state, 0, 9, 0)]  # type: ignore[method-assign]
    assert read_status(tmp_path, client).state is State.QUEUED
    (attempt,) = run.attempts()
    if state == "NODE_FAIL":
        assert reasons(run) == [Reason.NODE_FAILURE]
    else:
        assert attempt.ending is None, "its batch script may still record a reason"
