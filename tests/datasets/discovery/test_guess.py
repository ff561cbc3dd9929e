"""`data init` guesses the layouts of published data sets; the written file reads the same pairs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from protoseg.config.fields import build
from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout
from protoseg.datasets.check import check_data_set
from protoseg.datasets.discovery.description import describe_guess
from protoseg.datasets.discovery.guess import Guess, guess_data_set
from protoseg.errors import DataError

RNG = np.random.default_rng(0)


def write_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)


def write_map(path: Path, values: list[int], mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.resize(np.array(values), (24, 32)).astype(np.uint8)
    image = Image.fromarray(labels, mode)
    if mode == "P":
        image.putpalette([(7 * n) % 256 for n in range(768)])
    image.save(path)


def write_colors(path: Path, colors: list[tuple[int, int, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    indices = np.arange(24 * 32).reshape(24, 32) % len(colors)
    Image.fromarray(np.array(colors, np.uint8)[indices]).save(path)


def guess_spec(root: Path) -> tuple[Guess, DatasetSpec, dict[str, Any]]:
    """The guess, and the spec of the YAML text that it gives."""
    guess = guess_data_set(root, "mine")
    fields = yaml.safe_load(describe_guess(guess))
    assert fields.pop("defaults") == ["schema", "_self_"]
    return guess, build(DatasetSpec, fields, "mine"), fields


def read_splits(root: Path, dataset: DatasetSpec) -> dict[str, list[tuple[str, str]]]:
    return {
        split: [
            (pair.image.relative_to(root).as_posix(), pair.annotation.relative_to(root).as_posix())
            for pair in layout.find_pairs(root, dataset, split)
        ]
        for split in layout.find_splits(root, dataset)
    }


def test_the_layout_of_pascal_voc(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit/VOC2012"
    names = [f"2007_{number:06}" for number in range(6)]
    for name in (*names, "2008_000001"):
        write_photo(base / f"JPEGImages/{name}.jpg")
    for name in names:
        write_map(base / f"SegmentationClass/{name}.png", [0, 0, 15, 20, 255], "P")
        write_map(base / f"SegmentationObject/{name}.png", [0, 1, 2, 255], "P")
    lists = base / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, members in {
        "train": names[:3],
        "val": names[3:],
        "trainval": names,
    }.items():
        (lists / f"{split}.txt").write_text("\n".join(members) + "\n")
    (base / "ImageSets/Main").mkdir()
    (base / "ImageSets/Main/cat_train.txt").write_text(f"{names[0]}  1\n{names[1]} -1\n")
    guess, dataset, _ = guess_spec(tmp_path)
    assert dataset.annotations == "VOCdevkit/VOC2012/SegmentationClass"
    assert dataset.split_files == {
        split: f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt" for split in ("train", "val")
    }
    assert (dataset.labels, dataset.ignore_index) == ((0, 15, 20), 255)
    assert any("trainval.txt is left out" in sentence for sentence in guess.guesses)
    assert any("SegmentationObject" in sentence for sentence in guess.unknown)
    report = check_data_set(tmp_path, dataset)
    assert {split: content.images for split, content in report.splits.items()} == {
        "train": 3,
        "val": 3,
    }


def test_the_layout_of_cityscapes(tmp_path: Path) -> None:
    for split, city in (("train", "aachen"), ("train", "bonn"), ("val", "ulm")):
        for number in range(2):
            stem = f"{city}/{city}_{number:06}_000019"
            write_photo(tmp_path / f"leftImg8bit/{split}/{stem}_leftImg8bit.png")
            base = f"gtFine/{split}/{stem}_gtFine"
            write_map(tmp_path / f"{base}_labelIds.png", [0, 7, 11, 26])
            write_map(tmp_path / f"{base}_instanceIds.png", [0, 7, 11, 26, 200])
            write_colors(tmp_path / f"{base}_color.png", [(0, 0, 0), (128, 64, 128)])
            (tmp_path / f"{base}_polygons.json").write_text("{}")
    guess, dataset, _ = guess_spec(tmp_path)
    assert (dataset.images, dataset.annotations) == ("leftImg8bit/{split}", "gtFine/{split}")
    assert dataset.image_suffix == "_leftImg8bit.png"
    assert dataset.annotation_suffix == "_gtFine_labelIds.png"
    assert dataset.counts == {"train": 4, "val": 2}
    assert dataset.labels == (0, 7, 11, 26)
    assert any("_gtFine_color.png" in sentence for sentence in guess.unknown)
    assert {split: len(pairs) for split, pairs in read_splits(tmp_path, dataset).items()} == {
        "train": 4,
        "val": 2,
    }


def test_the_layout_of_ade20k(tmp_path: Path) -> None:
    for split, count in (("training", 3), ("validation", 2)):
        for number in range(count):
            name = f"{split}/ADE_{split[:5]}_{number:08}"
            write_photo(tmp_path / f"images/{name}.jpg")
            write_map(tmp_path / f"annotations/{name}.png", [0, 1, 2, 3])
    guess, dataset, _ = guess_spec(tmp_path)
    assert (dataset.images, dataset.annotations) == ("images/{split}", "annotations/{split}")
    assert (dataset.train_split, dataset.counts) == ("training", {"training": 3, "validation": 2})
    assert (dataset.classes, dataset.labels) == (tuple(f"class_{n}" for n in range(4)), ())
    assert any("set reduce_zero_label" in sentence for sentence in guess.unknown)


def test_the_layout_of_camvid_for_segnet(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for number in range(count):
            name = f"0001TP_{split}{number}.png"
            write_photo(tmp_path / split / name)
            write_map(tmp_path / f"{split}annot" / name, [0, 1, 2, 11])
    _, dataset, _ = guess_spec(tmp_path)
    assert (dataset.images, dataset.annotations) == ("{split}", "{split}annot")
    assert read_splits(tmp_path, dataset).keys() == {"train", "val", "test"}


def test_colors_with_names_beside_them(tmp_path: Path) -> None:
    for number in range(4):
        write_photo(tmp_path / f"701_StillsRaw_full/0001TP_{number}.png")
        write_colors(
            tmp_path / f"LabeledApproved_full/0001TP_{number}_L.png",
            [(64, 128, 64), (0, 0, 0), (128, 64, 128)],
        )
    (tmp_path / "label_colors.txt").write_text(
        "64 128 64\tAnimal\n128 64 128\tRoad\n0 0 0\tVoid\n192 0 128\t\tArchway\n"
    )
    guess, dataset, fields = guess_spec(tmp_path)
    assert dataset.annotation_suffix == "_L.png"
    assert set(dataset.classes) == {"Animal", "Road", "Archway"}
    assert fields["palette"]["ignore"] == [[0, 0, 0]]
    assert any("no split for evaluation" in sentence for sentence in guess.unknown)
    report = check_data_set(tmp_path, dataset)
    assert report.splits["train"].pixels["Animal"] == 4 * 256
    rows = {row["name"]: row for row in guess.classes}
    assert (rows["Road"]["pixels"], rows["Road"]["maps"]) == (4 * 256, 4)


def test_scenes_with_folders_of_their_own_and_files_in_one_folder(tmp_path: Path) -> None:
    for scene in ("kitchen", "office", "street"):
        for number in range(2):
            write_photo(tmp_path / f"scenes/{scene}/rgb/{number}.png")
            write_map(tmp_path / f"scenes/{scene}/label/{number}.png", [0, 1])
            write_photo(tmp_path / f"flat/{scene}{number}.jpg")
            write_map(tmp_path / f"flat/{scene}{number}_mask.png", [0, 1])
    _, dataset, _ = guess_spec(tmp_path / "scenes")
    assert (dataset.images, dataset.annotations) == ("{folder}/rgb/{name}", "{folder}/label/{name}")
    assert len(read_splits(tmp_path / "scenes", dataset)["train"]) == 6
    _, dataset, _ = guess_spec(tmp_path / "flat")
    assert (dataset.images, dataset.annotation_suffix) == (".", "_mask.png")
    assert len(read_splits(tmp_path / "flat", dataset)["train"]) == 6


def test_a_folder_without_pairs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: is no folder"):
        guess_data_set(tmp_path / "nowhere", "x")
    write_photo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"no photographs with label maps .* among 1 images"):
        guess_data_set(tmp_path, "x")


def test_the_command_writes_the_file_and_names_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from protoseg.cli import main

    for number in range(3):
        write_photo(tmp_path / f"Raw data/images/{number}.jpg")
        write_map(tmp_path / f"Raw data/labels/{number}.png", [0, 1, 255])
    arguments = ["data", "init", str(tmp_path / "Raw data"), "--experiments", str(tmp_path / "e")]
    arguments += ["--data", str(tmp_path / "data")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    target = tmp_path / "e/dataset/raw_data.yaml"
    assert f"raw_data: written to {target}" in printed
    assert "guessed: 3 pairs: images/*.jpg with labels/*.png" in printed
    assert f"ln -s '{tmp_path / 'Raw data'}' {tmp_path / 'data' / 'raw_data'}" in printed
    assert "protoseg data check raw_data" in printed
    before = target.read_bytes()
    assert main(arguments) != 0
    assert "exists already, and was not changed" in capsys.readouterr().err
    assert target.read_bytes() == before
    assert main([*arguments, "--name", "other", "--json"]) == 0
    assert '"pairs": 3' in capsys.readouterr().out
    assert (tmp_path / "e/dataset/other.yaml").is_file()


@pytest.mark.parametrize("name", ["camvid", "ccp", "fixtures/labelmefacade"])
def test_real_data_sets(test_data: Path, name: str) -> None:
    root = test_data / name
    if not root.is_dir():
        pytest.skip(f"needs {root}")
    guess, dataset, _ = guess_spec(root)
    expected = {
        "camvid": ({"train": 367, "val": 101, "test": 233}, 12),
        "ccp": ({"train": 804, "val": 200}, 59),
        "fixtures/labelmefacade": ({"train": 24, "test": 12}, 8),
    }[name]
    assert (dataset.counts, len(dataset.classes)) == expected
    assert {split: len(pairs) for split, pairs in read_splits(root, dataset).items()} == expected[0]
    assert not [sentence for sentence in guess.unknown if os.sep in sentence.partition(":")[0]]
