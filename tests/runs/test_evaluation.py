"""Evaluations of finished runs on other splits: written once, found, published, and checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from protoseg.runs.results.evaluation import (
    FORMAT,
    check_origin,
    find_evaluation,
    name_evaluation,
    publish_evaluation,
    read_evaluation,
    write_evaluation,
)
from protoseg.runs.sealed import RecordError

COUNTS = b"counts of every image"
CHOICE = "c" * 64


def make_content(counts: bytes = COUNTS, **changes: Any) -> dict[str, Any]:
    """The content of an evaluation of the run ``toy-s0-0123456789`` on test."""
    content: dict[str, Any] = {
        "run_id": "toy-s0-0123456789",
        "record": "a" * 64,
        "state_sha256": "b" * 64,
        "split": "test",
        "choice": "",
        "metrics": {"miou": 50.0},
        "per_class": [],
        "seconds": 1.5,
        "provenance": {},
        "finished": "2026-11-30T00:00:00+00:00",
        **changes,
    }
    name = name_evaluation(content["run_id"], content["split"], content["choice"])
    sha256 = hashlib.sha256(counts).hexdigest()
    return {**content, "confusion": {"file": f"{name}.npz", "sha256": sha256}}


def test_a_written_evaluation_is_read_back(tmp_path: Path) -> None:
    path = write_evaluation(make_content(), COUNTS, tmp_path)
    assert path.name == "toy-s0-0123456789.test.json"
    assert read_evaluation(path) == FORMAT.seal(make_content())
    assert find_evaluation([tmp_path / "none", tmp_path], "toy-s0-0123456789", "test") == (
        path,
        read_evaluation(path),
    )
    assert find_evaluation([tmp_path], "toy-s0-0123456789", "val") is None


def test_an_evaluation_of_a_choice_has_a_file_for_it(tmp_path: Path) -> None:
    write_evaluation(make_content(), COUNTS, tmp_path)
    path = write_evaluation(make_content(choice=CHOICE), COUNTS, tmp_path)
    assert path.name == "toy-s0-0123456789.test.cccccccccc.json"
    existing = find_evaluation([tmp_path], "toy-s0-0123456789", "test", CHOICE)
    assert existing is not None
    assert existing[0] == path


def test_an_existing_evaluation_is_kept(tmp_path: Path) -> None:
    path = write_evaluation(make_content(), COUNTS, tmp_path)
    before = path.read_bytes()
    # Another call with the same counts was slower.
    assert write_evaluation(make_content(seconds=9.0), COUNTS, tmp_path) == path
    assert path.read_bytes() == before
    with pytest.raises(RecordError, match="another evaluation has other counts; it is kept"):
        write_evaluation(make_content(b"others"), b"others", tmp_path)
    assert (path.read_bytes(), path.with_suffix(".npz").read_bytes()) == (before, COUNTS)


def test_a_file_of_another_run_or_with_other_counts_is_refused(tmp_path: Path) -> None:
    path = write_evaluation(make_content(), COUNTS, tmp_path)
    renamed = path.rename(tmp_path / "toy-s1-0123456789.test.json")
    with pytest.raises(RecordError, match=r"is the evaluation toy-s0-0123456789\.test\. Give the"):
        read_evaluation(renamed)
    renamed.rename(path)
    path.with_suffix(".npz").write_bytes(b"x")
    with pytest.raises(RecordError, match="do not match the record's digest"):
        read_evaluation(path)
    path.with_suffix(".npz").unlink()
    with pytest.raises(RecordError, match="are gone"):
        read_evaluation(path)


def test_two_different_evaluations_are_not_mixed(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_evaluation(make_content(), COUNTS, one)
    write_evaluation(make_content(), COUNTS, other)
    assert find_evaluation([one, other], "toy-s0-0123456789", "test") is not None
    (path,) = other.glob("*.json")
    path.unlink()
    write_evaluation(make_content(seconds=2.0), COUNTS, other)
    with pytest.raises(RecordError, match=r"two different evaluations\. Move one"):
        find_evaluation([one, other], "toy-s0-0123456789", "test")


def test_an_evaluation_is_published_once(tmp_path: Path) -> None:
    path = write_evaluation(make_content(), COUNTS, tmp_path / "runs")
    for _ in range(2):
        publish_evaluation(path, tmp_path / "results")
    published = tmp_path / "results" / path.name
    assert published.read_bytes() == path.read_bytes()
    assert published.with_suffix(".npz").read_bytes() == COUNTS
    path.write_text(json.dumps(FORMAT.seal(make_content(seconds=2.0))))
    with pytest.raises(RecordError, match=r"holds another evaluation .*; it is kept"):
        publish_evaluation(path, tmp_path / "results")


def test_an_evaluation_belongs_to_one_record(tmp_path: Path) -> None:
    record = {"run_id": "toy-s0-0123456789", "digest": "a" * 64}
    check_origin(make_content(), record, tmp_path)
    with pytest.raises(RecordError, match="is of another result of toy-s0-0123456789"):
        check_origin(make_content(), {**record, "digest": "d" * 64}, tmp_path)
