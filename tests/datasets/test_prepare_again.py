"""A preparation that is killed, repeated or disturbed ends as one that was not."""

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
from protoseg.datasets.check import check
from protoseg.datasets.prepare.registry import PLANS
from protoseg.datasets.prepare.runner import LOCK, PART, prepare
from protoseg.errors import DataError, ProtosegError

COPIES = 3
DATASET = read_spec("coco_stuff")


@pytest.fixture(scope="module")
def source(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fixture = test_data / "fixtures" / "coco_stuff"
    if not fixture.is_dir():
        pytest.skip(f"needs {fixture}")
    return raw.coco_stuff(fixture, tmp_path_factory.mktemp("raw"), COPIES)


def made(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    options = {"jobs": 1, "progress": None, **options}
    return prepare(PLANS["coco_stuff"](source, DATASET), DATASET, target, **options)


def files(root: Path) -> dict[str, bytes]:
    """Everything that is there, except for the lock."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != LOCK
    }


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    target = tmp_path_factory.mktemp("whole") / "coco_stuff"
    made(source, target)
    return files(target)


def same(target: Path, undisturbed: dict[str, bytes]) -> None:
    found = files(target)
    assert sorted(found) == sorted(undisturbed)
    assert [name for name in found if found[name] != undisturbed[name]] == []


PAUSES = """
import sys, time
from protoseg.cli import main
from protoseg.datasets.prepare.journal import Journal
write, written = Journal.write, []
def pause(self, entry):
    write(self, entry)
    written.append(entry)
    while len(written) == 8:
        time.sleep(600)
Journal.write = pause
sys.exit(main(sys.argv[1:]))
"""
"""The command line, which stops after 8 lines of the journal."""


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_in_the_middle_and_called_again(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes], jobs: int
) -> None:
    target = tmp_path / "coco_stuff"
    words = ["data", "prepare", "coco_stuff", "--from", str(source), "--data", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSES, *words, "--jobs", str(jobs)],
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
        assert len(children) == (3 if jobs == 2 else 0), "two workers and a resource tracker"
    finally:
        process.kill()
        # Its workers have the pipe open, too: it ends when the last of them has ended.
        _, errors = finish(process)
    assert process.returncode == -signal.SIGKILL, errors
    assert not (target / "prepared.json").exists()
    there = sum(1 for path in target.rglob("*.*g") if not path.name.startswith("."))
    assert there == 8 if jobs == 1 else 8 <= there <= 2 * 21 * COPIES
    with open(journal, "ab") as file:
        file.write(b'{"target": "annotations/val2017/00000000000')  # a line cut short
    torn = target / "annotations" / "train2017" / f"{PART}-99-000.png"
    torn.parent.mkdir(parents=True, exist_ok=True)
    torn.write_bytes(b"half")
    again = made(source, target)
    assert again["already_there"] == 8
    same(target, undisturbed)


def test_a_second_call_makes_nothing_and_originals_are_as_they_were(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    target = tmp_path / "coco_stuff"
    originals = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in source.rglob("*.*g")}
    made(source, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.png")}
    seen: list[tuple[int, int]] = []
    again = made(source, target, progress=lambda done, total: seen.append((done, total)))
    total = 2 * 21 * COPIES
    assert (again["already_there"], seen) == (total, [(total, total)])
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*.png")} == before
    same(target, undisturbed)
    assert originals == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in source.rglob("*.*g")}
    image = next((target / "images").rglob("*.jpg"))
    assert image.stat().st_nlink > 1, "linked: it takes no space"


def test_a_folder_of_images_may_be_a_link_of_the_users_own(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    target, before = tmp_path / "coco_stuff", files(source)
    target.mkdir()
    (target / "images").symlink_to(source / "images", target_is_directory=True)
    manifest = made(source, target)
    assert manifest["files"] == {"linked": 21 * COPIES, "made": 21 * COPIES}
    assert files(source) == before
    assert (target / "images").is_symlink()
    labels = {name: data for name, data in undisturbed.items() if name.startswith("annotations")}
    assert {name: files(target)[name] for name in labels} == labels


def test_nothing_is_written_through_a_link(source: Path, tmp_path: Path) -> None:
    target, before = tmp_path / "coco_stuff", files(source)
    (target / "annotations").mkdir(parents=True)
    theirs = source / "annotations" / "train2017"
    (target / "annotations" / "train2017").symlink_to(theirs, target_is_directory=True)
    with pytest.raises(DataError, match="and nothing is written through it"):
        made(source, target)
    assert files(source) == before


def test_what_was_cut_or_lost_is_made_again_and_nothing_else(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    target = tmp_path / "coco_stuff"
    made(source, target)
    labels = sorted((target / "annotations").rglob("*.png"))
    images = sorted((target / "images").rglob("*.jpg"))
    labels[0].write_bytes(labels[0].read_bytes()[:100])
    labels[5].unlink()
    images[3].unlink()
    again = made(source, target)
    assert again["already_there"] == 2 * 21 * COPIES - 3
    same(target, undisturbed)


def test_a_source_that_was_put_right_is_read_again(source: Path, tmp_path: Path) -> None:
    copied = tmp_path / "raw"
    shutil.copytree(source, copied)
    first = sorted((copied / "annotations/train2017").iterdir())[0]
    whole = first.read_bytes()
    first.write_bytes(whole[:300])
    with pytest.raises(DataError, match=rf"{first.name}: can not be decoded"):
        made(copied, tmp_path / "coco_stuff")
    first.write_bytes(whole)
    again = made(copied, tmp_path / "coco_stuff")
    assert again["already_there"] == 2 * 21 * COPIES - 1
    second = sorted((copied / "annotations/train2017").iterdir())[1]
    first.write_bytes(second.read_bytes())
    assert made(copied, tmp_path / "coco_stuff")["already_there"] == 2 * 21 * COPIES - 1


def test_two_at_once(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "coco_stuff"
    target.mkdir()
    with open(target / LOCK, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ProtosegError, match="another process is preparing this folder"):
            made(source, target)


def test_the_manifest_says_what_was_made_from_what(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "coco_stuff"
    manifest = made(source, target)
    assert json.loads((target / "prepared.json").read_text()) == {
        key: value for key, value in manifest.items() if key != "already_there"
    }
    count = 21 * COPIES
    assert manifest["files"] == {"made": count, "linked": count}
    assert manifest["images"] == {"train2017": 13 * COPIES, "val2017": 8 * COPIES}
    assert manifest["source"] == str(source)
    report = check(target, dataclasses.replace(DATASET, counts=manifest["images"]))
    assert report.digest == manifest["digest"]
    lines = [json.loads(line) for line in (target / "prepared.jsonl").read_text().splitlines()]
    assert [line["target"] for line in lines] == sorted(
        path.relative_to(target).as_posix() for path in target.rglob("*.*g")
    )
    assert {(source / line["source"]).stat().st_size for line in lines} == {
        line["source_bytes"] for line in lines
    }
