"""Pairs have a common relative name and one order on every machine; missing files are errors."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout
from protoseg.errors import DataError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def cityscapes(root: Path, *names: str) -> DatasetSpec:
    for name in names:
        touch(root / f"leftImg8bit/train/{name}_leftImg8bit.png")
        touch(root / f"gtFine/train/{name}_gtFine_labelIds.png")
        touch(root / f"gtFine/train/{name}_gtFine_color.png")
    return DatasetSpec(
        name="cityscapes",
        classes=("road",),
        digest="unpinned",
        images="leftImg8bit/{split}",
        annotations="gtFine/{split}",
        image_suffix="_leftImg8bit.png",
        annotation_suffix="_gtFine_labelIds.png",
    )


def test_pairs_are_found_in_subfolders_with_long_suffixes(tmp_path: Path) -> None:
    dataset = cityscapes(tmp_path, "bonn/b_1", "aachen/a_2", "aachen/a_1")
    pairs = layout.find_pairs(tmp_path, dataset, "train")
    assert [pair.image.relative_to(tmp_path).as_posix() for pair in pairs] == [
        "leftImg8bit/train/aachen/a_1_leftImg8bit.png",
        "leftImg8bit/train/aachen/a_2_leftImg8bit.png",
        "leftImg8bit/train/bonn/b_1_leftImg8bit.png",
    ]
    image, annotation = pairs[2]
    assert image.name == "b_1_leftImg8bit.png"
    assert annotation == tmp_path / "gtFine/train/bonn/b_1_gtFine_labelIds.png"


def test_the_same_name_in_two_subfolders_gives_two_pairs(tmp_path: Path) -> None:
    dataset = cityscapes(tmp_path, "a/1", "b/1")
    for image, annotation in layout.find_pairs(tmp_path, dataset, "train"):
        assert image.parent.name == annotation.parent.name


def test_the_order_of_pairs_does_not_depend_on_the_directory_listing(
    toy: DatasetSpec, toy_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = layout.find_pairs(toy_root, toy, "train")
    real_walk = os.walk

    def reversed_walk(*args: object, **kwargs: object) -> object:
        for parent, folders, files in real_walk(*args, **kwargs):  # type: ignore[call-overload]
            yield parent, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", reversed_walk)
    assert layout.find_pairs(toy_root, toy, "train") == expected
    assert [pair.image.name for pair in expected] == ["0.jpg", "1.jpg", "2.jpg"]


def test_linked_folders_are_followed_and_hidden_files_are_ignored(
    toy: DatasetSpec, toy_root: Path, tmp_path: Path
) -> None:
    for name in ("images", "annotations"):
        shutil.move(toy_root / name / "val", tmp_path / "elsewhere" / name)
        (toy_root / name / "val").mkdir()
        (toy_root / name / "val" / "city").symlink_to(tmp_path / "elsewhere" / name)
    touch(toy_root / "images" / "val" / "._0.jpg")
    touch(toy_root / "images" / ".ipynb_checkpoints" / "0.jpg")
    assert len(layout.find_pairs(toy_root, toy, "val")) == 2
    assert layout.find_splits(toy_root, toy) == ["train", "val"]


def test_splits_are_the_existing_folders_or_those_in_counts(changed, toy_root: Path) -> None:
    assert layout.find_splits(toy_root, changed()) == ["train", "val"]
    assert layout.find_splits(toy_root, changed(counts={"val": 2})) == ["val"]
    touch(toy_root / "images/README.txt")
    assert layout.find_splits(toy_root, changed()) == ["train", "val"]


def test_the_split_may_be_a_part_of_a_folder_name(tmp_path: Path) -> None:
    touch(tmp_path / "set_train_v1/a.jpg")
    touch(tmp_path / "labels_train_v1/a.png")
    dataset = DatasetSpec(
        "x", "unpinned", ("a",), images="set_{split}_v1", annotations="labels_{split}_v1"
    )
    assert layout.find_splits(tmp_path, dataset) == ["train"]
    assert len(layout.find_pairs(tmp_path, dataset, "train")) == 1


def test_the_root_of_a_data_set_has_its_name(toy: DatasetSpec, tmp_path: Path) -> None:
    assert layout.find_root(toy, tmp_path) == tmp_path / "toy"


def error_message(root: Path, dataset: DatasetSpec, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        layout.find_pairs(root, dataset, split)
    return str(error.value)


def test_a_missing_root_is_an_error(toy: DatasetSpec, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: the folder of the data set 'toy' is missing"):
        layout.find_splits(tmp_path / "nowhere", toy)


def test_a_root_without_splits_is_an_error(toy: DatasetSpec, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no split found\. Expected are folders like 'images/train'"
    ):
        layout.find_splits(tmp_path, toy)


@pytest.mark.parametrize("folder", ["images", "annotations"])
def test_a_missing_folder_is_an_error(toy: DatasetSpec, toy_root: Path, folder: str) -> None:
    shutil.rmtree(toy_root / folder / "val")
    message = error_message(toy_root, toy, "val")
    assert message.startswith(f"{toy_root / folder / 'val'}: the folder with the {folder} of split")
    assert f"dataset.{folder}" in message


def test_an_empty_folder_is_an_error(toy: DatasetSpec, toy_root: Path) -> None:
    for path in (toy_root / "images/val").iterdir():
        path.unlink()
    message = error_message(toy_root, toy, "val")
    assert re.search(r"images/val: no images ending in '\.jpg'\. It is empty", message)


def test_images_with_another_suffix_are_an_error(changed, toy_root: Path) -> None:
    message = error_message(toy_root, changed(image_suffix=".png"))
    assert "no images ending in '.png'" in message
    assert "files ending in .jpg: change dataset.image_suffix" in message


def test_an_image_without_annotation_is_an_error(toy: DatasetSpec, toy_root: Path) -> None:
    (toy_root / "annotations/train/1.png").unlink()
    message = error_message(toy_root, toy)
    assert message.startswith(f"{toy_root / 'images/train/1.jpg'}: has no annotation")
    assert str(toy_root / "annotations/train/1.png") in message


def test_an_annotation_without_image_is_an_error(toy: DatasetSpec, toy_root: Path) -> None:
    (toy_root / "images/train/1.jpg").unlink()
    message = error_message(toy_root, toy)
    assert message.startswith(f"{toy_root / 'annotations/train/1.png'}: has no image")


def test_five_problems_are_listed_and_the_others_are_counted(
    toy: DatasetSpec, toy_root: Path
) -> None:
    for index in range(10, 18):
        touch(toy_root / f"images/train/{index}.jpg")
    lines = error_message(toy_root, toy).splitlines()
    assert lines[0].startswith(f"{toy_root / 'images/train/10.jpg'}: has no annotation")
    assert lines[1] == "7 others:"
    assert [Path(line.split(":")[0].strip()).name for line in lines[2:6]] == [
        f"{index}.jpg" for index in range(11, 15)
    ]
    assert lines[6:] == ["  and 3 more"]


@pytest.mark.parametrize(
    ("name", "train"),
    [("cityscapes", "train"), ("ade20k", "training"), ("coco_stuff", "train2017")],
)
def test_pairs_of_real_data_sets(test_data: Path, name: str, train: str) -> None:
    root = test_data / "fixtures" / name
    if not root.is_dir():
        pytest.skip(f"needs {root}")
    patterns = {"images": "images/{split}", "annotations": "annotations/{split}"}
    if name == "cityscapes":
        patterns = {
            "images": "leftImg8bit/{split}",
            "annotations": "gtFine/{split}",
            "image_suffix": "_leftImg8bit.png",
            "annotation_suffix": "_gtFine_labelIds.png",
        }
    dataset = DatasetSpec(name, "unpinned", ("a",), train_split=train, **patterns)
    splits = layout.find_splits(root, dataset)
    assert train in splits
    assert len(splits) == 2
    assert len(layout.find_pairs(root, dataset, train)) == {"coco_stuff": 13}.get(name, 3)
