"""PASCAL-Person-Part and LIP are linked as published, and each fault of a copy is one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import raw
from datasets.helpers import read_spec, write_labels
from datasets.prepare.test_data_sets import prepare_by_name, read_pixels
from protoseg.datasets.check import check_data_set
from protoseg.errors import DataError

SPLITS = {
    "pascal_person_part": {"train": ("2008_000008", "2008_000015"), "val": ("2008_000003",)},
    "lip": {"train": ("77_471474", "9_1"), "val": ("36_454991",)},
}
PUBLISHED: dict[str, Callable[[Path], Path]] = {
    "pascal_person_part": raw.person_part,
    "lip": raw.lip,
}
IMAGES = {
    "pascal_person_part": "VOCdevkit/VOC2010/JPEGImages",
    "lip": "TrainVal_images/train_images",
}
LABELS = {
    "pascal_person_part": "pascal_person_part/pascal_person_part_gt",
    "lip": "TrainVal_parsing_annotations/train_segmentations",
}
LISTS = {
    "pascal_person_part": "pascal_person_part/pascal_person_part_trainval_list/train.txt",
    "lip": "TrainVal_images/train_id.txt",
}
NAMES = tuple(PUBLISHED)


def make_published(name: str, tmp_path: Path) -> Path:
    return PUBLISHED[name](tmp_path / "published")


def expect_problem(name: str, source: Path, tmp_path: Path) -> str:
    """The sentence about a copy that cannot be prepared; the manifest is not written."""
    with pytest.raises(DataError) as error:
        prepare_by_name(name, source, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / name / "prepared.json").exists()
    return str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_listed_files_are_linked_and_pass_the_check(name: str, tmp_path: Path) -> None:
    source = make_published(name, tmp_path)
    (source / IMAGES[name] / "of_no_list.jpg").write_bytes(b"")
    dataset, manifest = prepare_by_name(name, source, tmp_path / "data")
    root = tmp_path / "data" / name
    assert manifest["files"] == {"linked": 6}
    assert manifest["images"] == {"train": 2, "val": 1}
    report = check_data_set(root, dataset)
    assert report.digest == manifest["digest"]
    for split, names in SPLITS[name].items():
        counts = np.zeros(256, int)
        for each in names:
            (published,) = source.rglob(f"{each}.png")
            prepared = root / "annotations" / split / f"{each}.png"
            assert prepared.read_bytes() == published.read_bytes()
            counts += np.bincount(read_pixels(published).ravel(), minlength=256)
            (photograph,) = source.rglob(f"{each}.jpg")
            image = root / "images" / split / f"{each}.jpg"
            assert image.read_bytes() == photograph.read_bytes()
        assert [*report.splits[split].pixels.values()] == counts[: len(dataset.classes)].tolist()
        assert report.splits[split].ignored == counts[255] == 40 * len(names)


def test_the_classes_are_those_of_the_published_labels() -> None:
    from mmseg.datasets import LIPDataset

    names = [name.lower() for name in LIPDataset.METAINFO["classes"]]
    names[names.index("upperclothes")] = "upper-clothes"
    lip = read_spec("lip")
    assert [*lip.classes] == names
    numbers = [tuple(map(lip.classes.index, pair)) for pair in lip.flip_pairs]
    assert numbers == [(14, 15), (16, 17), (18, 19)]
    parts = read_spec("pascal_person_part")
    assert parts.classes[:5] == ("background", "head", "torso", "upper arms", "lower arms")
    assert parts.classes[5:] == ("upper legs", "lower legs")
    assert parts.flip_pairs == ()


@pytest.mark.parametrize(
    "moves",
    [
        {"VOCdevkit/VOC2010/JPEGImages": "JPEGImages"},
        {"VOCdevkit/VOC2010": "VOC2010"},
        {LABELS["pascal_person_part"]: "SegmentationPart"},
        {LABELS["pascal_person_part"]: "pascal_person_part_gt"},
        {str(Path(LISTS["pascal_person_part"]).parent): "pascal_person_part_trainval_list"},
    ],
)
def test_other_layouts_of_person_part_give_the_same_files(
    moves: dict[str, str], tmp_path: Path
) -> None:
    source = make_published("pascal_person_part", tmp_path)
    _, usual = prepare_by_name("pascal_person_part", source, tmp_path / "usual")
    for before, after in moves.items():
        shutil.move(source / before, source / after)
    _, other = prepare_by_name("pascal_person_part", source, tmp_path / "other")
    assert other["digest"] == usual["digest"]


def test_lists_of_names_alone_serve_person_part_too(tmp_path: Path) -> None:
    source = make_published("pascal_person_part", tmp_path)
    _, usual = prepare_by_name("pascal_person_part", source, tmp_path / "usual")
    for path in source.rglob("*.txt"):
        if not path.name.endswith("_id.txt"):
            path.unlink()
    _, other = prepare_by_name("pascal_person_part", source, tmp_path / "other")
    assert other["digest"] == usual["digest"]


@pytest.mark.parametrize("depth", [0, 2, 3])
def test_folders_that_repeat_the_name_of_the_archive_are_read(depth: int, tmp_path: Path) -> None:
    source = make_published("lip", tmp_path)
    _, usual = prepare_by_name("lip", source, tmp_path / "usual")
    other = tmp_path / "other"
    for archive in ("TrainVal_images", "TrainVal_parsing_annotations"):
        shutil.copytree(source / archive, other.joinpath(*[archive] * depth), dirs_exist_ok=True)
    _, manifest = prepare_by_name("lip", other, tmp_path / "data")
    assert manifest["digest"] == usual["digest"]


# Errors


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("places", [IMAGES, LABELS, LISTS])
def test_a_missing_folder_or_list_is_one_sentence(
    name: str, places: dict[str, str], tmp_path: Path
) -> None:
    source = make_published(name, tmp_path)
    missing = source / places[name]
    if missing.is_dir():
        shutil.rmtree(missing)
    else:
        for path in missing.parent.glob("train*"):
            if path.is_file():
                path.unlink()
    problem = expect_problem(name, source, tmp_path)
    assert problem.startswith(f"{source}: has no '")
    assert "/train" in problem or "JPEGImages" in problem or "gt" in problem
    assert " Expected are " in problem
    assert "http" in problem
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("places", "suffix"), [(IMAGES, ".jpg"), (LABELS, ".png")])
def test_a_listed_file_that_is_missing_is_named(
    name: str, places: dict[str, str], suffix: str, tmp_path: Path
) -> None:
    source = make_published(name, tmp_path)
    path = source / places[name] / f"{SPLITS[name]['train'][1]}{suffix}"
    path.unlink()
    problem = expect_problem(name, source, tmp_path)
    assert problem == f"{path}: this file is missing. Complete the copy."


@pytest.mark.parametrize("name", NAMES)
def test_a_label_of_no_class_is_named(name: str, tmp_path: Path) -> None:
    source = make_published(name, tmp_path)
    path = source / LABELS[name] / f"{SPLITS[name]['train'][0]}.png"
    highest = len(read_spec(name).classes) - 1
    labels = read_pixels(path)
    labels[3, :5] = highest + 1
    write_labels(path, labels)
    problem = expect_problem(name, source, tmp_path)
    assert problem.startswith(f"{path}: has the value {highest + 1} (5 such pixels), which is no ")
    assert f"(0 to {highest}, or 255)" in problem
    write_labels(path, np.full((30, 40), 300, np.uint16))
    assert "has the value 300 (1200 such pixels)" in expect_problem(name, source, tmp_path)
    Image.fromarray(labels).convert("RGB").save(path)
    assert "expected label values in one channel" in expect_problem(name, source, tmp_path)
    path.write_bytes(path.read_bytes()[:60])
    assert f"{path}: cannot be decoded" in expect_problem(name, source, tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no image"),
        ("\n \n", "names no image"),
        ("9_1\n\n9_1\n", "line 3 names '9_1' again, as line 1 does"),
        ("a/9_1.jpg b/77_471474.png\n", "line 1 pairs the image '9_1.jpg' with '77_471474.png'"),
        ("9_é\n", "cannot be read as a list of images"),
    ],
)
def test_a_wrong_list_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    source = make_published("lip", tmp_path)
    path = source / LISTS["lip"]
    path.write_text(text, encoding="utf-8")
    problem = expect_problem("lip", source, tmp_path)
    assert problem.startswith(f"{path}: ")
    assert sentence in problem


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_folder_is_one_sentence(name: str, tmp_path: Path) -> None:
    for source, fault in ((tmp_path / "nowhere", "is no folder"), (tmp_path, "has no '")):
        problem = expect_problem(name, source, tmp_path)
        assert problem.startswith(f"{source}: {fault}")
        assert " Expected are " in problem
