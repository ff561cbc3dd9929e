"""Prepared data sets agree with the results of the published converters."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import mmseg
import numpy as np
import pytest
from PIL import Image

from datasets import raw
from datasets.helpers import read_spec
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.check import check_data_set
from protoseg.datasets.prepare.ade20k_full import rank_concepts
from protoseg.datasets.prepare.registry import PREPARATIONS
from protoseg.datasets.prepare.runner import prepare_data_set
from protoseg.errors import DataError, ProtosegError

LABELS_OF_CITYSCAPES = """
unlabeled 255  ego-vehicle 255  rectification-border 255  out-of-roi 255  static 255  dynamic 255
ground 255  road 0  sidewalk 1  parking 255  rail-track 255  building 2  wall 3  fence 4
guard-rail 255  bridge 255  tunnel 255  pole 5  polegroup 255  traffic-light 6  traffic-sign 7
vegetation 8  terrain 9  sky 10  person 11  rider 12  car 13  truck 14  bus 15  caravan 255
trailer 255  train 16  motorcycle 17  bicycle 18
"""
"""Name and trainId of the ids 0 to 33 in order, from the table of cityscapesScripts."""


def prepare_by_name(
    name: str, source: Path, target: Path, jobs: int = 1
) -> tuple[DatasetSpec, dict[str, Any]]:
    """Prepare a data set; return its spec with the existing counts, and the manifest."""
    dataset = read_spec(name)
    plan = PREPARATIONS[dataset.place](source, dataset)
    folder = target / dataset.place
    manifest = prepare_data_set(plan, dataset, folder, jobs=jobs, progress=None)
    return dataclasses.replace(dataset, counts=manifest["images"]), manifest


def find_fixture(test_data: Path, name: str) -> Path:
    folder = test_data / "fixtures" / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


def read_pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


def load_converter(tool: str) -> ModuleType:
    """The module of a converter script that mmseg ships."""
    path = Path(mmseg.__file__).parent / ".mim/tools/dataset_converters" / f"{tool}.py"
    spec = importlib.util.spec_from_file_location(tool, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prepared_cityscapes_equals_the_published_table(test_data: Path, tmp_path: Path) -> None:
    fields = LABELS_OF_CITYSCAPES.split()
    names, ids = fields[::2], [int(field) for field in fields[1::2]]
    source = find_fixture(test_data, "cityscapes")
    dataset, manifest = prepare_by_name("cityscapes", source, tmp_path)
    assert tuple(n.replace("-", " ") for n, i in zip(names, ids, strict=True) if i < 255) == (
        dataset.classes
    )
    root = tmp_path / "cityscapes"
    label_maps = sorted(root.glob("gtFine/*/*/*.png"))
    assert len(label_maps) == manifest["files"]["made"] == 4
    for path in label_maps:
        published = read_pixels(
            source
            / path.relative_to(root).with_name(path.name.replace("labelTrainIds", "labelIds"))
        )
        np.testing.assert_array_equal(read_pixels(path), np.array(ids)[published])
    report = check_data_set(root, dataset)
    assert (report.splits["train"].images, report.splits["val"].images) == (3, 1)
    assert report.digest == manifest["digest"]
    trainval = dataclasses.replace(
        read_spec("cityscapes_trainval"), counts={"trainval": 4, "val": 1}
    )
    assert check_data_set(root, trainval).splits["trainval"].images == 4


def test_prepared_coco_stuff_equals_the_result_of_mmsegs_converter(
    test_data: Path, tmp_path: Path
) -> None:
    source = find_fixture(test_data, "coco_stuff")
    dataset, _ = prepare_by_name("coco_stuff", source, tmp_path, jobs=2)
    tool = load_converter("coco_stuff164k")
    reference = tmp_path / "reference"
    for split in ("train2017", "val2017"):
        (reference / split).mkdir(parents=True)
        for path in (source / "annotations" / split).iterdir():
            tool.convert_to_trainID(str(path), str(reference), split == "train2017")
            name = f"{path.stem}_labelTrainIds.png"
            np.testing.assert_array_equal(
                read_pixels(tmp_path / "coco_stuff/annotations" / split / name),
                read_pixels(reference / split / name),
            )
    report = check_data_set(tmp_path / "coco_stuff", dataset)
    assert (report.splits["train2017"].images, report.splits["val2017"].images) == (13, 8)
    # One image with every id, including ids that no sample has.
    all_ids = tmp_path / "all_ids" / "annotations" / "train2017"
    all_ids.mkdir(parents=True)
    Image.fromarray(np.array([sorted(tool.clsID_to_trID)], np.uint8)).save(all_ids / "1.png")
    tool.convert_to_trainID(str(all_ids / "1.png"), str(reference), True)
    from protoseg.datasets.prepare.coco_stuff import convert_to_train_ids

    content = convert_to_train_ids((all_ids / "1.png",)).content
    (tmp_path / "converted.png").write_bytes(content or b"")
    converted = read_pixels(tmp_path / "converted.png")
    np.testing.assert_array_equal(
        converted, read_pixels(reference / "train2017" / "1_labelTrainIds.png")
    )
    assert sorted(converted[0].tolist()) == [*range(171), 255]


@pytest.mark.parametrize(
    ("name", "metainfo"),
    [
        ("ade20k", "ADE20KDataset"),
        ("cityscapes", "CityscapesDataset"),
        ("coco_stuff", "COCOStuffDataset"),
        ("pascal_voc", "PascalVOCDataset"),
    ],
)
def test_the_classes_equal_those_of_mmseg(name: str, metainfo: str) -> None:
    from mmseg import datasets

    mmseg_classes = [c.strip() for c in getattr(datasets, metainfo).METAINFO["classes"]]
    names = {"television receiver": "television"} if name == "ade20k" else {}
    assert [*read_spec(name).classes] == [names.get(c, c) for c in mmseg_classes]


def test_the_classes_of_ade20k_full_equal_the_published_list(test_data: Path) -> None:
    folder = find_fixture(test_data, "ade20k_full")
    published = json.loads((folder / "ade20k_full_847_categories.json").read_text())
    full = read_spec("ade20k_full_847")
    assert len(full.classes) == len(set(full.classes)) == len(published) == 847
    for name, label, row in zip(full.classes, full.labels, published, strict=True):
        assert label == row["id"]
        assert row["name"] == name or row["name"].split(",")[0] == name
    for count in (300, 500, 700):
        part = read_spec(f"ade20k_full_{count}")
        assert part.classes == full.classes[:count]
        assert part.labels == full.labels[:count]
        assert (part.place, part.counts, part.label_count) == (
            full.place, full.counts, full.label_count,
        )  # fmt: skip


def test_ade20k_is_linked_without_changes(test_data: Path, tmp_path: Path) -> None:
    source = find_fixture(test_data, "ade20k")
    dataset, manifest = prepare_by_name("ade20k", source, tmp_path)
    assert sum(manifest["files"].values()) == 12
    for path in source.rglob("*.*g"):
        assert (tmp_path / "ade20k" / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert check_data_set(tmp_path / "ade20k", dataset).splits["training"].pixels["wall"] > 0


def test_ade20k_full_from_real_images_of_the_release(test_data: Path, tmp_path: Path) -> None:
    source = raw.ade_full_from_fixture(find_fixture(test_data, "ade20k_full"), tmp_path / "raw")
    dataset, manifest = prepare_by_name("ade20k_full_847", source, tmp_path)
    root = tmp_path / "ade20k_full"
    report = check_data_set(root, dataset)
    train = report.splits["training"]
    assert (train.images, min(train.smallest), min(train.largest)) == (3, 512, 512)
    image_counts: Counter[int] = Counter()
    for path in sorted(source.glob("images/ADE/training/**/*_seg.png")):
        name = path.name.removesuffix("_seg.png")
        labels = read_pixels(root / "annotations" / "training" / f"{name}.png")
        assert labels.dtype == np.uint16
        description = json.loads((path.parent / f"{name}.json").read_text(encoding="latin-1"))
        numbers = {
            item["name_ndx"]
            for item in description["annotation"]["object"]
            if item["parts"]["part_level"] == 0
        }
        assert set(np.unique(labels).tolist()) - {0} == numbers
        image_counts.update(numbers)
        # The share of each concept is the same, up to the rounding of the nearest-pixel resize.
        seg = read_pixels(path).astype(int)
        full = seg[..., 0] // 10 * 256 + seg[..., 1]
        for number in numbers:
            assert abs((full == number).mean() - (labels == number).mean()) < 1e-3
        with Image.open(root / "images" / "training" / f"{name}.jpg") as image:
            assert image.size == labels.shape[::-1]
    ranking = json.loads((root / "concepts.json").read_text())
    assert {row["concept"] for row in ranking} == set(image_counts)
    assert manifest["details"]["concepts_in_both_splits"] == len(image_counts)
    assert ranking[0]["name"] in ("road, route", "building, edifice")
    class_names = dict(zip(dataset.labels, dataset.classes, strict=True))
    for row in ranking:
        assert row["train_images"] == image_counts[row["concept"]]
        assert row["name"].split(",")[0] == class_names[row["concept"]].split(",")[0]


def test_concepts_are_ranked_by_pixels_then_images_then_number(tmp_path: Path) -> None:
    """Concept 6 has the most pixels but is only in train. 9 and 7 have equal pixels, 9 is in more
    images. 300 and 301 are equal in both. 8 is only in validation."""
    train = [{6: 500, 7: 60, 300: 20}, {9: 30, 301: 20}, {9: 30, 2: 70}]
    validation = [{9: 1, 300: 1, 8: 900}, {7: 1, 301: 1, 2: 1}]
    source = raw.ade_full(tmp_path / "raw", train, validation)
    dataset = dataclasses.replace(
        read_spec("ade20k_full_300"), classes=("a", "b", "c"), labels=(2, 9, 301)
    )
    target = tmp_path / "data"
    manifest = prepare_data_set(
        PREPARATIONS["ade20k_full"](source, dataset), dataset, target, progress=None
    )
    rows = json.loads((target / "concepts.json").read_text())
    assert [row["concept"] for row in rows] == [2, 9, 7, 300, 301]
    assert rows[1] == {
        "concept": 9,
        "name": "thing 9",
        "train_pixels": 60,
        "train_images": 2,
        "validation_pixels": 1,
    }
    assert manifest["details"] == {
        "concepts_in_both_splits": 5,
        "classes_among_the_most_frequent": 2,
        "first_difference_in_order": 3,
    }
    assert rank_concepts({1: 5, 2: 5}, {1: 1, 2: 1}, {1, 2}) == [1, 2]
    report = check_data_set(target, dataclasses.replace(dataset, counts={}))
    assert report.splits["training"].pixels == {"a": 70, "b": 60, "c": 20}
    assert report.splits["training"].ignored == 3 * 1200 - 150


def test_photographs_of_ade20k_full_are_resized_or_linked(tmp_path: Path) -> None:
    wall = read_spec("ade20k_full_847").labels[0]
    source = raw.ade_full(tmp_path, [{1: 9}], [{wall: 9}])
    folder = source / "images/ADE/training/urban/scene0"
    raw.ade_image(folder, "ADE_train_00000009", {3000: 600 * 450}, (900, 600))
    raw.ade_image(folder, "ADE_train_00000010", {5: 5}, (20, 10))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    with Image.open(folder / "ADE_train_00000010.jpg") as image:
        image.save(folder / "ADE_train_00000010.jpg", exif=rotated)
    dataset, manifest = prepare_by_name("ade20k_full_847", source, tmp_path / "data")
    images = tmp_path / "data/ade20k_full/images/training"
    with Image.open(images / "ADE_train_00000009.jpg") as image:
        assert image.size == (768, 512)
    labels = read_pixels(tmp_path / "data/ade20k_full/annotations/training/ADE_train_00000009.png")
    assert labels.shape == (512, 768)
    assert (labels == 3000).mean() == pytest.approx(0.5, abs=2e-3)
    small = images / "ADE_train_00000000.jpg"
    assert small.read_bytes() == (folder / "ADE_train_00000000.jpg").read_bytes()
    assert manifest["files"] == {"linked": 2, "made": 6}
    check_data_set(
        tmp_path / "data/ade20k_full", dataset
    )  # includes the size of the rotated photograph


def test_train_aug_of_pascal_voc_equals_the_list_of_mmsegs_converter(tmp_path: Path) -> None:
    source = raw.voc(tmp_path)
    dataset, _ = prepare_by_name("pascal_voc", tmp_path, tmp_path / "data")
    root = tmp_path / "data/pascal_voc"
    report = check_data_set(root, dataset)
    assert {name: split.images for name, split in report.splits.items()} == {
        "train_aug": 2,
        "val": 2,
    }
    # VOC's label map has priority (1: aeroplane); SBD's is used otherwise (14: motorbike).
    train = report.splits["train_aug"].pixels
    assert {n for n, count in train.items() if count} == {"aeroplane", "motorbike"}
    val = report.splits["val"].pixels
    assert {n for n, count in val.items() if count} == {"bicycle", "bird"}
    lists = source / "ImageSets/Segmentation"
    names = sorted(path.stem for path in (root / "images/train_aug").iterdir())
    sbd_names = [path.stem for path in (source / "SegmentationClassAug").iterdir()]
    voc_aug = load_converter("voc_aug")
    train_names, val_names = ((lists / f"{s}.txt").read_text().split() for s in ("train", "val"))
    assert names == sorted(voc_aug.generate_aug_list(train_names + sbd_names, val_names))


# Errors


@pytest.mark.parametrize(
    "name", ["ade20k", "cityscapes", "coco_stuff", "ade20k_full_300", "pascal_voc"]
)
def test_a_wrong_folder_is_an_error_with_the_source_of_the_data(name: str, tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError, match=r"Expected are .* get .*http") as error:
            prepare_by_name(name, source, tmp_path / "data")
        assert str(error.value).startswith(f"{source}: ")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_wrong_label_maps_are_errors_with_their_names(test_data: Path, tmp_path: Path) -> None:
    source = raw.coco_stuff(find_fixture(test_data, "coco_stuff"), tmp_path, 1)
    folder = source / "annotations/train2017"
    first, second, third, *_ = sorted(folder.iterdir())
    labels = read_pixels(first)
    labels[0, :3] = 11  # an id that COCO does not use
    Image.fromarray(labels).save(first)
    Image.fromarray(labels).convert("RGB").save(second)
    third.write_bytes(third.read_bytes()[:500])
    (source / "images/val2017" / "000000000000139.jpg").rename(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"139\.png: has no image; expected"):
        prepare_by_name("coco_stuff", source, tmp_path / "data")
    (tmp_path / "x.jpg").rename(source / "images/val2017" / "000000000000139.jpg")
    with pytest.raises(DataError) as error:
        prepare_by_name("coco_stuff", source, tmp_path / "data")
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{first}: has the value 11 (3 such pixels), which is no id of COCO")
    assert lines[1] == "2 others:"
    assert lines[2].startswith(f"  {second}: expected label values in one channel")
    assert lines[3].startswith(f"  {third}: cannot be decoded")
    assert not (tmp_path / "data/coco_stuff/prepared.json").exists()


def test_foreign_files_in_the_target_and_nested_folders_are_errors(
    test_data: Path, tmp_path: Path
) -> None:
    source = find_fixture(test_data, "ade20k")
    foreign_file = tmp_path / "ade20k/images/training/mine.jpg"
    foreign_file.parent.mkdir(parents=True)
    foreign_file.touch()
    with pytest.raises(DataError, match=r"mine\.jpg: the first of 1 files in .* do not come from"):
        prepare_by_name("ade20k", source, tmp_path)
    assert foreign_file.exists()
    foreign_file.unlink()
    prepare_by_name("ade20k", source, tmp_path)
    with pytest.raises(DataError, match="never changed in place"):
        prepare_by_name("ade20k", tmp_path / "ade20k", tmp_path)
    with pytest.raises(DataError, match="never changed in place"):
        prepare_by_name("ade20k", tmp_path / "ade20k", tmp_path / "ade20k" / "images")


def test_an_unwritable_target_is_an_error(test_data: Path, tmp_path: Path) -> None:
    (tmp_path / "ade20k").touch()
    with pytest.raises(ProtosegError, match=r"ade20k: File exists\. Finished files are kept"):
        prepare_by_name("ade20k", find_fixture(test_data, "ade20k"), tmp_path)


def test_files_are_copied_if_hard_links_are_not_possible(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_permission_error(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", raise_permission_error)
    _, manifest = prepare_by_name("ade20k", find_fixture(test_data, "ade20k"), tmp_path)
    assert manifest["files"] == {"copied": 12}
