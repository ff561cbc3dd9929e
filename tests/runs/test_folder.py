"""The state of a run, derived from its folder, in every state that workers leave it in."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from report.lab import make_record, make_spec

from protoseg.config.fields import to_plain
from protoseg.errors import ProtosegError
from protoseg.runs import claim
from protoseg.runs.attempts import Attempt
from protoseg.runs.folder import Launch, RunFolder, Status
from protoseg.runs.record import seal
from protoseg.runs.retry import RULES
from protoseg.runs.states import Reason, State
from runs.run_folders import DIED, SPEC, add_attempt, add_checkpoint, state_of


def test_a_run_without_a_folder_is_new(tmp_path: Path) -> None:
    status = RunFolder(tmp_path / "nothing").status()
    assert status == Status(State.NEW)
    assert (status.attempts, status.iteration, status.iterations) == (0, 0, 0)
    (tmp_path / "file").touch()
    assert RunFolder(tmp_path / "file" / "below").status() == Status(State.NEW)


def test_a_run_without_attempts_is_new(run: RunFolder) -> None:
    assert run.status() == Status(State.NEW)
    assert run.newest_log() is None
    (run.attempts_folder / "0001").mkdir(parents=True)
    assert run.status() == Status(State.NEW), "the worker was killed before it wrote start.json"


@pytest.mark.parametrize("reason", [r for r, rule in RULES.items() if rule.limit != 0])
def test_a_temporary_reason_interrupts_the_run(run: RunFolder, reason: Reason) -> None:
    add_attempt(run, reason.value)
    status = run.status()
    assert (status.state, status.reason) == (State.INTERRUPTED, reason)
    assert (status.message, status.attempts) == ("a message", 1)


@pytest.mark.parametrize("reason", [r for r, rule in RULES.items() if rule.limit == 0])
def test_a_permanent_reason_fails_the_run(run: RunFolder, reason: Reason) -> None:
    add_attempt(run, reason.value)
    assert state_of(run) == (State.FAILED, reason)


def test_the_next_attempt_resumes_from_the_newest_whole_checkpoint(run: RunFolder) -> None:
    assert run.checkpoint_iteration() == 0
    add_checkpoint(run, 40)
    add_checkpoint(run, 120)
    (run.checkpoints / "iter_00000160.json").write_text("{}")
    (run.checkpoints / "iter_00000200.pth").write_text("{}")
    assert run.checkpoint_iteration() == 120, "a file or a digest alone is no checkpoint"


def test_a_verdict_is_used_if_the_worker_recorded_no_end(run: RunFolder) -> None:
    add_attempt(run, DIED)
    assert run.record_verdict(1, Reason.NODE_FAILURE, "the node died", "sacct")
    assert not run.record_verdict(1, Reason.CANCELLED, "too late", "scontrol"), (
        "the first verdict is kept"
    )
    assert state_of(run) == (State.INTERRUPTED, Reason.NODE_FAILURE)
    assert run.status().message == "the node died"


def test_a_worker_that_died_without_an_end_is_lost(run: RunFolder) -> None:
    add_attempt(run, DIED)
    status = run.status()
    assert (status.state, status.reason) == (State.INTERRUPTED, Reason.LOST)
    assert status.message == "the worker died without recording a reason"


def test_a_success_without_a_record_is_lost(run: RunFolder) -> None:
    add_attempt(run, None)
    assert state_of(run) == (State.INTERRUPTED, Reason.LOST)


def test_an_unknown_reason_is_a_code_error(run: RunFolder) -> None:
    add_attempt(run, "meteorite")
    assert state_of(run) == (State.FAILED, Reason.CODE_ERROR)


def finish(run: RunFolder) -> dict[str, Any]:
    record = make_record(SPEC, 70.0, attempts=2)
    run.record.write_text(json.dumps(record))
    return record


def test_a_run_that_ends_while_its_state_is_read_is_done(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_attempt(run, None)

    def end_run(path: Path) -> None:
        finish(run)

    monkeypatch.setattr(claim, "live_holder", end_run)
    assert run.status().state is State.DONE


HISTORIES: list[list[str | None]] = [[], [DIED], ["code_error"], ["preempted", None]]


@pytest.mark.parametrize(
    ("history", "held", "done"), [*itertools.product(HISTORIES, (False, True), (False, True))]
)
def test_a_record_overrides_a_claim_and_a_claim_overrides_attempts(
    run: RunFolder, history: list[str | None], held: bool, done: bool
) -> None:
    for end in history:
        add_attempt(run, end)
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
def test_a_damaged_record_fails_the_run_and_is_kept(run: RunFolder, content: str) -> None:
    run.record.write_text(content)
    status = run.status()
    assert (status.state, status.reason) == (State.FAILED, None)
    assert str(run.record) in status.message


def test_a_record_of_another_run_is_rejected(run: RunFolder) -> None:
    other = make_record(make_spec(seed=1), 70.0)
    run.record.write_text(json.dumps(other))
    status = run.status()
    assert (status.state, status.record) == (State.FAILED, None)
    assert status.message == (
        f"{run.record}: is the record of {other['run_id']}, not of {run.run_id}. "
        "Give the file the name of its run, or delete it."
    )


def test_a_record_with_another_spec_is_rejected(run: RunFolder) -> None:
    record = seal({**make_record(SPEC, 70.0), "spec": {"seed": 3}})
    run.record.write_text(json.dumps(record))
    status = run.status()
    assert (status.state, status.reason, status.record) == (State.FAILED, None, None)
    assert f"holds another spec than run {run.run_id}" in status.message


def test_an_unreadable_record_fails_the_run(run: RunFolder) -> None:
    run.record.mkdir()
    status = run.status()
    assert status.state is State.FAILED
    assert status.message == f"{run.record}: cannot be read: Is a directory."


def test_the_status_contains_the_progress(run: RunFolder) -> None:
    add_attempt(run, "preempted")
    run.progress.write_text('{"iteration": 40, "iterations": 100, "iterations_per_second": 2.5}')
    status = run.status()
    assert (status.iteration, status.iterations, status.iterations_per_second) == (40, 100, 2.5)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "7", '{"iteration": null}', '{"iterations_per_second": "fast"}']
)
def test_damaged_progress_is_ignored(run: RunFolder, content: str) -> None:
    add_attempt(run, "preempted")
    run.progress.write_text(content)
    status = run.status()
    assert status.state is State.INTERRUPTED
    assert (status.iteration, status.iterations, status.iterations_per_second) == (0, 0, None)


def test_attempts_are_numbered_and_never_changed_later(run: RunFolder) -> None:
    first = add_attempt(run, "preempted", 0)
    before = {path: path.read_bytes() for path in first.iterdir()}
    second = add_attempt(run, DIED, 10)
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
    assert [add_attempt(run, "preempted").name for _ in range(2)] == ["10000", "10001"]
    assert [a.number for a in run.attempts()] == [10000, 10001]
    (run.attempts_folder / "9999" / "start.json").write_text("{}")
    assert [a.number for a in run.attempts()] == [9999, 10000, 10001]


def test_an_attempt_with_a_torn_start_is_ignored_and_its_number_not_reused(run: RunFolder) -> None:
    torn = add_attempt(run, DIED)
    (torn / "start.json").write_text("{")
    assert run.attempts() == []
    assert add_attempt(run, "preempted").name == "0002"


def test_an_attempt_with_a_torn_end_is_lost(run: RunFolder) -> None:
    (add_attempt(run, "code_error") / "end.json").write_text('{"reason": "code')
    assert state_of(run) == (State.INTERRUPTED, Reason.LOST)


@pytest.mark.parametrize(
    ("end", "verdict", "reason"),
    [
        (None, None, "lost"),
        ({"reason": "storage"}, None, "storage"),
        ({"reason": "storage"}, {"reason": "node_failure"}, "node_failure"),
        ({"reason": "storage"}, {"reason": "lost"}, "storage"),
        ({"reason": None}, {"reason": "lost"}, None),
        ({"reason": None}, None, None),
        (None, {"reason": "lost"}, "lost"),
        ({}, {"reason": "lost"}, "lost"),
        (None, {"reason": "cancelled"}, "cancelled"),
    ],
)
def test_a_verdict_overrides_the_end_unless_it_is_only_lost(
    end: dict[str, Any] | None, verdict: dict[str, Any] | None, reason: str | None
) -> None:
    assert Attempt(1, {}, end, verdict).reason == reason


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ({}, (0, 0, "")),
        ({"iteration": 7, "restarts": 3, "job": "12_4"}, (7, 3, "12_4")),
        ({"iteration": None, "restarts": "many", "job": None}, (0, 0, "")),
    ],
)
def test_an_attempt_that_lacks_a_value_began_at_iteration_0(
    start: dict[str, Any], expected: tuple[int, int, str]
) -> None:
    attempt = Attempt(1, start, None)
    assert (attempt.began_at, attempt.restarts, attempt.job) == expected


def test_two_attempts_that_start_together_have_two_folders(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without locks two workers may list the attempts before either starts."""
    first = add_attempt(run, "preempted", 5)
    monkeypatch.setattr("protoseg.runs.folder.os.listdir", lambda folder: [])
    second = run.start_attempt({"iteration": 9})
    monkeypatch.undo()
    assert (first.name, second.name) == ("0001", "0002")
    assert [attempt.began_at for attempt in run.attempts()] == [5, 9]


def test_the_defaults_of_the_launch_settings() -> None:
    launch = Launch("data", "weights")
    assert (launch.threads, launch.workers, launch.checkpoint_seconds) == (0, 0, 60.0)
    assert launch.retries == {}


def test_the_status_names_host_and_job_of_the_last_attempt(run: RunFolder) -> None:
    run.start_attempt({"iteration": 0, "node": "node1", "host": "login", "job": "7"})
    assert (run.status().host, run.status().job) == ("node1", "7")
    run.start_attempt({"iteration": 0, "host": "login", "job": "8"})
    status = run.status()
    assert (status.host, status.job, status.attempts) == ("login", "8", 2)


def test_the_phase_is_that_of_the_last_attempt(run: RunFolder) -> None:
    first = add_attempt(run, DIED)
    run.progress.write_text("{}")
    os.utime(first / "start.json", (10, 10))
    os.utime(run.progress, (20, 20))
    assert run.phase(attempts_before=0) is None
    assert run.has_progress(attempts_before=0)
    second = add_attempt(run, DIED)
    os.utime(second / "start.json", (30, 30))
    assert run.phase(attempts_before=1) == "starting"
    (second / "log.txt").write_text("12:00  building\n12:01  first batch\n12:02  other\n")
    assert run.phase(attempts_before=1) == "first batch"
    assert run.phase(attempts_before=2) == "starting"
    assert not run.has_progress(attempts_before=1)
    os.utime(run.progress, (30, 30))
    assert run.phase(attempts_before=1) is None
    assert run.has_progress(attempts_before=1)
    assert not run.has_progress(attempts_before=2)


def test_create_writes_the_spec_once(run: RunFolder) -> None:
    assert run.read_spec() == to_plain(SPEC)
    before = run.spec.stat().st_mtime_ns
    run.create(to_plain(SPEC), {"threads": 2})
    assert run.spec.stat().st_mtime_ns == before
    assert json.loads(run.launch.read_text()) == {"threads": 2}, "the newest launch settings"


@pytest.mark.parametrize("content", ["{", "[]", '{"spec": {"seed": 5}}'])
def test_a_folder_with_another_spec_is_rejected(run: RunFolder, content: str) -> None:
    run.spec.write_text(content)
    with pytest.raises(ProtosegError, match=r"holds another spec than run .*, or is torn"):
        run.create(to_plain(SPEC), {})
    assert run.spec.read_text() == content


def test_old_half_written_files_are_removed_and_new_ones_kept(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    old, fresh = tmp_path / ".spec.json.1-ab.tmp", tmp_path / ".spec.json.2-cd.tmp"
    stale = tmp_path / ".claim.json.0badcafe.stale"
    for path in (old, fresh, stale):
        path.write_text("{")
    os.utime(old, (0, 0))
    os.utime(stale, (0, 0))
    folder.clear_remains()
    assert list(tmp_path.iterdir()) == [fresh]
