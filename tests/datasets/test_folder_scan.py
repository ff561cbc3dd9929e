"""Each real file is found once, under any spelling of its suffix; the rest is named."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout
from protoseg.datasets.check import check_data_set
from protoseg.datasets.folder_scan import scan_folder
from protoseg.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("suffix", "names", "left_out"),
    [
        (".jpg", ["a.jpg", "b.JPG", "c.jpeg", "d.JPEG", "e.Jpg"], ["f.png", "g.TIF"]),
        (".tif", ["a.tif", "b.TIFF"], ["c.jpg"]),
        ("_labels.png", ["a_labels.png", "b_Labels.PNG"], ["a_color.png"]),
    ],
)
def test_every_spelling_of_a_suffix_is_found_and_other_images_are_named(
    tmp_path: Path, suffix: str, names: list[str], left_out: list[str]
) -> None:
    touch(tmp_path, *names, *left_out, "notes.txt")
    scan = scan_folder(tmp_path, suffix)
    assert sorted(path.name for path in scan.files.values()) == names
    assert sorted(scan.files) == [chr(ord("a") + i) for i in range(len(names))]
    assert (scan.left_out, sorted(scan.left_out_names)) == (len(left_out), sorted(left_out))


@pytest.mark.parametrize("names", [("a.jpg", "a.JPG"), ("a.jpg", "a.jpeg"), ("é.jpg", "é.jpg")])
def test_two_files_of_one_name_are_an_error(tmp_path: Path, names: tuple[str, str]) -> None:
    first, second = names
    touch(tmp_path, first, unicodedata.normalize("NFD", second))
    with pytest.raises(DataError, match="has the same name as") as error:
        scan_folder(tmp_path, ".jpg")
    assert "Remove or rename one of them." in str(error.value)


def test_names_that_differ_in_case_are_two_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "A.jpg", "line\nbreak.jpg")
    assert sorted(scan_folder(tmp_path, ".jpg").files) == ["A", "a", "line\nbreak"]


def test_a_name_from_macos_fits_its_composed_form(toy: DatasetSpec, toy_root: Path) -> None:
    for folder, suffix, form in (("images", ".jpg", "NFD"), ("annotations", ".png", "NFC")):
        path = toy_root / folder / "train" / f"0{suffix}"
        path.rename(path.with_name(unicodedata.normalize(form, f"é{suffix}")))
    assert check_data_set(toy_root, toy).splits["train"].images == 3


def test_the_check_counts_and_names_images_of_other_suffixes(
    toy: DatasetSpec, toy_root: Path
) -> None:
    images, maps = (toy_root / folder / "train" for folder in ("images", "annotations"))
    shutil.copy(images / "0.jpg", images / "upper.JPG")
    shutil.copy(maps / "0.png", maps / "upper.PNG")
    shutil.copy(images / "0.jpg", images / "other.webp")
    report = check_data_set(toy_root, toy)
    assert report.splits["train"].images == 4
    assert f"{images}: 1 files end in '.JPG' instead of '.jpg' and are used too." in report.notes
    left_out = f"{images}: 1 image does not end in '.jpg' and will not be used: other.webp."
    assert left_out in report.notes


def test_a_folder_that_holds_itself_is_read_once(toy: DatasetSpec, toy_root: Path) -> None:
    expected = layout.find_pairs(toy_root, toy, "val")
    for folder in ("images", "annotations"):
        split = toy_root / folder / "val"
        (split / "val").symlink_to(split)  # `ln -s DIR val` run twice
        (split / "up").symlink_to(split.parent)
    assert expected == [
        pair for pair in layout.find_pairs(toy_root, toy, "val") if pair.image.parent.name == "val"
    ]
    names = [pair.image.resolve() for pair in layout.find_pairs(toy_root, toy, "val")]
    assert len(names) == len(set(names))


def test_two_links_to_each_other_end(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        touch(tmp_path, f"{name}/{name}.jpg")
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    assert sorted(scan_folder(tmp_path, ".jpg").files) == ["a/a", "b/b"]
    (tmp_path / "dangling").symlink_to(tmp_path / "dangling")
    assert len(scan_folder(tmp_path, ".jpg").files) == 2


def test_a_link_out_of_the_root_is_named(toy: DatasetSpec, toy_root: Path, tmp_path: Path) -> None:
    images = toy_root / "images" / "val"
    shutil.move(images, tmp_path / "elsewhere")
    images.symlink_to(tmp_path / "elsewhere")
    notes = check_data_set(toy_root, toy).notes
    target = (tmp_path / "elsewhere").resolve()
    assert notes == (f"{images}: is a link to {target}, outside of the data set's folder.",)
    inside = toy_root / "annotations" / "train" / "more"
    inside.symlink_to(toy_root / "annotations" / "val")
    assert all("annotations" not in note for note in layout.describe_oddities(
        toy_root, toy, "train"
    ))  # fmt: skip


def test_names_that_are_not_utf8_are_read_and_cached(
    toy: DatasetSpec, toy_root: Path, cache: Path
) -> None:
    for folder, suffix in (("images", ".jpg"), ("annotations", ".png")):
        path = toy_root / folder / "val" / f"0{suffix}"
        latin = Path(os.fsdecode(os.fsencode(path.parent) + b"/\xfcber" + suffix.encode()))
        path.rename(latin)
        os.utime(latin, (1e9, 1e9))  # old enough for the cache of digests
    first, second = (check_data_set(toy_root, toy) for _ in range(2))
    assert first.digest == second.digest
    assert first.splits["val"].images == 2
    (cached,) = (cache / "digests").iterdir()
    assert "\\udcfc" in cached.read_text(encoding="utf-8")
    latin.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be decoded"):
        check_data_set(toy_root, toy)
