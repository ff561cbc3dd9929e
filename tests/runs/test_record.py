"""Records: every kind of damage is detected, and a published record is never overwritten."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from report.lab import make_record, make_spec

from protoseg.runs import record as records
from protoseg.runs.record import (
    FORMAT,
    SCHEMA_VERSION,
    list_diffs,
    publish,
    read_record,
    seal,
    verify_confusion,
)
from protoseg.runs.sealed import RecordError

COUNTS = b"counts of every image"
GOOD = make_record(make_spec(), 70.0, confusion={"sha256": hashlib.sha256(COUNTS).hexdigest()})

EMPTY: dict[str, Any] = {key: kind() for key, kind in FORMAT.keys.items() if isinstance(kind, type)}
SMALL = seal({**EMPTY, "metrics": {"miou": 70.0}})
"""A short record, for tests of every byte."""


@pytest.fixture
def record_path(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


def write_record(record_path: Path, record: Any) -> Path:
    record_path.write_text(json.dumps(record))
    return record_path


def write_run(folder: Path, record: dict[str, Any], counts: bytes = COUNTS) -> Path:
    """Write a run folder with a record and its counts, and return it."""
    folder.mkdir()
    write_record(folder / "record.json", record)
    (folder / "confusion.npz").write_bytes(counts)
    return folder


def test_a_sealed_record_is_read_back(record_path: Path) -> None:
    assert read_record(write_record(record_path, GOOD)) == GOOD
    assert set(GOOD) == {*FORMAT.keys, "schema_version", "digest"}
    assert GOOD["schema_version"] == SCHEMA_VERSION


def test_the_digest_does_not_depend_on_layout_or_order(record_path: Path) -> None:
    shuffled = dict(reversed(GOOD.items()))
    record_path.write_text(json.dumps(shuffled, indent=7, ensure_ascii=False))
    assert read_record(record_path) == GOOD


def test_a_record_torn_at_any_byte_is_rejected(record_path: Path) -> None:
    whole = write_record(record_path, SMALL).read_bytes()
    for length in range(len(whole)):
        record_path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match="torn record, not valid JSON"):
            read_record(record_path)
    record_path.write_bytes(whole)
    assert read_record(record_path) == SMALL


def test_a_flipped_bit_at_any_byte_is_rejected(record_path: Path) -> None:
    whole = write_record(record_path, SMALL).read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1
        record_path.write_bytes(broken)
        with pytest.raises(RecordError):
            read_record(record_path)


def list_leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the path of keys to every leaf of nested data."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    leaves: list[tuple[Any, ...]] = []
    for key, inner in pairs:
        nested = isinstance(inner, dict | list) and len(inner) > 0
        leaves += list_leaves(inner, (*path, key)) if nested else [(*path, key)]
    return leaves


def test_the_digest_covers_every_value(record_path: Path) -> None:
    for path in list_leaves(GOOD):
        edited = json.loads(json.dumps(GOOD))
        node = edited
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = "edited" if isinstance(node[path[-1]], str) else 7_654_321
        with pytest.raises(RecordError):
            read_record(write_record(record_path, edited))


def test_the_message_for_an_edited_record_tells_what_to_do(record_path: Path) -> None:
    edited = {**GOOD, "metrics": {**GOOD["metrics"], "miou": 99.0}}
    with pytest.raises(RecordError) as caught:
        read_record(write_record(record_path, edited))
    assert str(caught.value) == (
        f"{record_path}: edited or damaged record, its content does not match its digest. "
        "Restore it from a copy, or delete it and run the sweep again."
    )


def test_a_record_of_a_newer_schema_is_rejected(record_path: Path) -> None:
    with pytest.raises(RecordError, match=r"record of schema 2; this protoseg reads up to 1\. Upd"):
        read_record(write_record(record_path, {**GOOD, "schema_version": 2, "something": "new"}))


@pytest.mark.parametrize(
    ("spelling", "problem"),
    [
        ("NaN", "NaN is not JSON"),
        ("Infinity", "Infinity is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        ("1e999", "does not match its digest"),
    ],
)
def test_non_finite_numbers_are_rejected(record_path: Path, spelling: str, problem: str) -> None:
    record_path.write_text(json.dumps(GOOD).replace("70.0", spelling))
    with pytest.raises(RecordError, match=re.escape(str(record_path)) + f".*{problem}"):
        read_record(record_path)


def test_a_record_with_nan_cannot_be_sealed() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal({**GOOD, "metrics": {"miou": math.nan}})


@pytest.mark.parametrize("key", sorted({*FORMAT.keys, "digest"}))
def test_a_missing_key_is_named(record_path: Path, key: str) -> None:
    rest = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(RecordError, match=rf"incomplete record: '{key}' is missing\."):
        read_record(write_record(record_path, rest))
    if key != "digest":
        with pytest.raises(ValueError, match=f"not a record: '{key}' is missing"):
            seal(rest)


def test_a_record_may_have_metrics_on_the_way(record_path: Path) -> None:
    with_curve = seal({**GOOD, "curve": [{"iteration": 5, "miou": 40.0}]})
    assert read_record(write_record(record_path, with_curve)) == with_curve
    assert with_curve["digest"] != GOOD["digest"]
    edited = {**with_curve, "curve": [{"iteration": 5, "miou": 41.0}]}
    with pytest.raises(RecordError, match="does not match its digest"):
        read_record(write_record(record_path, edited))
    with pytest.raises(RecordError, match="'curve' is not of type"):
        read_record(write_record(record_path, {**with_curve, "curve": {}}))


def test_an_unknown_key_and_a_wrong_type_are_named(record_path: Path) -> None:
    with pytest.raises(RecordError, match="'mood' is unknown"):
        read_record(write_record(record_path, {**GOOD, "mood": "good"}))
    with pytest.raises(RecordError, match="'metrics' is not of type"):
        read_record(write_record(record_path, {**GOOD, "metrics": []}))


@pytest.mark.parametrize("content", ["[]", "{}", "3", "null", '{"schema_version": "1"}'])
def test_other_json_is_rejected(record_path: Path, content: str) -> None:
    record_path.write_text(content)
    with pytest.raises(RecordError, match="not a record of protoseg"):
        read_record(record_path)


def test_bytes_that_are_no_json_are_rejected(record_path: Path) -> None:
    record_path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="torn record"):
        read_record(record_path)
    record_path.write_text("[" * 100_000)
    with pytest.raises(RecordError, match="torn record"):
        read_record(record_path)


def test_a_missing_record_raises_file_not_found(record_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(record_path)


def test_counts_are_checked_against_the_digest_in_the_record(tmp_path: Path) -> None:
    counts = tmp_path / "confusion.npz"
    with pytest.raises(RecordError, match="are gone"):
        verify_confusion(GOOD, counts)
    counts.write_bytes(COUNTS)
    verify_confusion(GOOD, counts)
    counts.write_bytes(COUNTS + b"!")
    with pytest.raises(RecordError, match="do not match the record's digest"):
        verify_confusion(GOOD, counts)


def test_a_finished_run_is_published_with_its_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", GOOD)
    published = publish(run, tmp_path / "results" / "records")
    assert published.name == f"{GOOD['run_id']}.json"
    assert read_record(published) == GOOD
    assert published.with_suffix(".npz").read_bytes() == COUNTS
    before = published.stat().st_mtime_ns
    assert publish(run, published.parent) == published
    assert published.stat().st_mtime_ns == before, "an identical record is not written again"


def test_missing_counts_are_published_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", GOOD)
    published = publish(run, tmp_path / "records")
    published.with_suffix(".npz").unlink()
    publish(run, tmp_path / "records")
    assert published.with_suffix(".npz").read_bytes() == COUNTS


def test_another_result_is_never_overwritten(tmp_path: Path) -> None:
    published = publish(write_run(tmp_path / "run", GOOD), tmp_path / "records")
    other = seal({**GOOD, "metrics": {**GOOD["metrics"], "miou": 71.0}})
    with pytest.raises(RecordError, match="another result of the same run; it is kept"):
        publish(write_run(tmp_path / "other", other), tmp_path / "records")
    assert read_record(published) == GOOD
    assert published.with_suffix(".npz").read_bytes() == COUNTS


def test_a_damaged_record_is_neither_published_nor_overwritten(tmp_path: Path) -> None:
    records_folder = tmp_path / "records"
    with pytest.raises(RecordError, match="do not match"):
        publish(write_run(tmp_path / "bad counts", GOOD, b"other"), records_folder)
    with pytest.raises(RecordError, match="edited"):
        publish(write_run(tmp_path / "edited", {**GOOD, "attempts": 5}), records_folder)
    assert not records_folder.exists()
    records_folder.mkdir()
    damaged = records_folder / f"{GOOD['run_id']}.json"
    damaged.write_text("{")
    with pytest.raises(RecordError, match="torn"):
        publish(write_run(tmp_path / "run", GOOD), records_folder)
    assert damaged.read_text() == "{"


def test_an_interrupted_publication_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", GOOD)
    real = records.files.write_bytes
    written = []

    def write_bytes(path: Path, data: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        real(path, data)

    monkeypatch.setattr(records.files, "write_bytes", write_bytes)
    with pytest.raises(KeyboardInterrupt):
        publish(run, tmp_path / "records")
    assert [path.suffix for path in (tmp_path / "records").iterdir()] == [".npz"]


OWN, EARLIER = b"diff of the last attempt", b"diff of the first"


def write_run_with_diffs(folder: Path) -> dict[str, Any]:
    """Write a finished run whose two attempts had different changes; return its record."""
    own, earlier = (hashlib.sha256(text).hexdigest() for text in (OWN, EARLIER))
    name = f"code-{earlier[:10]}.diff"
    entries = [
        {"first": 1, "last": 1, "diff_sha256": earlier, "diff_file": name},
        {"first": 2, "last": 2, "diff_sha256": own, "diff_file": "code.diff"},
    ]
    origin = {"dirty": True, "diff_sha256": own, "diff_file": "code.diff", "attempts": entries}
    record = make_record(
        make_spec(), 70.0, confusion=GOOD["confusion"], provenance=origin, attempts=2
    )
    write_run(folder, record)
    (folder / "code.diff").write_bytes(OWN)
    (folder / name).write_bytes(EARLIER)
    return record


def test_the_diffs_of_all_attempts_are_published(tmp_path: Path) -> None:
    record = write_run_with_diffs(tmp_path / "run")
    published = publish(tmp_path / "run", tmp_path / "records")
    first = hashlib.sha256(EARLIER).hexdigest()[:10]
    assert published.with_suffix(".diff").read_bytes() == OWN
    assert (published.parent / f"{record['run_id']}.{first}.diff").read_bytes() == EARLIER
    assert len(list(published.parent.iterdir())) == 4
    published.with_suffix(".diff").unlink()
    publish(tmp_path / "run", tmp_path / "records")
    assert published.with_suffix(".diff").read_bytes() == OWN


def test_a_damaged_or_missing_diff_is_not_published(tmp_path: Path) -> None:
    write_run_with_diffs(tmp_path / "run")
    (tmp_path / "run" / "code.diff").write_bytes(OWN + b"!")
    with pytest.raises(RecordError, match="does not match the digest"):
        publish(tmp_path / "run", tmp_path / "records")
    (tmp_path / "run" / "code.diff").unlink()
    with pytest.raises(RecordError, match="is gone"):
        publish(tmp_path / "run", tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_another_diff_is_never_overwritten(tmp_path: Path) -> None:
    record = write_run_with_diffs(tmp_path / "run")
    kept = tmp_path / "records" / f"{record['run_id']}.diff"
    kept.parent.mkdir()
    kept.write_bytes(b"of another run")
    with pytest.raises(RecordError, match="another diff"):
        publish(tmp_path / "run", kept.parent)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert kept.read_bytes() == b"of another run"


@pytest.mark.parametrize("file", ["../code.diff", "/etc/passwd", "..", ".diff", 3, None])
def test_a_diff_outside_the_run_folder_is_ignored(file: Any) -> None:
    origin = {"diff_sha256": "0" * 64, "diff_file": file, "attempts": ["?", {"diff_file": file}]}
    assert list_diffs(make_record(make_spec(), 70.0, provenance=origin)) == []


def test_records_of_older_versions_have_no_diff() -> None:
    assert list_diffs(GOOD) == []
