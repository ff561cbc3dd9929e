"""Tests of submit_runs with other clocks and concurrent sweeps; tests/slurm/testbed has SLURM."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protoseg import files
from protoseg.launch import submit
from protoseg.launch.submission import open_submissions, read_submission, write_intent
from protoseg.runs.folder import RunFolder
from protoseg.slurm.client import Job, JobReport

RUN = "shapes-tiny-s0-0123456789"


class EmptyClient:
    """A client without jobs."""

    def __init__(self) -> None:
        self.queried = 0

    def find_jobs_by_name(self, name: str) -> list[str]:
        self.queried += 1
        return []


def test_an_intent_with_a_clock_ahead_is_waited_for_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(submit.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    written = write_intent(tmp_path, "m", [(RUN, {})], launch={})
    ahead = {**written.intent, "clock": written.intent["clock"] + 3600}
    files.write_json(written.folder / "intent.json", ahead)
    client: Any = EmptyClient()
    submit.reconcile_submissions(tmp_path, client)
    assert client.queried == submit.SETTLE_SECONDS + 2, "one query per second until the limit"
    assert open_submissions(tmp_path) == []


def test_a_submission_that_another_sweep_withdrew_counts_as_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without file locks, another sweep withdraws the submission while sbatch is busy."""
    entry: Any = SimpleNamespace(run=SimpleNamespace(run_id=RUN))
    array = SimpleNamespace(entries=(entry,), resources=None)

    def sbatch(array: Any, profile: Any, folder: Path, name: str) -> str:
        written = read_submission(folder)
        assert written is not None
        early = {**written.intent, "clock": written.intent["clock"] - 600}
        files.write_json(folder / "intent.json", early)
        submit.reconcile_submissions(tmp_path, EmptyClient())  # type: ignore[arg-type]
        return "77"

    monkeypatch.setattr(submit, "is_installed", lambda command: True)
    monkeypatch.setattr(submit, "SlurmClient", EmptyClient)
    monkeypatch.setattr(submit, "select_runs", lambda plan, retry_failed: ([entry], {}))
    monkeypatch.setattr(submit, "_make_arrays", lambda *_: [array])
    monkeypatch.setattr(
        submit, "_write_intent", lambda *_: write_intent(tmp_path, "m", [(RUN, {})], launch={})
    )
    monkeypatch.setattr(submit, "submit_array", sbatch)
    reported: list[str] = []
    nothing: Any = None
    outcome = submit.submit_runs(
        lambda: SimpleNamespace(entries=[]),  # type: ignore[arg-type, return-value]
        tmp_path,
        nothing,
        {},
        name="m",
        retry_failed=False,
        on_array=lambda job, array: reported.append(job),
    )
    assert (outcome.jobs, outcome.refused, reported) == ({}, [RUN], [])
    assert "another sweep" in outcome.refusal


@pytest.mark.parametrize(
    ("state", "restarts", "seconds", "is_requeued"),
    [
        ("PENDING", 1, 10, True),
        ("RUNNING", 1, 10, True),
        ("RUNNING", 0, 10, False),  # its batch script is about to end
        ("TIMEOUT", 0, 10, False),
        ("PENDING", 1, 2 * submit.REQUEUE_SECONDS, False),
        (None, 0, 10, False),
    ],
)
def test_a_run_whose_job_was_requeued_meanwhile_is_not_submitted(
    tmp_path: Path, state: str | None, restarts: int, seconds: float, is_requeued: bool
) -> None:
    folder = RunFolder(tmp_path / RUN)
    files.make_folder(folder.path)
    path = folder.start_attempt({"time": "2026-01-01T10:00:00+00:00", "job": "5_0", "iteration": 0})
    ended = datetime.fromtimestamp(time.time() - seconds, UTC).isoformat()
    files.create_json(path / "end.json", {"time": ended, "reason": "timeout", "message": ""})

    class Client:
        def query_jobs(self, ids: Collection[str], fresh: bool = False) -> JobReport:
            assert (list(ids), fresh) == (["5_0"], True)
            jobs = {"5_0": Job("5_0", state, restarts=restarts)} if state else {}
            return JobReport(jobs, reachable=True)

    entry: Any = SimpleNamespace(run=SimpleNamespace(run_id=RUN))
    requeued = submit.find_requeued([entry], tmp_path, Client())  # type: ignore[arg-type]
    assert requeued == ({RUN: "5_0"} if is_requeued else {})
