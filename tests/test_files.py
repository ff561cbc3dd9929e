"""Files are whole or absent, whatever dies or runs out in between."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs.processes import finish, kill, next_line, race, start

from protoseg import files
from protoseg.files import StorageError

OLD = {"who": "old"}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "value.json"
    files.write_json(path, OLD)
    return path


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    yield from _mounted(tmp_path / "tiny", "size=64k")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    for place in _mounted(tmp_path / "readonly", "size=64k"):
        files.write_json(place / "value.json", OLD)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield place


def _mounted(place: Path, options: str) -> Iterator[Path]:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
        problem = " ".join(mounted.stderr.split()) if mounted.returncode else ""
    except FileNotFoundError:
        problem = "no command mount"
    if problem:
        pytest.skip(f"needs to mount a file system: {problem}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_what_was_written_is_read_back(target: Path) -> None:
    assert files.read_json(target) == OLD
    files.write_json(target, {"ü": [1, 2.5, None]})
    assert json.loads(target.read_text(encoding="utf-8")) == {"ü": [1, 2.5, None]}
    assert names(target.parent) == ["value.json"]


def test_a_missing_and_a_torn_file_read_as_nothing(target: Path) -> None:
    assert files.read_json(target.with_name("other.json")) is None
    assert files.read_json(target / "below a file.json") is None
    for length in range(len('{"who": "old"')):
        target.write_bytes(b'{"who": "old"'[:length])
        assert files.read_json(target) is None


def test_nan_is_refused_and_the_old_file_stays(target: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(target, {"loss": math.nan})
    assert files.read_json(target) == OLD
    assert names(target.parent) == ["value.json"]


KILLED = """
import os, pathlib, sys, time
from protoseg import files
def stop(*_):
    print("here", flush=True)
    time.sleep(600)
setattr(os, sys.argv[2], stop)
files.write_json(pathlib.Path(sys.argv[1]), {"who": "new", "long": "x" * 100_000})
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_before_the_rename_leaves_the_old_file_whole(target: Path, moment: str) -> None:
    writer = start(KILLED, target, moment)
    assert next_line(writer) == "here"
    assert len(names(target.parent)) == 2, "the new content lies in a file of its own"
    kill(writer)
    assert files.read_json(target) == OLD


def test_kills_at_any_moment_leave_the_old_or_the_new_file(target: Path) -> None:
    code = """
import pathlib, sys
from protoseg import files
print("ready", flush=True)
number = 0
while True:
    number += 1
    files.write_json(pathlib.Path(sys.argv[1]), {"who": [number] * 3000})
"""
    for delay in (0.0, 0.004, 0.009, 0.017, 0.03):  # arbitrary moments, nothing waits for them
        writer = start(code, target)
        next_line(writer)
        time.sleep(delay)
        kill(writer)
        value = files.read_json(target)
        assert value == OLD or len(set(value["who"])) == 1


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tiny_disk: Path) -> None:
    path = tiny_disk / "value.json"
    files.write_json(path, OLD)
    with pytest.raises(StorageError) as caught:
        files.write_bytes(path, os.urandom(200_000))
    assert str(caught.value) == (
        f"{path}: no space left on the disk (or the quota is used up). Nothing finished was lost; "
        "free some space, or choose another folder (--runs, --results, --data, --weights, --out)."
    )
    assert files.read_json(path) == OLD
    assert names(tiny_disk) == ["value.json"], "the half-written file was taken away"


def test_a_full_disk_creates_nothing(tiny_disk: Path) -> None:
    with pytest.raises(StorageError, match="no space left"):
        files.create_json(tiny_disk / "new.json", {"x": "y" * 200_000})
    assert names(tiny_disk) == []


def test_a_file_too_large_for_its_process_leaves_the_old_one(target: Path) -> None:
    code = """
import pathlib, resource, signal, sys
from protoseg import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_bytes(pathlib.Path(sys.argv[1]), b"x" * 100_000)
except files.StorageError as error:
    print(error)
"""
    assert "File too large. Nothing finished was lost" in finish(start(code, target))
    assert files.read_json(target) == OLD
    assert names(target.parent) == ["value.json"]


def test_a_read_only_disk_is_one_sentence(read_only_disk: Path) -> None:
    path = read_only_disk / "value.json"
    sentence = f"{path}: no permission to write here. Nothing finished was lost; change"
    with pytest.raises(StorageError) as caught:
        files.write_json(path, {"who": "new"})
    assert str(caught.value).startswith(sentence)
    with pytest.raises(StorageError, match="no permission"):
        files.create_json(read_only_disk / "other.json", {})
    with pytest.raises(StorageError, match="no permission"):
        files.make_folder(read_only_disk / "folder")
    assert files.read_json(path) == OLD


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_sentence(target: Path) -> None:
    target.parent.chmod(0o555)
    try:
        with pytest.raises(StorageError, match="no permission to write here"):
            files.write_json(target, {"who": "new"})
    finally:
        target.parent.chmod(0o755)


def test_a_failure_while_writing_leaves_the_old_file(target: Path) -> None:
    def fail(file: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(StorageError, match=r"Input/output error\. Nothing finished was lost; put"):
        files.write_with(target, fail)
    assert files.read_json(target) == OLD
    assert names(target.parent) == ["value.json"]


def test_of_many_creators_one_wins_and_its_content_stays(tmp_path: Path) -> None:
    code = """
from pathlib import Path
won = files.create_json(Path(sys.argv[1]), {"pid": os.getpid(), "long": "x" * 50_000})
print(os.getpid() if won else "lost")
"""
    path = tmp_path / "one.json"
    printed = race(code, path)
    (winner,) = [text for text in printed if text != "lost"]
    assert files.read_json(path)["pid"] == int(winner)
    assert names(tmp_path) == ["one.json"]


def test_a_second_creation_changes_nothing(target: Path) -> None:
    assert not files.create_json(target, {"who": "new"})
    assert files.read_json(target) == OLD


def test_nothing_is_writable_by_all_the_world_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.write_json(tmp_path / "written.json", 1)
        files.create_json(tmp_path / "created.json", 1)
        files.make_folder(tmp_path / "folder" / "inner")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o002 == 0, path


def test_a_group_shares_what_its_umask_lets_it_share(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        files.make_folder(tmp_path / "folder")
        files.write_json(tmp_path / "written.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o775
    assert (tmp_path / "written.json").stat().st_mode & 0o777 == 0o664
