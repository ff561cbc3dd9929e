"""What is made from the published files, against what others make from them."""

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
from protoseg.datasets.check import check
from protoseg.datasets.prepare.ade20k_full import rank
from protoseg.datasets.prepare.registry import PLANS
from protoseg.datasets.prepare.runner import prepare
from protoseg.errors import DataError, ProtosegError

LABELS_OF_CITYSCAPES = """
unlabeled 255  ego-vehicle 255  rectification-border 255  out-of-roi 255  static 255  dynamic 255
ground 255  road 0  sidewalk 1  parking 255  rail-track 255  building 2  wall 3  fence 4
guard-rail 255  bridge 255  tunnel 255  pole 5  polegroup 255  traffic-light 6  traffic-sign 7
vegetation 8  terrain 9  sky 10  person 11  rider 12  car 13  truck 14  bus 15  caravan 255
trailer 255  train 16  motorcycle 17  bicycle 18
"""
"""Name and trainId of the ids 0-33, in order: the table that cityscapesScripts publishes."""


def made(
    name: str, source: Path, target: Path, jobs: int = 1
) -> tuple[DatasetSpec, dict[str, Any]]:
    """Prepare a data set; its spec with the counts that were there, and the manifest."""
    dataset = read_spec(name)
    place = target / dataset.place
    manifest = prepare(
        PLANS[dataset.place](source, dataset), dataset, place, jobs=jobs, progress=None
    )
    return dataclasses.replace(dataset, counts=manifest["images"]), manifest


def fixture_of(test_data: Path, name: str) -> Path:
    folder = test_data / "fixtures" / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


def mmsegs(tool: str) -> ModuleType:
    """A converter that mmseg ships as a script."""
    path = Path(mmseg.__file__).parent / ".mim/tools/dataset_converters" / f"{tool}.py"
    spec = importlib.util.spec_from_file_location(tool, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cityscapes_against_its_published_table(test_data: Path, tmp_path: Path) -> None:
    words = LABELS_OF_CITYSCAPES.split()
    names, ids = words[::2], [int(word) for word in words[1::2]]
    source = fixture_of(test_data, "cityscapes")
    dataset, manifest = made("cityscapes", source, tmp_path)
    assert tuple(n.replace("-", " ") for n, i in zip(names, ids, strict=True) if i < 255) == (
        dataset.classes
    )
    root = tmp_path / "cityscapes"
    found = sorted(root.glob("gtFine/*/*/*.png"))
    assert len(found) == manifest["files"]["made"] == 4
    for path in found:
        published = pixels(
            source
            / path.relative_to(root).with_name(path.name.replace("labelTrainIds", "labelIds"))
        )
        np.testing.assert_array_equal(pixels(path), np.array(ids)[published])
    report = check(root, dataset)
    assert (report.splits["train"].images, report.splits["val"].images) == (3, 1)
    assert report.digest == manifest["digest"]
    both = dataclasses.replace(read_spec("cityscapes_trainval"), counts={"trainval": 4, "val": 1})
    assert check(root, both).splits["trainval"].images == 4


def test_coco_stuff_against_mmsegs_converter(test_data: Path, tmp_path: Path) -> None:
    source = fixture_of(test_data, "coco_stuff")
    dataset, _ = made("coco_stuff", source, tmp_path, jobs=2)
    tool = mmsegs("coco_stuff164k")
    theirs = tmp_path / "theirs"
    for split in ("train2017", "val2017"):
        (theirs / split).mkdir(parents=True)
        for path in (source / "annotations" / split).iterdir():
            tool.convert_to_trainID(str(path), str(theirs), split == "train2017")
            name = f"{path.stem}_labelTrainIds.png"
            np.testing.assert_array_equal(
                pixels(tmp_path / "coco_stuff/annotations" / split / name),
                pixels(theirs / split / name),
            )
    report = check(tmp_path / "coco_stuff", dataset)
    assert (report.splits["train2017"].images, report.splits["val2017"].images) == (13, 8)
    # Every id at once, also those that no sample has.
    every = tmp_path / "every" / "annotations" / "train2017"
    every.mkdir(parents=True)
    Image.fromarray(np.array([sorted(tool.clsID_to_trID)], np.uint8)).save(every / "1.png")
    tool.convert_to_trainID(str(every / "1.png"), str(theirs), True)
    from protoseg.datasets.prepare.coco_stuff import train_ids

    (tmp_path / "ours.png").write_bytes(train_ids((every / "1.png",)).content or b"")
    ours = pixels(tmp_path / "ours.png")
    np.testing.assert_array_equal(ours, pixels(theirs / "train2017" / "1_labelTrainIds.png"))
    assert sorted(ours[0].tolist()) == [*range(171), 255]


@pytest.mark.parametrize(
    ("name", "metainfo"),
    [
        ("ade20k", "ADE20KDataset"),
        ("cityscapes", "CityscapesDataset"),
        ("coco_stuff", "COCOStuffDataset"),
        ("pascal_voc", "PascalVOCDataset"),
    ],
)
def test_classes_are_those_of_mmseg(name: str, metainfo: str) -> None:
    from mmseg import datasets

    theirs = [c.strip() for c in getattr(datasets, metainfo).METAINFO["classes"]]
    names = {"television receiver": "television"} if name == "ade20k" else {}
    assert [*read_spec(name).classes] == [names.get(c, c) for c in theirs]


def test_the_list_of_ade20k_full(test_data: Path) -> None:
    folder = fixture_of(test_data, "ade20k_full")
    published = json.loads((folder / "ade20k_full_847_categories.json").read_text())
    whole = read_spec("ade20k_full_847")
    assert len(whole.classes) == len(set(whole.classes)) == len(published) == 847
    for name, label, row in zip(whole.classes, whole.labels, published, strict=True):
        assert label == row["id"]
        assert row["name"] == name or row["name"].split(",")[0] == name
    for count in (300, 500, 700):
        part = read_spec(f"ade20k_full_{count}")
        assert part.classes == whole.classes[:count]
        assert part.labels == whole.labels[:count]
        assert (part.place, part.counts, part.label_count) == (
            whole.place, whole.counts, whole.label_count,
        )  # fmt: skip


def test_scene_parse_is_linked_as_it_is(test_data: Path, tmp_path: Path) -> None:
    source = fixture_of(test_data, "ade20k")
    dataset, manifest = made("ade20k", source, tmp_path)
    assert sum(manifest["files"].values()) == 12
    for path in source.rglob("*.*g"):
        assert (tmp_path / "ade20k" / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert check(tmp_path / "ade20k", dataset).splits["training"].pixels["wall"] > 0


def test_ade20k_full_from_the_genuine_release(test_data: Path, tmp_path: Path) -> None:
    source = raw.ade_full_from_fixture(fixture_of(test_data, "ade20k_full"), tmp_path / "raw")
    dataset, manifest = made("ade20k_full_847", source, tmp_path)
    root = tmp_path / "ade20k_full"
    report = check(root, dataset)
    train = report.splits["training"]
    assert (train.images, min(train.smallest), min(train.largest)) == (3, 512, 512)
    described: Counter[int] = Counter()
    for path in sorted(source.glob("images/ADE/training/**/*_seg.png")):
        name = path.name.removesuffix("_seg.png")
        labels = pixels(root / "annotations" / "training" / f"{name}.png")
        assert labels.dtype == np.uint16
        things = json.loads((path.parent / f"{name}.json").read_text(encoding="latin-1"))
        numbers = {
            thing["name_ndx"]
            for thing in things["annotation"]["object"]
            if thing["parts"]["part_level"] == 0
        }
        assert set(np.unique(labels).tolist()) - {0} == numbers
        described.update(numbers)
        # The same share of the picture, as near as nearest pixels come.
        seg = pixels(path).astype(int)
        full = seg[..., 0] // 10 * 256 + seg[..., 1]
        for number in numbers:
            assert abs((full == number).mean() - (labels == number).mean()) < 1e-3
        with Image.open(root / "images" / "training" / f"{name}.jpg") as image:
            assert image.size == labels.shape[::-1]
    named = json.loads((root / "concepts.json").read_text())
    assert {row["concept"] for row in named} == set(described)
    assert manifest["details"]["concepts_in_both_splits"] == len(described)
    assert named[0]["name"] in ("road, route", "building, edifice")
    known = dict(zip(dataset.labels, dataset.classes, strict=True))
    for row in named:
        assert row["train_images"] == described[row["concept"]]
        assert row["name"].split(",")[0] == known[row["concept"]].split(",")[0]


def test_ranking_by_pixels_then_images_then_number(tmp_path: Path) -> None:
    """6 is largest but stands in train alone; 9 and 7 tie in pixels, 9 in more images; 300 and
    301 tie in both; 8 is in validation alone."""
    train = [{6: 500, 7: 60, 300: 20}, {9: 30, 301: 20}, {9: 30, 2: 70}]
    validation = [{9: 1, 300: 1, 8: 900}, {7: 1, 301: 1, 2: 1}]
    source = raw.ade_full(tmp_path / "raw", train, validation)
    dataset = dataclasses.replace(
        read_spec("ade20k_full_300"), classes=("a", "b", "c"), labels=(2, 9, 301)
    )
    target = tmp_path / "data"
    manifest = prepare(PLANS["ade20k_full"](source, dataset), dataset, target, progress=None)
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
    assert rank({1: 5, 2: 5}, {1: 1, 2: 1}, {1, 2}) == [1, 2]
    report = check(target, dataclasses.replace(dataset, counts={}))
    assert report.splits["training"].pixels == {"a": 70, "b": 60, "c": 20}
    assert report.splits["training"].ignored == 3 * 1200 - 150


def test_photographs_of_ade20k_full_are_shrunk_or_left(tmp_path: Path) -> None:
    source = raw.ade_full(tmp_path, [{1: 9}], [{1: 9}])
    folder = source / "images/ADE/training/urban/scene0"
    raw.ade_image(folder, "ADE_train_00000009", {3000: 600 * 450}, (900, 600))
    raw.ade_image(folder, "ADE_train_00000010", {5: 5}, (20, 10))
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(folder / "ADE_train_00000010.jpg") as image:
        image.save(folder / "ADE_train_00000010.jpg", exif=turned)
    dataset, manifest = made("ade20k_full_847", source, tmp_path / "data")
    images = tmp_path / "data/ade20k_full/images/training"
    with Image.open(images / "ADE_train_00000009.jpg") as image:
        assert image.size == (768, 512)
    labels = pixels(tmp_path / "data/ade20k_full/annotations/training/ADE_train_00000009.png")
    assert labels.shape == (512, 768)
    assert (labels == 3000).mean() == pytest.approx(0.5, abs=2e-3)
    small = images / "ADE_train_00000000.jpg"
    assert small.read_bytes() == (folder / "ADE_train_00000000.jpg").read_bytes()
    assert manifest["files"] == {"linked": 2, "made": 6}
    check(tmp_path / "data/ade20k_full", dataset)  # sizes fit, also of the turned one


def test_pascal_voc_train_aug(tmp_path: Path) -> None:
    source = raw.voc(tmp_path)
    dataset, _ = made("pascal_voc", tmp_path, tmp_path / "data")
    root = tmp_path / "data/pascal_voc"
    report = check(root, dataset)
    assert {name: split.images for name, split in report.splits.items()} == {
        "train_aug": 2,
        "val": 2,
    }
    # VOC's own label map where there is one (1: aeroplane), SBD's (14: motorbike) elsewhere.
    train = report.splits["train_aug"].pixels
    assert {n for n, count in train.items() if count} == {"aeroplane", "motorbike"}
    val = report.splits["val"].pixels
    assert {n for n, count in val.items() if count} == {"bicycle", "bird"}
    lists = source / "ImageSets/Segmentation"
    ours = sorted(path.stem for path in (root / "images/train_aug").iterdir())
    more = [path.stem for path in (source / "SegmentationClassAug").iterdir()]
    voc_aug = mmsegs("voc_aug")
    train_names, val_names = ((lists / f"{s}.txt").read_text().split() for s in ("train", "val"))
    assert ours == sorted(voc_aug.generate_aug_list(train_names + more, val_names))


# Sources that are not what they should be


@pytest.mark.parametrize(
    "name", ["ade20k", "cityscapes", "coco_stuff", "ade20k_full_300", "pascal_voc"]
)
def test_a_wrong_folder_is_one_sentence_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError, match=r"Expected are .* get .*http") as error:
            made(name, source, tmp_path / "data")
        assert str(error.value).startswith(f"{source}: ")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_label_maps_of_another_kind_are_named(test_data: Path, tmp_path: Path) -> None:
    source = raw.coco_stuff(fixture_of(test_data, "coco_stuff"), tmp_path, 1)
    folder = source / "annotations/train2017"
    first, second, third, *_ = sorted(folder.iterdir())
    labels = pixels(first)
    labels[0, :3] = 11  # an id that COCO never used
    Image.fromarray(labels).save(first)
    Image.fromarray(labels).convert("RGB").save(second)
    third.write_bytes(third.read_bytes()[:500])
    (source / "images/val2017" / "000000000000139.jpg").rename(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"139\.png: has no image; expected"):
        made("coco_stuff", source, tmp_path / "data")
    (tmp_path / "x.jpg").rename(source / "images/val2017" / "000000000000139.jpg")
    with pytest.raises(DataError) as error:
        made("coco_stuff", source, tmp_path / "data")
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{first}: has the value 11 (3 such pixels), which is no id of COCO")
    assert lines[1] == "2 others:"
    assert lines[2].startswith(f"  {second}: expected label values in one channel")
    assert lines[3].startswith(f"  {third}: can not be decoded")
    assert not (tmp_path / "data/coco_stuff/prepared.json").exists()


def test_other_files_in_the_target_and_targets_in_the_source(
    test_data: Path, tmp_path: Path
) -> None:
    source = fixture_of(test_data, "ade20k")
    stranger = tmp_path / "ade20k/images/training/mine.jpg"
    stranger.parent.mkdir(parents=True)
    stranger.touch()
    with pytest.raises(DataError, match=r"mine\.jpg: 1 files in .* do not come from"):
        made("ade20k", source, tmp_path)
    assert stranger.exists()
    stranger.unlink()
    made("ade20k", source, tmp_path)
    with pytest.raises(DataError, match="never changed in place"):
        made("ade20k", tmp_path / "ade20k", tmp_path)
    with pytest.raises(DataError, match="never changed in place"):
        made("ade20k", tmp_path / "ade20k", tmp_path / "ade20k" / "images")


def test_a_folder_that_can_not_be_written(test_data: Path, tmp_path: Path) -> None:
    (tmp_path / "ade20k").touch()
    with pytest.raises(ProtosegError, match=r"ade20k: File exists\. What is made so far is kept"):
        made("ade20k", fixture_of(test_data, "ade20k"), tmp_path)


def test_without_hard_links_files_are_copied(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    _, manifest = made("ade20k", fixture_of(test_data, "ade20k"), tmp_path)
    assert manifest["files"] == {"copied": 12}
