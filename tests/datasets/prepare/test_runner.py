"""A preparation that is killed, repeated or damaged ends with the same files."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import finish, wait_until

from datasets import raw
from datasets.helpers import REPOSITORY, read_spec
from protoseg.datasets.check import check_data_set
from protoseg.datasets.prepare.output_files import PART
from protoseg.datasets.prepare.registry import PREPARATIONS
from protoseg.datasets.prepare.runner import LOCK, prepare_data_set
from protoseg.errors import DataError, ProtosegError

COPIES = 3
DATASET = read_spec("coco_stuff")


@pytest.fixture(scope="module")
def source(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fixture = test_data / "fixtures" / "coco_stuff"
    if not fixture.is_dir():
        pytest.skip(f"needs {fixture}")
    return raw.coco_stuff(fixture, tmp_path_factory.mktemp("raw"), COPIES)


def prepare_coco_stuff(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    options = {"jobs": 1, "progress": None, **options}
    preparation = PREPARATIONS["coco_stuff"](source, DATASET)
    return prepare_data_set(preparation, DATASET, target, **options)


def read_files(root: Path) -> dict[str, bytes]:
    """The content of all files, except the lock."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != LOCK
    }


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a preparation without interruption."""
    target = tmp_path_factory.mktemp("whole") / "coco_stuff"
    prepare_coco_stuff(source, target)
    return read_files(target)


def assert_same_files(target: Path, expected: dict[str, bytes]) -> None:
    files = read_files(target)
    assert sorted(files) == sorted(expected)
    assert [name for name in files if files[name] != expected[name]] == []


PAUSES = """
import sys, time
from protoseg.cli import main
from protoseg.datasets.prepare.journal import Journal
append, written = Journal.append_entry, []
def pause(self, entry):
    append(self, entry)
    written.append(entry)
    while len(written) == 8:
        time.sleep(600)
Journal.append_entry = pause
sys.exit(main(sys.argv[1:]))
"""
"""The command line, paused after 8 lines of the journal."""


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_preparation_is_resumed(
    source: Path, tmp_path: Path, expected: dict[str, bytes], jobs: int
) -> None:
    target = tmp_path / "coco_stuff"
    arguments = ["data", "prepare", "coco_stuff", "--from", str(source), "--data", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSES, *arguments, "--jobs", str(jobs)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = target / "prepared.jsonl"

    def has_paused() -> bool:
        return process.poll() is not None or (
            journal.exists() and journal.read_bytes().count(b"\n") == 8
        )

    try:
        wait_until(has_paused, "8 lines in the journal")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == (3 if jobs == 2 else 0), (
            "with 2 jobs: two workers and a resource tracker"
        )
    finally:
        process.kill()
        # The workers hold the pipe open until the last of them ends.
        _, errors = finish(process)
    assert process.returncode == -signal.SIGKILL, errors
    assert not (target / "prepared.json").exists()
    count = sum(1 for path in target.rglob("*.*g") if not path.name.startswith("."))
    assert count == 8 if jobs == 1 else 8 <= count <= 2 * 21 * COPIES
    with open(journal, "ab") as file:
        file.write(b'{"target": "annotations/val2017/00000000000')  # an incomplete line
    part = target / "annotations" / "train2017" / f"{PART}-99-000.png"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"half")
    manifest = prepare_coco_stuff(source, target)
    assert manifest["already_there"] == 8
    assert_same_files(target, expected)


def test_a_second_call_makes_no_files_and_keeps_the_sources_unchanged(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    target = tmp_path / "coco_stuff"
    originals = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in source.rglob("*.*g")}
    prepare_coco_stuff(source, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.png")}
    calls: list[tuple[int, int]] = []
    manifest = prepare_coco_stuff(
        source, target, progress=lambda done, total: calls.append((done, total))
    )
    total = 2 * 21 * COPIES
    assert (manifest["already_there"], calls) == (total, [(total, total)])
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*.png")} == before
    assert_same_files(target, expected)
    assert originals == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in source.rglob("*.*g")}
    image = next((target / "images").rglob("*.jpg"))
    assert image.stat().st_nlink > 1, "a hard link"


def test_a_folder_of_images_may_be_a_link_made_by_the_user(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    target, before = tmp_path / "coco_stuff", read_files(source)
    target.mkdir()
    (target / "images").symlink_to(source / "images", target_is_directory=True)
    manifest = prepare_coco_stuff(source, target)
    assert manifest["files"] == {"linked": 21 * COPIES, "made": 21 * COPIES}
    assert read_files(source) == before
    assert (target / "images").is_symlink()
    labels = {name: data for name, data in expected.items() if name.startswith("annotations")}
    assert {name: read_files(target)[name] for name in labels} == labels


def test_no_file_is_written_through_a_link(source: Path, tmp_path: Path) -> None:
    target, before = tmp_path / "coco_stuff", read_files(source)
    (target / "annotations").mkdir(parents=True)
    labels = source / "annotations" / "train2017"
    (target / "annotations" / "train2017").symlink_to(labels, target_is_directory=True)
    with pytest.raises(DataError, match="files are never written through a link"):
        prepare_coco_stuff(source, target)
    assert read_files(source) == before


def test_only_truncated_and_missing_files_are_made_again(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    target = tmp_path / "coco_stuff"
    prepare_coco_stuff(source, target)
    labels = sorted((target / "annotations").rglob("*.png"))
    images = sorted((target / "images").rglob("*.jpg"))
    labels[0].write_bytes(labels[0].read_bytes()[:100])
    labels[5].unlink()
    images[3].unlink()
    manifest = prepare_coco_stuff(source, target)
    assert manifest["already_there"] == 2 * 21 * COPIES - 3
    assert_same_files(target, expected)


def test_a_repaired_source_is_read_again(source: Path, tmp_path: Path) -> None:
    copied = tmp_path / "raw"
    shutil.copytree(source, copied)
    first = sorted((copied / "annotations/train2017").iterdir())[0]
    content = first.read_bytes()
    first.write_bytes(content[:300])
    with pytest.raises(DataError, match=rf"{first.name}: cannot be decoded"):
        prepare_coco_stuff(copied, tmp_path / "coco_stuff")
    first.write_bytes(content)
    manifest = prepare_coco_stuff(copied, tmp_path / "coco_stuff")
    assert manifest["already_there"] == 2 * 21 * COPIES - 1
    second = sorted((copied / "annotations/train2017").iterdir())[1]
    first.write_bytes(second.read_bytes())
    assert (
        prepare_coco_stuff(copied, tmp_path / "coco_stuff")["already_there"] == 2 * 21 * COPIES - 1
    )


def test_a_second_process_gets_an_error_while_the_first_prepares(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "coco_stuff"
    target.mkdir()
    with open(target / LOCK, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ProtosegError, match="another process is preparing this folder"):
            prepare_coco_stuff(source, target)


def test_manifest_and_journal_record_sources_counts_and_digest(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "coco_stuff"
    manifest = prepare_coco_stuff(source, target)
    assert json.loads((target / "prepared.json").read_text()) == {
        key: value for key, value in manifest.items() if key != "already_there"
    }
    count = 21 * COPIES
    assert manifest["files"] == {"made": count, "linked": count}
    assert manifest["images"] == {"train2017": 13 * COPIES, "val2017": 8 * COPIES}
    assert manifest["source"] == str(source)
    report = check_data_set(target, dataclasses.replace(DATASET, counts=manifest["images"]))
    assert report.digest == manifest["digest"]
    lines = [json.loads(line) for line in (target / "prepared.jsonl").read_text().splitlines()]
    assert [line["target"] for line in lines] == sorted(
        path.relative_to(target).as_posix() for path in target.rglob("*.*g")
    )
    assert {(source / line["source"]).stat().st_size for line in lines} == {
        line["source_bytes"] for line in lines
    }
