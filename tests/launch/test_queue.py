"""Tests of the queue with given answers of SLURM; tests/slurm/testbed has real ones."""

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


class FixedClient(SlurmClient):
    """A client with one fixed answer, which records the queried ids."""

    def __init__(self, *jobs: Job, reachable: bool = True) -> None:
        super().__init__()
        self.answer = JobReport({job.id: job for job in jobs}, reachable=reachable)
        self.queried: list[str] = []

    def query_jobs(self, ids: Collection[str], fresh: bool = False) -> JobReport:
        self.queried += ids
        return self.answer


def write_submission(folder: Path, age: float = 2 * UNSURE_SECONDS) -> Submission:
    written = write_intent(folder, "m", [(RUN, {})], launch={})
    files.write_json(
        written.folder / "intent.json",
        {**written.intent, "clock": written.intent["clock"] - age},
    )
    written.note_job("5")
    return written


def start_attempt(folder: RunFolder, job: str, end: dict[str, Any] | None = None) -> None:
    files.make_folder(folder.path)
    path = folder.start_attempt({"time": "2026-01-01T10:00:00+00:00", "job": job, "iteration": 0})
    if end is not None:
        files.create_json(path / "end.json", end)


def read_status(folder: Path, client: SlurmClient) -> Status:
    run = RunFolder(folder / RUN)
    return Queue(folder, client).apply({RUN: run.status()})[RUN]


@pytest.mark.parametrize(
    ("why", "is_held"),
    [
        ("JobHeldUser", True),
        ("JobHeldAdmin", True),
        ("launch failed requeued held", True),
        ("Priority", False),
        ("", False),
    ],
)
def test_a_held_job_says_how_to_release_it(tmp_path: Path, why: str, is_held: bool) -> None:
    write_submission(tmp_path)
    message = read_status(tmp_path, FixedClient(Job("5_0", "PENDING", why=why))).message
    assert ("SLURM holds it: run 'scontrol release 5_0'" in message) == is_held
    assert message.startswith(f"waits ({why})" if why else "waits")


@pytest.mark.parametrize("state", ["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD"])
def test_a_waiting_job_is_queued(tmp_path: Path, state: str) -> None:
    write_submission(tmp_path)
    status = read_status(tmp_path, FixedClient(Job("5_0", state, why="Priority")))
    assert (status.state, status.job) == (State.QUEUED, "5_0")
    assert "Priority" in status.message


def test_a_starting_job_is_queued(tmp_path: Path) -> None:
    write_submission(tmp_path)
    status = read_status(tmp_path, FixedClient(Job("5_0", "RUNNING", node="gpu1")))
    assert (status.state, status.host) == (State.QUEUED, "gpu1")


def test_a_submitted_run_is_queued_while_slurm_does_not_answer(tmp_path: Path) -> None:
    write_submission(tmp_path)
    status = read_status(tmp_path, FixedClient(reachable=False))
    assert status.state is State.QUEUED
    assert "does not answer" in status.message


def test_a_job_that_was_just_submitted_is_queued(tmp_path: Path) -> None:
    write_submission(tmp_path, age=0)
    assert read_status(tmp_path, FixedClient()).state is State.QUEUED


def test_an_intent_without_a_job_number_is_queued(tmp_path: Path) -> None:
    write_intent(tmp_path, "m", [(RUN, {})], launch={})
    client = FixedClient()
    assert read_status(tmp_path, client).state is State.QUEUED
    assert client.queried == []


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
def test_a_job_without_a_worker_counts_as_one_attempt(
    tmp_path: Path, job: Job | None, reason: Reason
) -> None:
    written = write_submission(tmp_path)
    client = FixedClient(*([job] if job else []))
    status = read_status(tmp_path, client)
    assert (status.reason, status.attempts) == (reason, 1)
    assert written.closed_tasks().keys() == {0}
    assert read_status(tmp_path, client).attempts == 1, "the attempt is counted once"
    assert client.queried == ["5_0"], "the closed task is not queried again"


def test_the_last_line_of_the_batch_script_is_the_message(tmp_path: Path) -> None:
    written = write_submission(tmp_path)
    written.log("5_0").write_text("hello\nmodule: command not found\n\n")
    status = read_status(tmp_path, FixedClient(Job("5_0", "FAILED")))
    assert status.message == "module: command not found"


def test_a_worker_without_an_ending_gets_slurms_reason(tmp_path: Path) -> None:
    write_submission(tmp_path)
    start_attempt(RunFolder(tmp_path / RUN), "5_0")
    status = read_status(
        tmp_path, FixedClient(Job("5_0", "NODE_FAIL", node="gpu1", source="sacct"))
    )
    assert (status.state, status.reason) == (State.INTERRUPTED, Reason.NODE_FAILURE)
    assert "gpu1" in status.message
    assert RunFolder(tmp_path / RUN).attempts()[0].verdict is not None


def test_lost_does_not_replace_the_reason_of_the_worker(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    start_attempt(run, "5_0")
    record_job_end(run, "5_0", None)
    assert run.status().reason is Reason.LOST
    end = {"time": "2026-01-01T10:10:00+00:00", "reason": "code_error", "message": "so"}
    files.create_json(run.attempts_folder / "0001" / "end.json", end)  # appears late, over NFS
    assert run.status().reason is Reason.CODE_ERROR


def test_a_job_of_another_name_is_ignored(tmp_path: Path) -> None:
    written = write_submission(tmp_path)
    status = read_status(tmp_path, FixedClient(Job("5_0", "RUNNING", name="precious.0123456789ab")))
    assert (status.state, status.reason) == (State.INTERRUPTED, Reason.LOST)
    assert written.closed_tasks().keys() == {0}


def test_a_job_of_another_cluster_stays_queued(tmp_path: Path) -> None:
    written = write_submission(tmp_path)
    intent = {**written.intent, "cluster": "elsewhere"}
    files.write_json(written.folder / "intent.json", intent)
    status = read_status(tmp_path, FixedClient())
    assert status.state is State.QUEUED
    assert "elsewhere" in status.message
    start_attempt(RunFolder(tmp_path / RUN), "5_0", {"reason": "preempted", "message": "saved"})
    assert read_status(tmp_path, FixedClient()).job == "", (
        "the job id of another cluster is not shown"
    )


def test_clusters_with_a_shared_folder_have_separate_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cluster a does not know the job that waits on cluster b."""
    written = write_submission(tmp_path)
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
    names = {path.name for path in written.folder.parent.glob("*-*")}
    assert names == {written.folder.name}, "only submissions have a hyphen in their name"


@pytest.mark.parametrize(("restarts", "state"), [(0, State.INTERRUPTED), (1, State.QUEUED)])
def test_a_completing_job_is_queued_only_after_a_restart(
    tmp_path: Path, restarts: int, state: State
) -> None:
    write_submission(tmp_path)
    ending = {"time": "2026-01-01T10:10:00+00:00", "reason": "storage", "message": "full"}
    start_attempt(RunFolder(tmp_path / RUN), "5_0", ending)
    status = read_status(tmp_path, FixedClient(Job("5_0", "COMPLETING", restarts=restarts)))
    assert status.state is state


def test_without_accounting_a_worker_without_an_ending_is_lost(tmp_path: Path) -> None:
    write_submission(tmp_path)
    start_attempt(RunFolder(tmp_path / RUN), "5_0")
    status = read_status(tmp_path, FixedClient())
    assert (status.state, status.reason) == (State.INTERRUPTED, Reason.LOST)


@pytest.mark.parametrize(
    ("start", "expected"),
    [("2026-01-01T09:59:00+00:00", Reason.CANCELLED), ("2026-01-01T10:30:00+00:00", None)],
    ids=["the job of the attempt", "a later start, cancelled in the queue"],
)
def test_slurm_corrects_a_guess_only_about_the_same_start(
    tmp_path: Path, start: str, expected: Reason | None
) -> None:
    run = RunFolder(tmp_path / RUN)
    ending = {"time": "2026-01-01T10:10:00+00:00", "reason": "preempted", "message": "SIGTERM"}
    start_attempt(run, "5_0", ending)
    record_job_end(run, "5_0", Job("5_0", "CANCELLED", by="1000", start=start))
    (attempt,) = run.attempts()
    assert attempt.reason is (expected or Reason.PREEMPTED)


def test_each_start_of_a_job_is_an_attempt_with_its_own_reason(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    start_attempt(run, "5_0")
    first = Job("5_0", "NODE_FAIL", node="gpu1", source="sacct")
    second = Job("5_0", "TIMEOUT", restarts=1, source="sacct")
    record_job_end(run, "5_0", second, past=lambda key: [first, second])
    assert [attempt.reason for attempt in run.attempts()] == [Reason.NODE_FAILURE, Reason.TIMEOUT]
    assert [attempt.restarts for attempt in run.attempts()] == [0, 1]
    record_job_end(run, "5_0", second, past=lambda key: [first, second])
    assert len(run.attempts()) == 2


def test_a_later_start_does_not_change_an_ended_attempt(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    ending = {"time": "2026-01-01T10:10:00+00:00", "reason": "preempted", "message": "saved"}
    start_attempt(run, "5_0", ending)
    record_job_end(run, "5_0", Job("5_0", "CANCELLED", restarts=1))
    assert [attempt.reason for attempt in run.attempts()] == [Reason.PREEMPTED, Reason.CANCELLED]


def test_without_accounting_an_attempt_before_a_requeue_is_lost(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    start_attempt(run, "5_0")
    record_job_end(run, "5_0", Job("5_0", "CANCELLED", restarts=1))
    assert [attempt.reason for attempt in run.attempts()] == [Reason.LOST, Reason.CANCELLED]


def test_the_exit_status_74_is_the_reason_storage(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / RUN)
    start_attempt(run, "5_0")
    record_job_end(run, "5_0", Job("5_0", "FAILED", exit_code=f"{NOT_WRITTEN}:0"))
    record_job_end(run, "6_0", Job("6_0", "FAILED", exit_code=f"{NOT_WRITTEN}:0"))
    assert [attempt.reason for attempt in run.attempts()] == [Reason.STORAGE, Reason.STORAGE]


@pytest.mark.parametrize(
    ("accounting", "log", "expected"),
    [(True, False, "cancelled"), (True, True, "lost"), (False, False, "lost")],
)
def test_a_task_without_a_trace_was_cancelled_in_the_queue(
    tmp_path: Path, accounting: bool, log: bool, expected: str
) -> None:
    run = RunFolder(tmp_path / RUN)
    if log:
        (tmp_path / "5_0.txt").write_text("bash: python: not found\n")
    record_job_end(run, "5_0", None, tmp_path / "5_0.txt", accounting=accounting)
    (attempt,) = run.attempts()
    assert attempt.reason == expected


def test_an_end_that_cannot_be_written_is_recorded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = write_submission(tmp_path)
    start_attempt(RunFolder(tmp_path / RUN), "5_0")

    def full(*arguments: object) -> None:
        raise files.StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record_verdict", full)
        read_status(tmp_path, FixedClient(Job("5_0", "TIMEOUT")))
    assert submission.closed_tasks() == {}
    assert read_status(tmp_path, FixedClient(Job("5_0", "TIMEOUT"))).reason is Reason.TIMEOUT


@pytest.mark.parametrize("reason", ["code_error", "timeout", "cancelled", "storage"])
def test_a_definite_reason_of_the_worker_is_kept(tmp_path: Path, reason: str) -> None:
    run = RunFolder(tmp_path / RUN)
    ending = {"time": "2026-01-01T10:10:00+00:00", "reason": reason, "message": "so"}
    start_attempt(run, "5_0", ending)
    record_job_end(run, "5_0", Job("5_0", "NODE_FAIL", start="2026-01-01T09:00:00+00:00"))
    assert run.attempts()[0].reason == reason


def test_a_task_with_nothing_to_do_is_no_attempt(tmp_path: Path) -> None:
    write_submission(tmp_path)
    status = read_status(tmp_path, FixedClient(Job("5_0", "COMPLETED")))
    assert (status.state, status.attempts) == (State.NEW, 0)


def test_a_run_with_a_record_needs_no_query(tmp_path: Path) -> None:
    written = write_submission(tmp_path)
    client = FixedClient(Job("5_0", "RUNNING"))
    states = Queue(tmp_path, client).apply({RUN: Status(State.DONE)})
    assert states[RUN].state is State.DONE
    assert client.queried == []
    assert written.closed_tasks() == {0: "has its record"}


def test_the_newest_submission_decides_the_state(tmp_path: Path) -> None:
    write_submission(tmp_path)
    later = write_intent(tmp_path, "m", [(RUN, {})], launch={})
    later.note_job("6")
    jobs = Job("5_0", "CANCELLED"), Job("6_0", "PENDING", why="Resources")
    status = read_status(tmp_path, FixedClient(*jobs))
    assert (status.state, status.job) == (State.QUEUED, "6_0")
