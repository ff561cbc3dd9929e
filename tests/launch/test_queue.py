"""What the scheduler adds to run folders; its answers are given here, tests/slurm has real ones."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from slurm.commands import Commands, squeue_lines

from protoseg import files
from protoseg.launch.diagnosis import record_job_end
from protoseg.launch.queue import Queue
from protoseg.launch.submission import UNSURE_SECONDS, Submission, write_intent
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.states import NOT_WRITTEN, Reason, State
from protoseg.slurm.client import Job, JobReport, SlurmClient

RUN = "shapes-tiny-s0-0123456789"


class Saying(SlurmClient):
    """A scheduler that gives one answer, and remembers what it was asked."""

    def __init__(self, *jobs: Job, reachable: bool = True) -> None:
        super().__init__()
        self.answer = JobReport({job.id: job for job in jobs}, reachable=reachable)
        self.asked: list[str] = []

    def ask(self, ids: Collection[str], fresh: bool = False) -> JobReport:
        self.asked += ids
        return self.answer


def submitted(folder: Path, age: float = 2 * UNSURE_SECONDS) -> Submission:
    written = write_intent(folder, "m", [(RUN, {})], launch={})
    files.write_json(
        written.folder / "intent.json",
        {**written.intent, "clock": written.intent["clock"] - age},
    )
    written.note_job("5")
    return written


def attempt(folder: RunFolder, job: str, end: dict[str, Any] | None = None) -> None:
    files.make_folder(folder.path)
    path = folder.start_attempt({"time": "2026-01-01T10:00:00+00:00", "job": job, "iteration": 0})
    if end is not None:
        files.create_json(path / "end.json", end)


def look(folder: Path, scheduler: SlurmClient) -> Status:
    run = RunFolder(folder / RUN)
    return Queue(folder, scheduler).apply({RUN: run.status()})[RUN]


@pytest.mark.parametrize("state", ["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD"])
def test_a_waiting_job_is_queued(tmp_path: Path, state: str) -> None:
    submitted(tmp_path)
    status = look(tmp_path, Saying(Job("5_0", state, why="Priority")))
    assert (status.state, status.job) == (State.QUEUED, "5_0")
    assert "Priority" in status.message


def test_a_job_that_starts_is_not_submitted_again(tmp_path: Path) -> None:
    submitted(tmp_path)
    status = look(tmp_path, Saying(Job("5_0", "RUNNING", node="gpu1")))
    assert (status.state, status.host) == (State.QUEUED, "gpu1")


def test_a_silent_scheduler_is_no_reason_to_submit_again(tmp_path: Path) -> None:
    submitted(tmp_path)
    status = look(tmp_path, Saying(reachable=False))
    assert status.state is State.QUEUED
    assert "does not answer" in status.message


def test_a_job_just_submitted_may_not_be_shown_yet(tmp_path: Path) -> None:
    submitted(tmp_path, age=0)
    assert look(tmp_path, Saying()).state is State.QUEUED


def test_an_intent_without_an_answer_waits_for_the_next_sweep(tmp_path: Path) -> None:
    write_intent(tmp_path, "m", [(RUN, {})], launch={})
    scheduler = Saying()
    assert look(tmp_path, scheduler).state is State.QUEUED
    assert scheduler.asked == []


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (Job("5_0", "CANCELLED", by="1000"), Reason.CANCELLED),
        (Job("5_0", "NODE_FAIL", node="gpu1"), Reason.NODE_FAILURE),
        (Job("5_0", "TIMEOUT"), Reason.TIMEOUT),
        (Job("5_0", "OUT_OF_MEMORY"), Reason.OUT_OF_MEMORY),
        (Job("5_0", "FAILED", exit_code="127:0"), Reason.LOST),
        (None, Reason.LOST),
    ],
)
def test_a_job_that_ended_before_a_worker_began_counts_as_an_attempt(
    tmp_path: Path, job: Job | None, reason: Reason
) -> None:
    written = submitted(tmp_path)
    scheduler = Saying(*([job] if job else []))
    status = look(tmp_path, scheduler)
    assert (status.reason, status.attempts) == (reason, 1)
    assert written.closed_tasks().keys() == {0}
    assert look(tmp_path, scheduler).attempts == 1, "counted once"
    assert scheduler.asked == ["5_0"], "and not asked about again"


def test_what_the_batch_script_said_last_is_the_message(tmp_path: Path) -> None:
    written = submitted(tmp_path)
    written.log("5_0").write_text("hello\nmodule: command not found\n\n")
    status = look(tmp_path, Saying(Job("5_0", "FAILED")))
    assert status.message == "module: command not found"


def test_a_vanished_worker_gets_the_schedulers_verdict(tmp_path: Path) -> None:
    submitted(tmp_path)
    attempt(RunFolder(tmp_path / RUN), "5_0")
    status = look(tmp_path, Saying(Job("5_0", "NODE_FAIL", node="gpu1", source="sacct")))
    assert (status.state, status.reason) == (State.INTERRUPTED, Reason.NODE_FAILURE)
    assert "gpu1" in status.message
    assert RunFolder(tmp_path / RUN).attempts()[0].verdict is not None


def test_lost_is_no_news_beside_the_workers_own_words(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    attempt(run, "5_0")
    record_job_end(run, "5_0", None)
    assert run.status().reason is Reason.LOST
    end = {"time": "2026-01-01T10:10:00+00:00", "reason": "code_error", "message": "so"}
    files.create_json(run.attempts_folder / "0001" / "end.json", end)  # seen late, over NFS
    assert run.status().reason is Reason.CODE_ERROR


def test_another_job_of_the_same_number_is_not_taken_for_ours(tmp_path: Path) -> None:
    written = submitted(tmp_path)
    status = look(tmp_path, Saying(Job("5_0", "RUNNING", name="precious.0123456789ab")))
    assert (status.state, status.reason) == (State.INTERRUPTED, Reason.LOST)
    assert written.closed_tasks().keys() == {0}


def test_a_job_of_another_cluster_is_not_judged_from_here(tmp_path: Path) -> None:
    written = submitted(tmp_path)
    intent = {**written.intent, "cluster": "elsewhere"}
    files.write_json(written.folder / "intent.json", intent)
    status = look(tmp_path, Saying())
    assert status.state is State.QUEUED
    assert "elsewhere" in status.message
    attempt(RunFolder(tmp_path / RUN), "5_0", {"reason": "preempted", "message": "saved"})
    assert look(tmp_path, Saying()).job == "", "the number of another cluster's job"


def test_clusters_that_share_a_folder_do_not_share_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them does not know the job that waits on the other."""
    written = submitted(tmp_path)
    old = written.intent["clock"] - 2 * UNSURE_SECONDS
    intent = {**written.intent, "cluster": "b", "clock": old}
    files.write_json(written.folder / "intent.json", intent)
    for name, jobs in (("a", []), ("b", [("5_0", "PENDING")])):
        commands = Commands(tmp_path / name, monkeypatch)
        lines = squeue_lines(*jobs).replace("matrix.x", written.name)
        commands.prints("squeue", lines)
        commands.prints("scontrol", f"ClusterName = {name}\n")
        commands.prints("sacct", errors="slurmdbd is down", status=1)
        run = RunFolder(tmp_path / RUN)
        status = Queue(tmp_path).apply({RUN: run.status()})[RUN]
        assert status.state is State.QUEUED
    assert status.job == "5_0"
    assert not written.closed_tasks()
    beside = {path.name for path in written.folder.parent.glob("*-*")}
    assert beside == {written.folder.name}, "what is no submission is not named like one"


@pytest.mark.parametrize(("restarts", "state"), [(0, State.INTERRUPTED), (1, State.QUEUED)])
def test_a_job_that_ends_goes_on_only_where_slurm_starts_it_again(
    tmp_path: Path, restarts: int, state: State
) -> None:
    submitted(tmp_path)
    ending = {"time": "2026-01-01T10:10:00+00:00", "reason": "storage", "message": "full"}
    attempt(RunFolder(tmp_path / RUN), "5_0", ending)
    status = look(tmp_path, Saying(Job("5_0", "COMPLETING", restarts=restarts)))
    assert status.state is state


def test_without_accounting_a_vanished_worker_is_lost_and_not_waited_for(tmp_path: Path) -> None:
    submitted(tmp_path)
    attempt(RunFolder(tmp_path / RUN), "5_0")
    status = look(tmp_path, Saying())
    assert (status.state, status.reason) == (State.INTERRUPTED, Reason.LOST)


@pytest.mark.parametrize(
    ("start", "expected"),
    [("2026-01-01T09:59:00+00:00", Reason.CANCELLED), ("2026-01-01T10:30:00+00:00", None)],
    ids=["the job that the worker was in", "the job requeued since, cancelled in the queue"],
)
def test_the_scheduler_corrects_a_guess_about_the_same_start_alone(
    tmp_path: Path, start: str, expected: Reason | None
) -> None:
    run = RunFolder(tmp_path / RUN)
    ending = {"time": "2026-01-01T10:10:00+00:00", "reason": "preempted", "message": "SIGTERM"}
    attempt(run, "5_0", ending)
    record_job_end(run, "5_0", Job("5_0", "CANCELLED", by="1000", start=start))
    (found,) = run.attempts()
    assert found.reason is (expected or Reason.PREEMPTED)


def test_the_end_of_a_later_start_is_not_that_of_an_earlier_attempt(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    attempt(run, "5_0")
    first = Job("5_0", "NODE_FAIL", node="gpu1", source="sacct")
    second = Job("5_0", "TIMEOUT", restarts=1, source="sacct")
    record_job_end(run, "5_0", second, past=lambda key: [first, second])
    assert [found.reason for found in run.attempts()] == [Reason.NODE_FAILURE, Reason.TIMEOUT]
    assert [found.restarts for found in run.attempts()] == [0, 1]
    record_job_end(run, "5_0", second, past=lambda key: [first, second])
    assert len(run.attempts()) == 2


def test_a_later_start_says_nothing_of_an_attempt_that_ended(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    ending = {"time": "2026-01-01T10:10:00+00:00", "reason": "preempted", "message": "saved"}
    attempt(run, "5_0", ending)
    record_job_end(run, "5_0", Job("5_0", "CANCELLED", restarts=1))
    assert [found.reason for found in run.attempts()] == [Reason.PREEMPTED, Reason.CANCELLED]


def test_without_accounting_an_attempt_before_a_requeue_is_lost(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    attempt(run, "5_0")
    record_job_end(run, "5_0", Job("5_0", "CANCELLED", restarts=1))
    assert [found.reason for found in run.attempts()] == [Reason.LOST, Reason.CANCELLED]


def test_the_exit_status_tells_of_a_disk_that_was_full(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    attempt(run, "5_0")
    record_job_end(run, "5_0", Job("5_0", "FAILED", exit_code=f"{NOT_WRITTEN}:0"))
    record_job_end(run, "6_0", Job("6_0", "FAILED", exit_code=f"{NOT_WRITTEN}:0"))
    assert [found.reason for found in run.attempts()] == [Reason.STORAGE, Reason.STORAGE]


@pytest.mark.parametrize(
    ("accounting", "log", "expected"),
    [(True, False, "cancelled"), (True, True, "lost"), (False, False, "lost")],
)
def test_a_task_without_a_trace_was_cancelled_while_it_waited(
    tmp_path: Path, accounting: bool, log: bool, expected: str
) -> None:
    run = RunFolder(tmp_path / RUN)
    if log:
        (tmp_path / "5_0.txt").write_text("bash: python: not found\n")
    record_job_end(run, "5_0", None, tmp_path / "5_0.txt", accounting=accounting)
    (found,) = run.attempts()
    assert found.reason == expected


def test_what_can_not_be_written_down_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submitted(tmp_path)
    attempt(RunFolder(tmp_path / RUN), "5_0")

    def full(*arguments: object) -> None:
        raise files.StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record_verdict", full)
        look(tmp_path, Saying(Job("5_0", "TIMEOUT")))
    assert submission.closed_tasks() == {}
    assert look(tmp_path, Saying(Job("5_0", "TIMEOUT"))).reason is Reason.TIMEOUT


@pytest.mark.parametrize("reason", ["code_error", "timeout", "cancelled", "storage"])
def test_what_a_worker_knows_of_its_end_stays(tmp_path: Path, reason: str) -> None:
    run = RunFolder(tmp_path / RUN)
    ending = {"time": "2026-01-01T10:10:00+00:00", "reason": reason, "message": "so"}
    attempt(run, "5_0", ending)
    record_job_end(run, "5_0", Job("5_0", "NODE_FAIL", start="2026-01-01T09:00:00+00:00"))
    assert run.attempts()[0].reason == reason


def test_a_task_that_found_nothing_to_do_is_no_attempt(tmp_path: Path) -> None:
    submitted(tmp_path)
    status = look(tmp_path, Saying(Job("5_0", "COMPLETED")))
    assert (status.state, status.attempts) == (State.NEW, 0)


def test_a_run_with_a_record_is_not_asked_about(tmp_path: Path) -> None:
    written = submitted(tmp_path)
    scheduler = Saying(Job("5_0", "RUNNING"))
    states = Queue(tmp_path, scheduler).apply({RUN: Status(State.DONE)})
    assert states[RUN].state is State.DONE
    assert scheduler.asked == []
    assert written.closed_tasks() == {0: "has its record"}


def test_the_newest_submission_counts(tmp_path: Path) -> None:
    submitted(tmp_path)
    later = write_intent(tmp_path, "m", [(RUN, {})], launch={})
    later.note_job("6")
    jobs = Job("5_0", "CANCELLED"), Job("6_0", "PENDING", why="Resources")
    status = look(tmp_path, Saying(*jobs))
    assert (status.state, status.job) == (State.QUEUED, "6_0")
