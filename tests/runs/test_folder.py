"""What a run folder says of its run, in every state it can be left in."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from report.lab import make_record, make_spec

from protoseg.config.fields import plain
from protoseg.config.identity import run_id
from protoseg.errors import ProtosegError
from protoseg.runs import claim
from protoseg.runs.attempts import failures_in_a_row
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.states import MAX_RETRIES, PASSING, Reason, State, may_retry

SPEC = make_spec()
RETRIED = [reason for reason, limit in MAX_RETRIES.items() if limit != 0]
FINAL = [reason for reason, limit in MAX_RETRIES.items() if limit == 0]
LIMITED = [reason for reason, limit in MAX_RETRIES.items() if limit]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / run_id(SPEC))
    folder.create(plain(SPEC), {"threads": 1})
    return folder


def attempt(
    run: RunFolder, end: str | None, iteration: int = 0, message: str = "so it was"
) -> Path:
    """One try: how it ended (``"vanished"`` without a word, None with success), where it began."""
    folder = run.start_attempt({"iteration": iteration})
    if end != "vanished":
        ending = {"reason": end, "message": message}
        (folder / "end.json").write_text(json.dumps(ending))
    return folder


def state(run: RunFolder) -> tuple[State, Reason | None]:
    status = run.status()
    return status.state, status.reason


def in_a_row(run: RunFolder) -> int:
    return failures_in_a_row(run.attempts(), run.checkpoint_iteration())


def checkpoint(run: RunFolder, iteration: int) -> None:
    run.checkpoints.mkdir(exist_ok=True)
    (run.checkpoints / f"iter_{iteration:08d}.pth").touch()
    (run.checkpoints / f"iter_{iteration:08d}.json").write_text("{}")


def test_every_reason_has_a_rule() -> None:
    assert set(MAX_RETRIES) == set(Reason)
    assert Reason.PREEMPTED in RETRIED
    assert Reason.LOST in LIMITED
    stopping = {Reason.OUT_OF_MEMORY, Reason.BAD_DATA, Reason.BAD_CONFIG, Reason.CODE_ERROR}
    assert set(FINAL) == {*stopping, Reason.TIMEOUT}
    assert not stopping & PASSING


@pytest.mark.parametrize("reason", Reason)
def test_the_limit_counts_retries(reason: Reason) -> None:
    limit = MAX_RETRIES[reason]
    if limit is None:
        assert may_retry(reason, 10_000)
    else:
        assert [may_retry(reason, n) for n in (limit, limit + 1)] == [True, False]


def test_a_folder_that_is_not_there_is_a_new_run(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "nothing").status() == Status(State.NEW)
    (tmp_path / "file").touch()
    assert RunFolder(tmp_path / "file" / "below").status() == Status(State.NEW)


def test_a_folder_that_nobody_worked_in_is_a_new_run(run: RunFolder) -> None:
    assert run.status() == Status(State.NEW)
    assert run.newest_log() is None
    (run.attempts_folder / "0001").mkdir(parents=True)
    assert run.status() == Status(State.NEW), "killed before it said that it starts"


@pytest.mark.parametrize("reason", RETRIED)
def test_what_can_pass_interrupts(run: RunFolder, reason: Reason) -> None:
    attempt(run, reason.value)
    status = run.status()
    assert (status.state, status.reason) == (State.INTERRUPTED, reason)
    assert (status.message, status.attempts) == ("so it was", 1)


@pytest.mark.parametrize("reason", FINAL)
def test_what_does_not_pass_fails(run: RunFolder, reason: Reason) -> None:
    attempt(run, reason.value)
    assert state(run) == (State.FAILED, reason)


@pytest.mark.parametrize("reason", LIMITED)
def test_the_same_failure_again_and_again_ends_the_retries(run: RunFolder, reason: Reason) -> None:
    limit = MAX_RETRIES[reason]
    assert limit
    for number in range(1, limit + 2):
        attempt(run, "vanished" if reason is Reason.LOST else reason.value)
        expected = State.INTERRUPTED if number <= limit else State.FAILED
        assert state(run) == (expected, reason), f"after {number} attempts"


def test_progress_between_failures_starts_the_count_anew(run: RunFolder) -> None:
    for iteration in range(20):
        attempt(run, "vanished", iteration)
    assert in_a_row(run) == 1
    assert state(run) == (State.INTERRUPTED, Reason.LOST)


def test_the_next_attempt_goes_on_from_the_newest_whole_checkpoint(run: RunFolder) -> None:
    assert run.checkpoint_iteration() == 0
    checkpoint(run, 40)
    checkpoint(run, 120)
    (run.checkpoints / "iter_00000160.json").write_text("{}")
    (run.checkpoints / "iter_00000200.pth").write_text("{}")
    assert run.checkpoint_iteration() == 120, "those without a file, or without a note, are no more"


def test_another_reason_starts_the_count_anew(run: RunFolder) -> None:
    for reason in ("timeout", "timeout", "preempted", "timeout", "timeout", "timeout"):
        attempt(run, reason)
    assert in_a_row(run) == 3


def test_progress_lost_again_does_not_start_the_count_anew(run: RunFolder) -> None:
    for iteration in (0, 50, 50, 0):
        attempt(run, "vanished", iteration)
    assert in_a_row(run) == 3


def test_a_timeout_goes_on_as_long_as_it_gets_further(run: RunFolder) -> None:
    for iteration in (0, 40, 80):
        attempt(run, "timeout", iteration)
        checkpoint(run, iteration + 40)
        assert state(run) == (State.INTERRUPTED, Reason.TIMEOUT)
    attempt(run, "timeout", 120)
    assert state(run) == (State.FAILED, Reason.TIMEOUT)
    assert "raise it" in run.status().message


@pytest.mark.parametrize("reason", [r for r in FINAL if r not in PASSING])
def test_progress_excuses_no_failure_of_the_run_itself(run: RunFolder, reason: Reason) -> None:
    attempt(run, reason.value, 0)
    checkpoint(run, 40)
    assert state(run) == (State.FAILED, reason)


def test_a_launch_may_set_other_limits(run: RunFolder) -> None:
    run.launch.write_text(json.dumps({"retries": {"out_of_memory": 1, "lost": 0}}))
    attempt(run, "out_of_memory")
    assert state(run) == (State.INTERRUPTED, Reason.OUT_OF_MEMORY)
    attempt(run, "out_of_memory")
    assert state(run) == (State.FAILED, Reason.OUT_OF_MEMORY)
    attempt(run, "vanished")
    assert state(run) == (State.FAILED, Reason.LOST)


def test_the_word_of_others_stands_above_a_vanished_workers_silence(run: RunFolder) -> None:
    attempt(run, "vanished")
    assert run.record_verdict(1, Reason.NODE_FAILURE, "the node died", "sacct")
    assert not run.record_verdict(1, Reason.CANCELLED, "too late", "scontrol"), (
        "the first word counts"
    )
    assert state(run) == (State.INTERRUPTED, Reason.NODE_FAILURE)
    assert run.status().message == "the node died"


def test_no_attempts_no_retries(run: RunFolder) -> None:
    assert in_a_row(run) == 0


def test_a_vanished_worker_is_lost(run: RunFolder) -> None:
    attempt(run, "vanished")
    status = run.status()
    assert (status.state, status.reason) == (State.INTERRUPTED, Reason.LOST)
    assert status.message == "the worker vanished without a word"


def test_success_without_a_record_is_lost(run: RunFolder) -> None:
    attempt(run, None)
    assert state(run) == (State.INTERRUPTED, Reason.LOST)


def test_a_reason_of_the_future_is_an_error_of_the_code(run: RunFolder) -> None:
    attempt(run, "meteorite")
    assert state(run) == (State.FAILED, Reason.CODE_ERROR)


def finish(run: RunFolder) -> dict[str, Any]:
    record = make_record(SPEC, 70.0, attempts=2)
    run.record.write_text(json.dumps(record))
    return record


def test_a_run_that_ends_while_one_looks_is_done(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(run, None)

    def ends(path: Path) -> None:
        finish(run)

    monkeypatch.setattr(claim, "live_holder", ends)
    assert run.status().state is State.DONE


HISTORIES: list[list[str | None]] = [[], ["vanished"], ["code_error"], ["preempted", None]]


@pytest.mark.parametrize(
    ("history", "held", "done"), [*itertools.product(HISTORIES, (False, True), (False, True))]
)
def test_a_record_counts_more_than_a_claim_and_a_claim_more_than_attempts(
    run: RunFolder, history: list[str | None], held: bool, done: bool
) -> None:
    for end in history:
        attempt(run, end)
    holder = claim.acquire(run.claim) if held else None
    record = finish(run) if done else None
    status = run.status()
    if holder:
        holder.release()
    if done:
        assert (status.state, status.record, status.attempts) == (State.DONE, record, 2)
    elif held:
        assert (status.state, status.attempts) == (State.RUNNING, len(history))
        assert status.host == claim.host_identity().partition("/")[0]
    else:
        expected = {(): State.NEW, ("code_error",): State.FAILED}
        assert status.state is expected.get(tuple(history), State.INTERRUPTED)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_fails_and_is_not_trained_over(run: RunFolder, content: str) -> None:
    run.record.write_text(content)
    status = run.status()
    assert (status.state, status.reason) == (State.FAILED, None)
    assert str(run.record) in status.message


def test_the_record_of_another_run_is_refused(run: RunFolder) -> None:
    other = make_record(make_spec(seed=1), 70.0)
    run.record.write_text(json.dumps(other))
    status = run.status()
    assert (status.state, status.record) == (State.FAILED, None)
    assert status.message == f"{run.record}: is the record of {other['run_id']}."


def test_a_record_that_can_not_be_read_is_one_sentence(run: RunFolder) -> None:
    run.record.mkdir()
    status = run.status()
    assert status.state is State.FAILED
    assert status.message == f"{run.record}: can not be read: Is a directory."


def test_progress_is_told(run: RunFolder) -> None:
    attempt(run, "preempted")
    run.progress.write_text('{"iteration": 40, "iterations": 100, "iterations_per_second": 2.5}')
    status = run.status()
    assert (status.iteration, status.iterations, status.iterations_per_second) == (40, 100, 2.5)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "7", '{"iteration": null}', '{"iterations_per_second": "fast"}']
)
def test_odd_progress_counts_as_none(run: RunFolder, content: str) -> None:
    attempt(run, "preempted")
    run.progress.write_text(content)
    status = run.status()
    assert status.state is State.INTERRUPTED
    assert (status.iteration, status.iterations, status.iterations_per_second) == (0, 0, None)


def test_attempts_are_numbered_and_never_touched_again(run: RunFolder) -> None:
    first = attempt(run, "preempted", 0)
    before = {path: path.read_bytes() for path in first.iterdir()}
    second = attempt(run, "vanished", 10)
    assert (first.name, second.name) == ("0001", "0002")
    assert {path: path.read_bytes() for path in first.iterdir()} == before
    assert [(a.number, a.start["iteration"], a.reason) for a in run.attempts()] == [
        (1, 0, Reason.PREEMPTED),
        (2, 10, Reason.LOST),
    ]
    assert run.newest_log() == second / "log.txt"


def test_attempts_keep_their_order_beyond_four_digits(run: RunFolder) -> None:
    for number in ("9990", "9999"):
        (run.attempts_folder / number).mkdir(parents=True)
    assert [attempt(run, "preempted").name for _ in range(2)] == ["10000", "10001"]
    assert [a.number for a in run.attempts()] == [10000, 10001]
    (run.attempts_folder / "9999" / "start.json").write_text("{}")
    assert [a.number for a in run.attempts()] == [9999, 10000, 10001]


def test_a_torn_start_does_not_count_and_its_number_is_not_used_again(run: RunFolder) -> None:
    torn = attempt(run, "vanished")
    (torn / "start.json").write_text("{")
    assert run.attempts() == []
    assert attempt(run, "preempted").name == "0002"


def test_a_torn_end_is_a_lost_worker(run: RunFolder) -> None:
    (attempt(run, "code_error") / "end.json").write_text('{"reason": "code')
    assert state(run) == (State.INTERRUPTED, Reason.LOST)


def test_create_writes_the_spec_once(run: RunFolder) -> None:
    assert run.read_spec() == plain(SPEC)
    before = run.spec.stat().st_mtime_ns
    run.create(plain(SPEC), {"threads": 2})
    assert run.spec.stat().st_mtime_ns == before
    assert json.loads(run.launch.read_text()) == {"threads": 2}, "the newest launch counts"


@pytest.mark.parametrize("content", ["{", "[]", '{"spec": {"seed": 5}}'])
def test_a_foreign_spec_is_refused(run: RunFolder, content: str) -> None:
    run.spec.write_text(content)
    with pytest.raises(ProtosegError, match=r"holds another spec than run .*, or is torn"):
        run.create(plain(SPEC), {})
    assert run.spec.read_text() == content


def test_half_written_files_of_killed_writers_are_cleared_away_and_fresh_ones_kept(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    old, fresh = tmp_path / ".spec.json.1-ab.tmp", tmp_path / ".spec.json.2-cd.tmp"
    for path in (old, fresh):
        path.write_text("{")
    os.utime(old, (0, 0))
    folder.clear_remains()
    assert not old.exists()
    assert fresh.exists()
