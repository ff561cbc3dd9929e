"""The digest depends only on content and names; its cache only saves time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import digest
from protoseg.errors import DataError


def make_old(root: Path) -> None:
    """Give the files an old modification time; only old files are cached."""
    for path in root.rglob("*.*"):
        os.utime(path, ns=(10**18, 10**18))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content is read."""
    names: list[str] = []
    file_digest = hashlib.file_digest

    def record_name(file, *args):  # type: ignore[no-untyped-def]
        names.append(Path(file.name).name)
        return file_digest(file, *args)

    monkeypatch.setattr(hashlib, "file_digest", record_name)
    return names


def test_the_digest_is_a_hash_of_names_sizes_and_content_hashes(
    toy: DatasetSpec, toy_root: Path
) -> None:
    lines = []
    for path in sorted(toy_root.rglob("*.*"), key=lambda path: path.as_posix()):
        content = path.read_bytes()
        name = path.relative_to(toy_root).as_posix()
        lines.append(json.dumps([name, len(content), hashlib.sha256(content).hexdigest()]) + "\n")
    assert len(lines) == 10
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digest.folder_digest(toy_root, toy) == expected


def test_location_times_and_other_files_do_not_change_the_digest(
    toy: DatasetSpec, toy_root: Path, tmp_path: Path
) -> None:
    before = digest.folder_digest(toy_root, toy)
    moved = Path(shutil.copytree(toy_root, tmp_path / "other", copy_function=shutil.copyfile))
    make_old(moved)
    (moved / "README.md").write_text("a note beside the data")
    (moved / "images/train/.DS_Store").write_text("x")
    assert digest.folder_digest(moved, toy) == before


def test_one_bit_or_one_name_changes_the_digest(toy: DatasetSpec, toy_root: Path) -> None:
    before = digest.folder_digest(toy_root, toy)
    path = toy_root / "images/val/0.jpg"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    after_bit = digest.folder_digest(toy_root, toy)
    for folder, suffix in (("images", ".jpg"), ("annotations", ".png")):
        (toy_root / folder / f"val/0{suffix}").rename(toy_root / folder / f"val/9{suffix}")
    assert len({before, after_bit, digest.folder_digest(toy_root, toy)}) == 3


def test_the_content_of_a_file_is_read_once(
    toy: DatasetSpec, toy_root: Path, cache: Path, opened: list[str]
) -> None:
    make_old(toy_root)
    first = digest.folder_digest(toy_root, toy)
    assert len(opened) == 10
    assert list(cache.rglob("*.json"))
    assert digest.folder_digest(toy_root, toy) == first
    assert len(opened) == 10
    (toy_root / "images/val/0.jpg").write_bytes(b"changed")
    assert digest.folder_digest(toy_root, toy) != first
    assert opened[10:] == ["0.jpg"]


def test_files_just_written_are_not_cached(
    toy: DatasetSpec, toy_root: Path, opened: list[str]
) -> None:
    make_old(toy_root)
    os.utime(toy_root / "images/val/0.jpg")
    digest.folder_digest(toy_root, toy)
    digest.folder_digest(toy_root, toy)
    assert opened[10:] == ["0.jpg"]


@pytest.mark.parametrize("content", ["", '{"images/', "[]", '{"images/train/0.jpg": [1]}', "\x00"])
def test_an_invalid_cache_is_ignored_and_replaced(
    toy: DatasetSpec, toy_root: Path, cache: Path, content: str
) -> None:
    make_old(toy_root)
    expected = digest.folder_digest(toy_root, toy)
    (file,) = cache.rglob("*.json")
    file.write_text(content)
    assert digest.folder_digest(toy_root, toy) == expected
    assert len(json.loads(file.read_text())) == 10


def test_an_unwritable_cache_folder_is_ignored(
    toy: DatasetSpec, toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(toy_root)
    expected = digest.folder_digest(toy_root, toy)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PROTOSEG_CACHE", str(tmp_path / "file" / "cache"))
    assert digest.folder_digest(toy_root, toy) == expected


def test_verify_compares_the_digest_with_the_spec(changed, toy_root: Path) -> None:
    expected = digest.verify_digest(toy_root, changed())
    assert digest.verify_digest(toy_root, changed(digest=expected)) == expected
    (toy_root / "images/val/0.jpg").write_bytes(b"changed")
    with pytest.raises(DataError, match=f"expected {expected}.*dataset.digest=") as error:
        digest.verify_digest(toy_root, changed(digest=expected))
    assert digest.verify_digest(toy_root, changed()) in str(error.value)


def test_verify_reports_missing_files(toy: DatasetSpec, toy_root: Path) -> None:
    (toy_root / "images/val/0.jpg").unlink()
    with pytest.raises(DataError, match="has no image"):
        digest.verify_digest(toy_root, toy)
