"""Images and label maps in trees, in one folder, and with several suffixes are paired."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout
from protoseg.errors import DataError, UsageError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def pair_names(root: Path, dataset: DatasetSpec, split: str = "train") -> list[tuple[str, str]]:
    return [
        tuple(path.relative_to(root).as_posix() for path in pair)  # type: ignore[misc]
        for pair in layout.find_pairs(root, dataset, split)
    ]


def error_message(root: Path, dataset: DatasetSpec, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        layout.find_pairs(root, dataset, split)
    return str(error.value)


def test_a_pattern_pairs_files_in_folders_below_each_scene(changed, tmp_path: Path) -> None:
    touch(tmp_path, "a/rgb/1.png", "b/rgb/1.png", "a/label/1_mask.png", "b/label/1_mask.png")
    touch(tmp_path, "a/depth/1.png")
    dataset = changed(
        images="{scene}/rgb/{name}",
        annotations="{scene}/label/{name}",
        image_suffix=".png",
        annotation_suffix="_mask.png",
    )
    assert pair_names(tmp_path, dataset) == [
        ("a/rgb/1.png", "a/label/1_mask.png"),
        ("b/rgb/1.png", "b/label/1_mask.png"),
    ]


def test_a_pattern_may_have_the_split_after_other_placeholders(changed, tmp_path: Path) -> None:
    touch(tmp_path, "bonn/train/img/1.jpg", "bonn/val/img/2.jpg", "bonn/notes/img/3.jpg")
    touch(tmp_path, "bonn/train/gt/1.png", "bonn/val/gt/2.png")
    dataset = changed(images="{city}/{split}/img/{name}", annotations="{city}/{split}/gt/{name}")
    assert pair_names(tmp_path, dataset, "val") == [("bonn/val/img/2.jpg", "bonn/val/gt/2.png")]
    assert layout.find_splits(tmp_path, dataset) == ["notes", "train", "val"]


def test_prefixes_and_repeated_placeholders_are_matched(changed, tmp_path: Path) -> None:
    touch(tmp_path, "all/s1/s1_img_7.jpg", "all/s1/s1_gt_7.png", "all/s1/s2_img_7.jpg")
    dataset = changed(images="all/{s}/{s}_img_{name}", annotations="all/{s}/{s}_gt_{name}")
    assert pair_names(tmp_path, dataset) == [("all/s1/s1_img_7.jpg", "all/s1/s1_gt_7.png")]


def test_an_image_without_label_map_names_the_pattern(changed, tmp_path: Path) -> None:
    touch(tmp_path, "a/rgb/1.jpg", "a/label/2.png")
    dataset = changed(images="{s}/rgb/{name}", annotations="{s}/label/{name}")
    message = error_message(tmp_path, dataset)
    assert "a/rgb/1.jpg: has no annotation; expected a file of the pattern '{s}/label/{name}'" in (
        message
    )
    assert "a/label/2.png: has no image; expected a file of the pattern '{s}/rgb/{name}'" in message
    message = error_message(tmp_path, changed(images="{s}/photo/{name}", annotations="x/{s}{name}"))
    assert "x: the folder with the annotations" in message
    message = error_message(
        tmp_path, changed(images="{s}/photo/{name}", annotations="{s}/label/{name}")
    )
    assert "no images of the pattern '{s}/photo/{name}' ending in '.jpg'" in message


def test_images_and_label_maps_of_one_folder_are_told_apart_by_the_longer_suffix(
    changed, tmp_path: Path
) -> None:
    touch(tmp_path, "train/a.png", "train/a_mask.png", "train/b.png", "train/b_mask.png")
    dataset = changed(
        images="{split}",
        annotations="{split}",
        image_suffix=".png",
        annotation_suffix="_mask.png",
    )
    assert pair_names(tmp_path, dataset) == [
        ("train/a.png", "train/a_mask.png"),
        ("train/b.png", "train/b_mask.png"),
    ]
    (tmp_path / "train/b.png").unlink()
    assert "b_mask.png: has no image; expected" in error_message(tmp_path, dataset)


def test_label_maps_in_a_folder_inside_the_images_are_no_images(changed, tmp_path: Path) -> None:
    touch(tmp_path, "data/a.png", "data/masks/a.png")
    dataset = changed(images="data", annotations="data/masks", image_suffix=".png")
    assert pair_names(tmp_path, dataset) == [("data/a.png", "data/masks/a.png")]
    dataset = changed(images="data/masks", annotations="data", image_suffix=".png")
    assert pair_names(tmp_path, dataset) == [("data/masks/a.png", "data/a.png")]


def test_several_suffixes_are_taken(changed, toy_root: Path) -> None:
    images = toy_root / "images/train"
    (images / "1.jpg").rename(images / "1.JPG")
    (images / "2.jpg").rename(images / "2.jpeg")
    dataset = changed(image_suffixes=(".jpg", ".JPG", ".jpeg"))
    assert [image for image, _ in pair_names(toy_root, dataset)] == [
        "images/train/0.jpg",
        "images/train/1.JPG",
        "images/train/2.jpeg",
    ]
    touch(toy_root, "images/train/0.jpeg")
    message = error_message(toy_root, dataset)
    assert re.search(r"images/train/0\.jpe?g: has the same name as .*/0\.jpe?g", message)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"images": "{city}/img", "annotations": "{city}/gt"},
            "dataset.images: '{city}/img' has {city}, but not {name}. Add {name}",
        ),
        ({"images": "{1}/{name}", "annotations": "{1}/{name}"}, "'{1}' is no placeholder"),
        (
            {"images": "{city}/{name}", "annotations": "gt/{name}"},
            "dataset.images and dataset.annotations: {city} is in one of them only",
        ),
        (
            {"images": "all/", "annotations": "all", "image_suffix": ".png"},
            "both are files of 'all/' ending in '.png'. Give them different folders",
        ),
    ],
)
def test_patterns_that_cannot_pair_are_refused(
    changed, tmp_path: Path, fields: dict[str, str], expected: str
) -> None:
    with pytest.raises(UsageError) as error:
        layout.find_root(changed(**fields), tmp_path)
    assert expected in str(error.value)


def test_a_folder_without_split_has_one_split(changed, tmp_path: Path) -> None:
    touch(tmp_path, "img/a.jpg", "gt/a.png")
    dataset = changed(images="img", annotations="gt")
    assert layout.find_splits(tmp_path, dataset) == ["train"]
    assert pair_names(tmp_path, dataset) == [("img/a.jpg", "gt/a.png")]
    message = error_message(tmp_path, dataset, "val")
    assert "has no {split}, so split 'val' would have the images of 'train'" in message
