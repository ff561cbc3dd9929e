"""Lists of names give the splits; names that fit no image, or two, are refused."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from PIL import Image

from protoseg.config.identity import spec_digest
from protoseg.config.schema import DatasetSpec
from protoseg.datasets import check, digest, layout
from protoseg.errors import DataError


@pytest.fixture
def listed() -> DatasetSpec:
    return DatasetSpec(
        name="listed",
        classes=("road",),
        digest="unpinned",
        images="images",
        annotations="labels",
        split_files={"train": "train.txt", "val": "lists/val.txt"},
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five pairs in two folders; the name 1 is in both."""
    for name in ("a/1", "a/2", "b/1", "b/3", "b/4"):
        for folder, suffix in (("images", ".jpg"), ("labels", ".png")):
            path = tmp_path / folder / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 3)).save(path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/val.txt").write_text("4\n")
    return tmp_path


def write_list(root: Path, text: str | bytes) -> None:
    (root / "train.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def train_names(root: Path, dataset: DatasetSpec) -> list[str]:
    pairs = layout.find_pairs(root, dataset, "train")
    assert all(
        image.relative_to(root / "images").with_suffix("")
        == annotation.relative_to(root / "labels").with_suffix("")
        for image, annotation in pairs
    )
    return [image.relative_to(root / "images").as_posix() for image, _ in pairs]


def error_message(root: Path, dataset: DatasetSpec, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        layout.find_pairs(root, dataset, split)
    return str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        *("b/1", "b/1.jpg", "images/b/1.jpg", "images/b/1", "./images/b/1.jpg", "/b/1.jpg"),
        *("/data/set/images/b/1.jpg", r"images\b\1.jpg", "  b/1.jpg  ", "b/1.jpg b/1.png"),
        *("images/b/1.jpg labels/b/1.png", "b/1\tlabels/b/1.png"),
    ],
)
def test_a_name_may_have_a_suffix_a_folder_and_a_label_map(
    listed: DatasetSpec, root: Path, line: str
) -> None:
    write_list(root, f"{line}\n")
    assert train_names(root, listed) == ["b/1.jpg"]


def test_names_without_folder_line_ends_and_comments(listed: DatasetSpec, root: Path) -> None:
    write_list(root, b"\xef\xbb\xbf3.jpg\r\n\r\n# from our first camera\r\n2\r\n")
    assert train_names(root, listed) == ["a/2.jpg", "b/3.jpg"]
    assert layout.find_splits(root, listed) == ["train", "val"]
    assert [pair.image.name for pair in layout.find_pairs(root, listed, "val")] == ["4.jpg"]


def test_the_order_of_a_list_does_not_change_the_order_of_the_images(
    listed: DatasetSpec, root: Path
) -> None:
    write_list(root, "3\nb/1\n2\n")
    assert train_names(root, listed) == ["a/2.jpg", "b/1.jpg", "b/3.jpg"]


def test_a_name_in_full_is_preferred_to_one_without_folder(changed, tmp_path: Path) -> None:
    for name in ("1", "a/1"):
        for folder, suffix in (("images", ".jpg"), ("labels", ".png")):
            path = tmp_path / folder / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    dataset = changed(images="images", annotations="labels", split_files={"train": "train.txt"})
    write_list(tmp_path, "1\n")
    assert train_names(tmp_path, dataset) == ["1.jpg"]


def test_suffixes_with_a_part_of_the_name(changed, tmp_path: Path) -> None:
    for name in ("gt/x_gt.png", "gt/y_gt.png", "img/x_img.png", "img/y_img.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dataset = changed(
        images="img",
        annotations="gt",
        image_suffix="_img.png",
        annotation_suffix="_gt.png",
        split_files={"train": "train.txt"},
    )
    for line in ("x", "x_img", "x_img.png", "img/x_img.png gt/x_gt.png"):
        write_list(tmp_path, line)
        (pair,) = layout.find_pairs(tmp_path, dataset, "train")
        assert pair.image.name == "x_img.png"


def test_names_that_are_not_utf8_are_found(listed: DatasetSpec, root: Path) -> None:
    for folder, suffix in (("images", ".jpg"), ("labels", ".png")):
        path = root / folder / f"Stra\udcdfe{suffix}"
        path.touch()
    write_list(root, b"Stra\xdfe.jpg\n")
    assert [os.fsencode(name) for name in train_names(root, listed)] == [b"Stra\xdfe.jpg"]


def test_missing_names_are_counted_and_the_first_five_are_shown(
    listed: DatasetSpec, root: Path
) -> None:
    write_list(root, "2\nc/3\n" + "".join(f"new{index}\n" for index in range(9)))
    message = error_message(root, listed)
    assert message == (
        f"{root / 'train.txt'}: 10 of 11 names fit no image: c/3, new0, new1, new2, new3 and 5 "
        "more. Correct the list, or add the images."
    )


def test_images_listed_twice_are_refused_with_their_lines(listed: DatasetSpec, root: Path) -> None:
    write_list(root, "2\nb/1\n# a/2\na/2.jpg\n3\n2\n")
    assert error_message(root, listed) == (
        f"{root / 'train.txt'}: 1 of 3 names are listed twice: images/a/2.jpg (lines 1, 4, 6). "
        "Remove the second line of each."
    )


def test_a_name_of_two_images_is_refused(listed: DatasetSpec, root: Path) -> None:
    write_list(root, "1\n")
    message = error_message(root, listed)
    assert "1 of 1 names fit several images: 1 (images/a/1.jpg, images/b/1.jpg)" in message
    assert message.endswith("Put the folder before each name.")


def test_a_second_column_with_another_label_map_is_refused(listed: DatasetSpec, root: Path) -> None:
    write_list(root, "a/1.jpg labels/b/1.png\n")
    message = error_message(root, listed)
    assert "have the label map of another image, or none: line 1: a/1.jpg labels/b/1.png" in message
    write_list(root, "a/1.jpg -1\n")  # ImageSets/Main of PASCAL VOC: the flag is no label map
    assert "label map of another image, or none" in error_message(root, listed)


def test_only_listed_images_need_a_label_map(listed: DatasetSpec, root: Path) -> None:
    (root / "labels/a/1.png").unlink()
    (root / "images/b/3.jpg").unlink()
    write_list(root, "a/2\n")
    assert train_names(root, listed) == ["a/2.jpg"]
    write_list(root, "a/2\na/1\n")
    message = error_message(root, listed)
    assert message.startswith(f"{root / 'images/a/1.jpg'}: has no annotation; expected")
    assert str(root / "labels/a/1.png") in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "train.txt: the list of the images of split 'train' is missing"),
        (b"", "train.txt: names no image. Write one name a line"),
        (b"# nothing\n\n", "train.txt: names no image"),
        ("a/1\n".encode("utf-16"), "is no list of names in UTF-8: it has NUL bytes"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(
    listed: DatasetSpec, root: Path, content: bytes | None, expected: str
) -> None:
    if content is not None:
        write_list(root, content)
    assert expected in error_message(root, listed)


def test_a_missing_data_folder_is_named_before_its_list(
    listed: DatasetSpec, tmp_path: Path
) -> None:
    message = error_message(tmp_path / "nowhere", listed)
    assert "nowhere: the folder of the data set" in message
    assert "--data" in message


@pytest.mark.parametrize("name", ["../train.txt", "/lists/train.txt"])
def test_a_list_outside_of_the_data_set_is_refused(
    listed: DatasetSpec, root: Path, name: str
) -> None:
    dataset = dataclasses.replace(listed, split_files={"train": name})
    message = error_message(root, dataset)
    assert f"dataset.split_files.train: '{name}' is outside of the data set's folder" in message


def test_a_split_without_list_is_refused(listed: DatasetSpec, root: Path) -> None:
    message = error_message(root, listed, "test")
    assert "split 'test' has no list; dataset.split_files has train, val" in message


def test_the_digest_covers_the_lists(listed: DatasetSpec, root: Path) -> None:
    write_list(root, "2\n3\n")
    first = digest.folder_digest(root, listed)
    write_list(root, "2\n3\nb/1\n")
    (root / "lists/val.txt").write_text("4\n")
    second = digest.folder_digest(root, listed)
    # The same files in other splits are other data.
    write_list(root, "2\n3\n")
    (root / "lists/val.txt").write_text("4\nb/1\n")
    assert len({first, second, digest.folder_digest(root, listed)}) == 3


def test_the_check_reads_the_listed_images(listed: DatasetSpec, root: Path) -> None:
    write_list(root, "2\n3\n")
    report = check.check_data_set(root, listed)
    assert {name: split.images for name, split in report.splits.items()} == {"train": 2, "val": 1}
    wrong = dataclasses.replace(listed, counts={"train": 3, "val": 1})
    with pytest.raises(DataError, match=r"2 images, expected 3"):
        check.check_data_set(root, wrong)


def test_fields_that_are_not_set_do_not_change_the_identity(toy: DatasetSpec) -> None:
    before = spec_digest(toy)  # type: ignore[arg-type]
    assert spec_digest(dataclasses.replace(toy, split_files={})) == before  # type: ignore[arg-type]
    changed = dataclasses.replace(toy, split_files={"train": "train.txt"})
    assert spec_digest(changed) != before  # type: ignore[arg-type]


def test_label_me_facade_has_its_published_splits(test_data: Path) -> None:
    root = test_data / "fixtures" / "labelmefacade"
    if not root.is_dir():
        pytest.skip(f"needs {root}")
    dataset = DatasetSpec(
        "labelmefacade",
        "unpinned",
        ("building",),
        images="images",
        annotations="labels",
        split_files={"train": "train.txt", "test": "test.txt"},
    )
    counts = {
        split: len(layout.find_pairs(root, dataset, split))
        for split in layout.find_splits(root, dataset)
    }
    lists = {split: (root / f"{split}.txt").read_text().split() for split in counts}
    assert counts == {split: len(names) for split, names in lists.items()}
    assert sum(counts.values()) == 36
