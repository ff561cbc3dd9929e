"""Tests of submissions on disk: their files, and incomplete or invalid ones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from runs.processes import ANNOUNCE_WAIT, kill, next_line, start

from protoseg.errors import ProtosegError
from protoseg.launch import submission as submission_module
from protoseg.launch.submission import (
    Submission,
    lock_submissions,
    open_submissions,
    read_submission,
    write_intent,
)

RUNS = [(f"shapes-tiny-s{n}-{n:010x}", {"seed": n}) for n in range(3)]


def make_submission(folder: Path, matrix: str = "quickstart", **settings: Any) -> Submission:
    return write_intent(folder, matrix, RUNS, **{"launch": {"data": "/d"}, **settings})


def test_a_written_submission_is_read_back(tmp_path: Path) -> None:
    written = make_submission(tmp_path, nodes=2)
    submission = read_submission(written.folder)
    assert submission is not None
    assert (submission.name, submission.run_ids) == (written.name, [run_id for run_id, _ in RUNS])
    assert submission.runs_folder == tmp_path
    assert submission.intent["nodes"] == 2
    assert [submission.spec(n) for n in range(3)] == [spec for _, spec in RUNS]
    assert json.loads((submission.folder / "launch.json").read_text()) == {"data": "/d"}
    assert (submission.job_id, submission.key(1)) == ("", "")


def test_every_intent_has_a_unique_name(tmp_path: Path) -> None:
    names = {make_submission(tmp_path).name for _ in range(50)}
    assert len(names) == 50


@pytest.mark.parametrize("matrix", ["a b", "$(reboot)", "x\ny", "../../etc", "ä" * 80, "", "'\"`;"])
def test_a_job_name_contains_no_shell_characters(tmp_path: Path, matrix: str) -> None:
    name = make_submission(tmp_path, matrix).name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert 13 < len(name) < 60


def test_the_first_recorded_job_number_counts(tmp_path: Path) -> None:
    written = make_submission(tmp_path)
    written.note_job("17")
    written.note_job("18")
    assert (written.job_id, written.key(2)) == ("17", "17_2")
    again = read_submission(written.folder)
    assert again is not None
    assert again.job_id == "17"


@pytest.mark.parametrize("job", ["", "17; reboot", "-1", "17_2", None, 17.5])
def test_an_invalid_job_number_is_ignored(tmp_path: Path, job: Any) -> None:
    written = make_submission(tmp_path)
    (written.folder / "job.json").write_text(json.dumps({"job": job}))
    assert written.job_id == ""


def test_closed_and_withdrawn_submissions_are_not_open(tmp_path: Path) -> None:
    first, second = make_submission(tmp_path), make_submission(tmp_path)
    assert len(open_submissions(tmp_path)) == 2
    first.withdraw("refused")
    second.close_tasks({0: "done", 2: "cancelled"})
    assert [s.folder for s in open_submissions(tmp_path)] == [second.folder]
    second.close_tasks({1: "done"})
    assert second.closed_tasks() == {0: "done", 1: "done", 2: "cancelled"}
    assert open_submissions(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        {"runs": ["../outside-0123456789"]},
        {"runs": ["/etc/passwd"]},
        {"runs": ["a b-0123456789"]},
        {"runs": ["$(reboot)-0123456789"]},
        {"runs": [7]},
        {"runs": None},
        {"clock": "yesterday"},
        {"name": None},
    ],
)
def test_an_invalid_intent_is_ignored(tmp_path: Path, change: dict[str, Any]) -> None:
    written = make_submission(tmp_path)
    (written.folder / "intent.json").write_text(json.dumps({**written.intent, **change}))
    assert read_submission(written.folder) is None
    assert open_submissions(tmp_path) == []


def test_an_incomplete_intent_is_ignored(tmp_path: Path) -> None:
    written = make_submission(tmp_path)
    whole = (written.folder / "intent.json").read_text()
    for length in (0, 1, len(whole) // 2):
        (written.folder / "intent.json").write_text(whole[:length])
        assert read_submission(written.folder) is None
    assert read_submission(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    "content", ["", '{"run_id": "another-0123456789", "spec": {}}\n', "[]\n", "7\n"]
)
def test_an_incomplete_list_of_runs_is_an_error(tmp_path: Path, content: str) -> None:
    written = make_submission(tmp_path)
    (written.folder / "runs.jsonl").write_text(content)
    with pytest.raises(ProtosegError, match=r"runs\.jsonl: has no valid run for task 0"):
        written.spec(0)


def test_other_users_cannot_write_submissions(tmp_path: Path) -> None:
    written = make_submission(tmp_path)
    for path in (written.folder, *written.folder.rglob("*")):
        assert path.stat().st_mode & 0o022 == 0, path


def test_the_lock_of_a_killed_sweep_is_released(tmp_path: Path) -> None:
    code = f"""{ANNOUNCE_WAIT}
import sys, time
from pathlib import Path
from protoseg.launch.submission import lock_submissions
with lock_submissions(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""
    first = start(code, tmp_path)
    assert next_line(first) == "in"
    second = start(code, tmp_path)
    assert next_line(second) == "waiting"
    kill(first)
    assert next_line(second) == "in"
    kill(second)
    with lock_submissions(tmp_path):
        pass


def test_an_intent_records_time_host_and_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = time.time()
    written = make_submission(tmp_path)
    assert before <= written.intent["clock"] <= time.time()
    monkeypatch.setattr(time, "time", lambda: written.intent["clock"] + 60)
    assert written.age == 60
    assert written.intent["host"]
    assert written.intent["user"]
    assert submission_module.SUBMISSIONS_FOLDER in written.folder.parts
