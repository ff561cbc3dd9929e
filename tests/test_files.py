"""Atomic files: whole or absent after kills, full disks and other failures."""

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

OLD = {"version": "old"}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "value.json"
    files.write_json(path, OLD)
    return path


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    yield from _mount(tmp_path / "tiny", "size=64k")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A read-only file system with a file ``value.json``."""
    for folder in _mount(tmp_path / "readonly", "size=64k"):
        files.write_json(folder / "value.json", OLD)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield folder


def _mount(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory; skip the test if that is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
        problem = " ".join(mounted.stderr.split()) if mounted.returncode else ""
    except FileNotFoundError:
        problem = "no command mount"
    if problem:
        pytest.skip(f"needs to mount a file system: {problem}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_written_value_is_read_back(target: Path) -> None:
    assert files.read_json(target) == OLD
    files.write_json(target, {"ü": [1, 2.5, None]})
    assert json.loads(target.read_text(encoding="utf-8")) == {"ü": [1, 2.5, None]}
    assert names(target.parent) == ["value.json"]


def test_a_missing_or_torn_file_reads_as_none(target: Path) -> None:
    assert files.read_json(target.with_name("other.json")) is None
    assert files.read_json(target / "below a file.json") is None
    for length in range(len('{"version": "old"')):
        target.write_bytes(b'{"version": "old"'[:length])
        assert files.read_json(target) is None


def test_nan_is_rejected_and_the_old_file_kept(target: Path) -> None:
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
files.write_json(pathlib.Path(sys.argv[1]), {"version": "new", "long": "x" * 100_000})
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_before_the_rename_keeps_the_old_file(target: Path, moment: str) -> None:
    writer = start(KILLED, target, moment)
    assert next_line(writer) == "here"
    assert len(names(target.parent)) == 2, "the new content is in a temporary file"
    kill(writer)
    assert files.read_json(target) == OLD


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_file(target: Path) -> None:
    code = """
import pathlib, sys
from protoseg import files
print("ready", flush=True)
number = 0
while True:
    number += 1
    files.write_json(pathlib.Path(sys.argv[1]), {"version": [number] * 3000})
"""
    for delay in (0.0, 0.004, 0.009, 0.017, 0.03):  # arbitrary moments
        writer = start(code, target)
        next_line(writer)
        time.sleep(delay)
        kill(writer)
        value = files.read_json(target)
        assert value == OLD or len(set(value["version"])) == 1


def test_a_full_disk_gives_one_message_and_keeps_the_old_file(tiny_disk: Path) -> None:
    path = tiny_disk / "value.json"
    files.write_json(path, OLD)
    with pytest.raises(StorageError) as caught:
        files.write_bytes(path, os.urandom(200_000))
    assert str(caught.value) == (
        f"{path}: no space left on the disk (or the quota is used up). Nothing finished was lost; "
        "free some space, or choose another folder (--runs, --results, --data, --weights, --out, "
        "--into)."
    )
    assert files.read_json(path) == OLD
    assert names(tiny_disk) == ["value.json"], "the half-written file is removed"


def test_no_file_is_created_on_a_full_disk(tiny_disk: Path) -> None:
    with pytest.raises(StorageError, match="no space left"):
        files.create_json(tiny_disk / "new.json", {"x": "y" * 200_000})
    assert names(tiny_disk) == []


def test_a_file_over_the_size_limit_keeps_the_old_one(target: Path) -> None:
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


def test_a_read_only_disk_gives_one_message(read_only_disk: Path) -> None:
    path = read_only_disk / "value.json"
    message = f"{path}: no permission to write here. Nothing finished was lost; change"
    with pytest.raises(StorageError) as caught:
        files.write_json(path, {"version": "new"})
    assert str(caught.value).startswith(message)
    with pytest.raises(StorageError, match="no permission"):
        files.create_json(read_only_disk / "other.json", {})
    with pytest.raises(StorageError, match="no permission"):
        files.make_folder(read_only_disk / "folder")
    assert files.read_json(path) == OLD


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_gives_one_message(target: Path) -> None:
    target.parent.chmod(0o555)
    try:
        with pytest.raises(StorageError, match="no permission to write here"):
            files.write_json(target, {"version": "new"})
    finally:
        target.parent.chmod(0o755)


def test_a_failure_while_writing_keeps_the_old_file(target: Path) -> None:
    def fail(file: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(StorageError, match=r"Input/output error\. Nothing finished was lost; fix"):
        files.write_with(target, fail)
    assert files.read_json(target) == OLD
    assert names(target.parent) == ["value.json"]


def test_one_of_many_creators_writes_the_file(tmp_path: Path) -> None:
    code = """
from pathlib import Path
created = files.create_json(Path(sys.argv[1]), {"pid": os.getpid(), "long": "x" * 50_000})
print(os.getpid() if created else "exists")
"""
    path = tmp_path / "one.json"
    printed = race(code, path)
    (creator,) = [text for text in printed if text != "exists"]
    assert files.read_json(path)["pid"] == int(creator)
    assert names(tmp_path) == ["one.json"]


def test_a_second_creation_keeps_the_file(target: Path) -> None:
    assert not files.create_json(target, {"version": "new"})
    assert files.read_json(target) == OLD


def test_no_file_is_writable_by_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.write_json(tmp_path / "written.json", 1)
        files.create_json(tmp_path / "created.json", 1)
        files.make_folder(tmp_path / "folder" / "inner")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o002 == 0, path


def test_files_are_writable_by_the_group_if_the_umask_permits_it(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        files.make_folder(tmp_path / "folder")
        files.write_json(tmp_path / "written.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o775
    assert (tmp_path / "written.json").stat().st_mode & 0o777 == 0o664


def test_canonical_json_is_the_same_for_equal_values() -> None:
    value = {"b": [1, 2.5, None], "a": "\u00fc"}
    assert files.canonical_json(value) == b'{"a":"\\u00fc","b":[1,2.5,null]}'
    assert files.canonical_json(dict(reversed(value.items()))) == files.canonical_json(value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.canonical_json({"loss": math.inf})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        (" \n\t\n", ""),
        ("one\ntwo", "two"),
        ("one\n  two  \n\n \n", "two"),
        ("10%\r100%\n", "100%"),
        ("x" * 400, "x" * 300),
    ],
)
def test_the_last_line_is_the_last_that_is_not_blank(tmp_path: Path, text: str, line: str) -> None:
    log = tmp_path / "log.txt"
    log.write_text("first\n" * 2000 * bool(line) + text)
    assert files.last_line(text) == line
    assert files.read_last_line(log) == line


def test_a_log_that_cannot_be_read_has_no_last_line(tmp_path: Path) -> None:
    assert files.read_last_line(tmp_path / "missing.txt") == ""
    assert files.read_last_line(tmp_path) == ""
    (tmp_path / "binary.txt").write_bytes(b"one\n\xff\xfe\n")
    assert files.read_last_line(tmp_path / "binary.txt") == "\ufffd\ufffd"


def test_a_file_name_that_is_not_utf8_survives_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xfcber.jpg")
    files.write_json(tmp_path / "a.json", {name: ["ü", name]})
    assert files.read_json(tmp_path / "a.json") == {name: ["ü", name]}
    (tmp_path / "a.json").read_text(encoding="utf-8")
