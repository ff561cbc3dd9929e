"""The images that operands name, and the names of their outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoseg.errors import UsageError
from protoseg.inference.output.image_list import list_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.PNG", "sub/c.tif", "sub/deep/d.jpeg", ".hidden.jpg", "notes.txt",
                 ".cache/e.jpg", "out/labels/a.png"):  # fmt: skip
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def names(photos: Path, *operands: str) -> list[str]:
    return [image.name for image in list_images(operands, photos / "out")]


def test_a_folder_has_its_images_without_the_output_folder(photos: Path) -> None:
    assert names(photos, str(photos)) == ["a", "b", "sub/c", "sub/deep/d"]


def test_the_output_folder_is_recognised_by_any_path(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ["a", "b", "sub/c", "sub/deep/d"]
    monkeypatch.chdir(photos / "sub")
    assert names(photos, "..") == expected
    (photos.parent / "link").symlink_to(photos)
    assert names(photos, str(photos.parent / "link")) == expected
    assert names(photos, "../**/*.jp*g") == ["a", "sub/deep/d"]
    with pytest.raises(UsageError, match="has no image"):
        names(photos, "../**/a.png")


def test_files_keep_their_order_and_are_listed_once(photos: Path) -> None:
    a, text = str(photos / "a.jpg"), str(photos / "notes.txt")
    assert names(photos, text, a, str(photos / "sub" / ".." / "a.jpg"), str(photos)) == [
        *("notes", "a", "b", "sub/c", "sub/deep/d"),
    ]


def test_patterns_are_relative_to_their_fixed_part(photos: Path) -> None:
    assert names(photos, f"{photos}/*.jpg") == ["a"]
    assert names(photos, f"{photos}/sub/**/*.jp*g") == ["deep/d"]
    assert names(photos, f"{photos}/s*/c.tif") == ["sub/c"]


def test_a_file_with_a_wildcard_in_its_name_is_a_file(photos: Path) -> None:
    (photos / "x[1].jpg").touch()
    assert names(photos, str(photos / "x[1].jpg")) == ["x[1]"]


def test_a_list_is_relative_to_its_folder(photos: Path) -> None:
    path = photos / "list.txt"
    path.write_text("# a comment\n\na.jpg\nsub/c.tif\nsub/deep\nsub/*.tif\n")
    assert names(photos, f"@{path}") == ["a", "sub/c", "d"]


def test_equal_names_become_relative_to_the_common_folder(photos: Path) -> None:
    (photos / "sub" / "a.jpg").touch()
    operands = [str(photos / "a.jpg"), str(photos / "sub" / "a.jpg")]
    assert names(photos, *operands) == ["a", "sub/a"]


def test_equal_names_in_one_folder_are_refused(photos: Path) -> None:
    (photos / "A.png").touch()
    with pytest.raises(UsageError, match=r"would have one output name"):
        names(photos, str(photos))


@pytest.mark.parametrize(
    ("operand", "message"),
    [
        ("gone.jpg", "does not exist"),
        ("gone/*.jpg", "has no image"),
        ("@gone.txt", "cannot be read"),
        (".cache/..", "has no image"),
    ],
)
def test_an_operand_without_image_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operand: str, message: str
) -> None:
    (tmp_path / ".cache").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        list_images([operand], tmp_path / "out")
