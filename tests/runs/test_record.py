"""Records are believed only when nothing about them is wrong."""

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
    SCHEMA,
    SCHEMA_VERSION,
    RecordError,
    diffs,
    publish,
    read_record,
    seal,
    verify_confusion,
)

COUNTS = b"counts of every image"
GOOD = make_record(make_spec(), 70.0, confusion={"sha256": hashlib.sha256(COUNTS).hexdigest()})

EMPTY: dict[str, Any] = {
    key: kind() for key, kind in SCHEMA.items() if isinstance(kind, type) and key != "digest"
}
SMALL = seal({**EMPTY, "metrics": {"miou": 70.0}})
"""A record of few bytes, for tests that visit each of them."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


def write(place: Path, record: Any) -> Path:
    place.write_text(json.dumps(record))
    return place


def finished(folder: Path, record: dict[str, Any], counts: bytes = COUNTS) -> Path:
    """A run folder with a record and its counts."""
    folder.mkdir()
    write(folder / "record.json", record)
    (folder / "confusion.npz").write_bytes(counts)
    return folder


def test_what_was_sealed_is_read_back(place: Path) -> None:
    assert read_record(write(place, GOOD)) == GOOD
    assert set(GOOD) == set(SCHEMA)
    assert GOOD["schema_version"] == SCHEMA_VERSION


def test_the_digest_does_not_depend_on_layout_or_order(place: Path) -> None:
    shuffled = dict(reversed(GOOD.items()))
    place.write_text(json.dumps(shuffled, indent=7, ensure_ascii=False))
    assert read_record(place) == GOOD


def test_a_record_torn_at_any_byte_is_refused(place: Path) -> None:
    whole = write(place, SMALL).read_bytes()
    for length in range(len(whole)):
        place.write_bytes(whole[:length])
        with pytest.raises(RecordError, match="torn record, not valid JSON"):
            read_record(place)
    place.write_bytes(whole)
    assert read_record(place) == SMALL


def test_a_flipped_bit_at_any_byte_is_refused(place: Path) -> None:
    whole = write(place, SMALL).read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1
        place.write_bytes(broken)
        with pytest.raises(RecordError):
            read_record(place)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every leaf in nested data."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, inner in pairs:
        nested = isinstance(inner, dict | list) and len(inner) > 0
        found += paths(inner, (*path, key)) if nested else [(*path, key)]
    return found


def test_every_single_value_is_covered_by_the_digest(place: Path) -> None:
    for path in paths(GOOD):
        edited = json.loads(json.dumps(GOOD))
        node = edited
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = "edited" if isinstance(node[path[-1]], str) else 7_654_321
        with pytest.raises(RecordError):
            read_record(write(place, edited))


def test_the_sentence_for_an_edited_record_says_what_to_do(place: Path) -> None:
    edited = {**GOOD, "metrics": {**GOOD["metrics"], "miou": 99.0}}
    with pytest.raises(RecordError) as caught:
        read_record(write(place, edited))
    assert str(caught.value) == (
        f"{place}: edited or damaged record, its content does not match its digest. "
        "Restore it from a copy, or delete it and run the sweep again."
    )


def test_a_newer_schema_is_left_to_a_newer_protoseg(place: Path) -> None:
    with pytest.raises(RecordError, match=r"record of schema 2, this protoseg reads up to 1\. Upd"):
        read_record(write(place, {**GOOD, "schema_version": 2, "something": "new"}))


@pytest.mark.parametrize(
    ("spelling", "problem"),
    [
        ("NaN", "NaN is not JSON"),
        ("Infinity", "Infinity is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        ("1e999", "does not match its digest"),
    ],
)
def test_numbers_that_are_none_are_refused(place: Path, spelling: str, problem: str) -> None:
    place.write_text(json.dumps(GOOD).replace("70.0", spelling))
    with pytest.raises(RecordError, match=re.escape(str(place)) + f".*{problem}"):
        read_record(place)


def test_nan_can_not_be_sealed() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal({**GOOD, "metrics": {"miou": math.nan}})


@pytest.mark.parametrize("key", sorted(set(SCHEMA) - {"schema_version"}))
def test_a_missing_key_is_named(place: Path, key: str) -> None:
    rest = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(RecordError, match=rf"incomplete record: '{key}' is missing\."):
        read_record(write(place, rest))
    if key != "digest":
        with pytest.raises(ValueError, match=f"not a record: '{key}' is missing"):
            seal(rest)


def test_an_unknown_key_and_a_wrong_type_are_named(place: Path) -> None:
    with pytest.raises(RecordError, match="'mood' is unknown"):
        read_record(write(place, {**GOOD, "mood": "good"}))
    with pytest.raises(RecordError, match="'metrics' is not of type"):
        read_record(write(place, {**GOOD, "metrics": []}))


@pytest.mark.parametrize("content", ["[]", "{}", "3", "null", '{"schema_version": "1"}'])
def test_json_that_is_no_record_is_refused(place: Path, content: str) -> None:
    place.write_text(content)
    with pytest.raises(RecordError, match="not a record of protoseg"):
        read_record(place)


def test_bytes_that_are_no_text_are_refused(place: Path) -> None:
    place.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="torn record"):
        read_record(place)
    place.write_text("[" * 100_000)
    with pytest.raises(RecordError, match="torn record"):
        read_record(place)


def test_no_record_is_another_thing_than_a_bad_one(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(place)


def test_counts_are_held_against_the_record(tmp_path: Path) -> None:
    counts = tmp_path / "confusion.npz"
    with pytest.raises(RecordError, match="are gone"):
        verify_confusion(GOOD, counts)
    counts.write_bytes(COUNTS)
    verify_confusion(GOOD, counts)
    counts.write_bytes(COUNTS + b"!")
    with pytest.raises(RecordError, match="do not match the record's digest"):
        verify_confusion(GOOD, counts)


def test_a_finished_run_is_published_with_its_counts(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", GOOD)
    published = publish(run, tmp_path / "results" / "records")
    assert published.name == f"{GOOD['run_id']}.json"
    assert read_record(published) == GOOD
    assert published.with_suffix(".npz").read_bytes() == COUNTS
    before = published.stat().st_mtime_ns
    assert publish(run, published.parent) == published
    assert published.stat().st_mtime_ns == before, "an identical record is not written again"


def test_counts_that_are_gone_are_published_again(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", GOOD)
    published = publish(run, tmp_path / "records")
    published.with_suffix(".npz").unlink()
    publish(run, tmp_path / "records")
    assert published.with_suffix(".npz").read_bytes() == COUNTS


def test_another_result_is_never_overwritten(tmp_path: Path) -> None:
    published = publish(finished(tmp_path / "run", GOOD), tmp_path / "records")
    other = seal({**GOOD, "metrics": {**GOOD["metrics"], "miou": 71.0}})
    with pytest.raises(RecordError, match="another result of the same run; it is kept"):
        publish(finished(tmp_path / "other", other), tmp_path / "records")
    assert read_record(published) == GOOD
    assert published.with_suffix(".npz").read_bytes() == COUNTS


def test_nothing_damaged_is_published_and_nothing_damaged_overwritten(tmp_path: Path) -> None:
    records_folder = tmp_path / "records"
    with pytest.raises(RecordError, match="do not match"):
        publish(finished(tmp_path / "bad counts", GOOD, b"other"), records_folder)
    with pytest.raises(RecordError, match="edited"):
        publish(finished(tmp_path / "edited", {**GOOD, "attempts": 5}), records_folder)
    assert not records_folder.exists()
    records_folder.mkdir()
    damaged = records_folder / f"{GOOD['run_id']}.json"
    damaged.write_text("{")
    with pytest.raises(RecordError, match="torn"):
        publish(finished(tmp_path / "run", GOOD), records_folder)
    assert damaged.read_text() == "{"


def test_a_publication_cut_short_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path / "run", GOOD)
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


# The diffs of a tree with changes

OWN, EARLIER = b"diff of the last attempt", b"diff of the first"


def with_diffs(folder: Path) -> dict[str, Any]:
    """A finished run whose two attempts ran other changes; its record."""
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
    finished(folder, record)
    (folder / "code.diff").write_bytes(OWN)
    (folder / name).write_bytes(EARLIER)
    return record


def test_the_diffs_of_all_attempts_are_published(tmp_path: Path) -> None:
    record = with_diffs(tmp_path / "run")
    published = publish(tmp_path / "run", tmp_path / "records")
    first = hashlib.sha256(EARLIER).hexdigest()[:10]
    assert published.with_suffix(".diff").read_bytes() == OWN
    assert (published.parent / f"{record['run_id']}.{first}.diff").read_bytes() == EARLIER
    assert len(list(published.parent.iterdir())) == 4
    published.with_suffix(".diff").unlink()
    publish(tmp_path / "run", tmp_path / "records")
    assert published.with_suffix(".diff").read_bytes() == OWN


def test_a_diff_that_is_damaged_or_gone_is_not_published(tmp_path: Path) -> None:
    with_diffs(tmp_path / "run")
    (tmp_path / "run" / "code.diff").write_bytes(OWN + b"!")
    with pytest.raises(RecordError, match="does not match the digest"):
        publish(tmp_path / "run", tmp_path / "records")
    (tmp_path / "run" / "code.diff").unlink()
    with pytest.raises(RecordError, match="is gone"):
        publish(tmp_path / "run", tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_another_diff_is_never_overwritten(tmp_path: Path) -> None:
    record = with_diffs(tmp_path / "run")
    kept = tmp_path / "records" / f"{record['run_id']}.diff"
    kept.parent.mkdir()
    kept.write_bytes(b"of someone else")
    with pytest.raises(RecordError, match="another diff"):
        publish(tmp_path / "run", kept.parent)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert kept.read_bytes() == b"of someone else"


@pytest.mark.parametrize("file", ["../code.diff", "/etc/passwd", "..", ".diff", 3, None])
def test_a_record_is_not_trusted_with_a_path(file: Any) -> None:
    origin = {"diff_sha256": "0" * 64, "diff_file": file, "attempts": ["?", {"diff_file": file}]}
    assert diffs(make_record(make_spec(), 70.0, provenance=origin)) == []


def test_records_of_older_versions_name_no_diff() -> None:
    assert diffs(GOOD) == []
