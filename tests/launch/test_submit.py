"""Submitting where clocks differ or another sweep comes between; tests/slurm has the real thing."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protoseg import files
from protoseg.launch import submit
from protoseg.launch.submission import open_submissions, read_submission, write_intent

RUN = "shapes-tiny-s0-0123456789"


class Unknowing:
    """A scheduler that has not accepted anything yet."""

    def __init__(self) -> None:
        self.asked = 0

    def named(self, name: str) -> list[str]:
        self.asked += 1
        return []


def test_a_submitter_with_a_clock_ahead_is_waited_for_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(submit.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    written = write_intent(tmp_path, "m", [(RUN, {})], launch={})
    ahead = {**written.intent, "clock": written.intent["clock"] + 3600}
    files.write_json(written.folder / "intent.json", ahead)
    scheduler: Any = Unknowing()
    submit.reconcile(tmp_path, scheduler)
    assert scheduler.asked == submit.SETTLE_SECONDS + 2, "every second until after the limit"
    assert open_submissions(tmp_path) == []


def test_a_submission_that_another_sweep_gave_up_is_not_told_as_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks: it looked while sbatch was busy for longer than an answer can take."""
    entry: Any = SimpleNamespace(run=SimpleNamespace(run_id=RUN))
    array = SimpleNamespace(entries=(entry,), resources=None)

    def sbatch(array: Any, profile: Any, folder: Path, name: str) -> str:
        written = read_submission(folder)
        assert written is not None
        early = {**written.intent, "clock": written.intent["clock"] - 600}
        files.write_json(folder / "intent.json", early)
        submit.reconcile(tmp_path, Unknowing())  # type: ignore[arg-type]
        return "77"

    monkeypatch.setattr(submit, "installed", lambda command: True)
    monkeypatch.setattr(submit, "SlurmClient", Unknowing)
    monkeypatch.setattr(submit, "select_runs", lambda plan, retry_failed: ([entry], {}))
    monkeypatch.setattr(submit, "_cut", lambda *_: [array])
    monkeypatch.setattr(
        submit, "_intent", lambda *_: write_intent(tmp_path, "m", [(RUN, {})], launch={})
    )
    monkeypatch.setattr(submit, "submit", sbatch)
    told: list[str] = []
    nothing: Any = None
    outcome = submit.submit_runs(
        lambda: SimpleNamespace(entries=[]),  # type: ignore[arg-type, return-value]
        tmp_path,
        nothing,
        {},
        name="m",
        retry_failed=False,
        on_array=lambda job, array: told.append(job),
    )
    assert (outcome.jobs, outcome.refused, told) == ({}, [RUN], [])
    assert "another sweep" in outcome.refusal
