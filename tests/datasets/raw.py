"""Small synthetic data sets in their published layouts, where real samples are not enough."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Pixels = Mapping[int, int]
"""Concept -> number of pixels; the rest of the image is unlabelled."""


def ade_image(folder: Path, name: str, pixels: Pixels, size: tuple[int, int] = (40, 30)) -> None:
    """Write one image of ADE20K-Full of (width, height) pixels: .jpg, _seg.png and .json."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    ids = np.zeros(width * height, np.int64)
    start = 0
    for concept, count in pixels.items():
        ids[start : start + count] = concept
        start += count
    ids = ids.reshape(height, width)
    # The decoder must ignore the blue channel (instance numbers) and the last digit of red.
    seg = np.stack(
        [ids // 256 * 10 + 3, ids % 256, np.arange(ids.size).reshape(ids.shape) % 200], 2
    )
    Image.fromarray(seg.astype(np.uint8)).save(folder / f"{name}_seg.png")
    rng = np.random.default_rng(len(name))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    image.save(folder / f"{name}.jpg")
    objects = [{"name_ndx": concept, "name": f"thing {concept}"} for concept in pixels]
    description = {"annotation": {"object": objects}}
    (folder / f"{name}.json").write_text(json.dumps(description))


def ade_full(root: Path, train: list[Pixels], validation: list[Pixels]) -> Path:
    """Write ADE20K-Full with these images; return its folder."""
    base = root / "ADE20K_2021_17_01" / "images" / "ADE"
    for split, short, images in (("training", "train", train), ("validation", "val", validation)):
        for number, pixels in enumerate(images):
            folder = base / split / "urban" / f"scene{number % 2}"
            ade_image(folder, f"ADE_{short}_{number:08}", pixels)
    return root / "ADE20K_2021_17_01"


def ade_full_from_fixture(fixture: Path, root: Path) -> Path:
    """Copy the real train images as train and as validation, which has no real samples."""
    source = fixture / "ADE20K_2021_17_01"
    target = root / "ADE20K_2021_17_01"
    folder = Path("images/ADE/training/urban/street")
    other = target / str(folder).replace("training", "validation")
    (target / folder).mkdir(parents=True)
    other.mkdir(parents=True)
    for path in (source / folder).iterdir():
        shutil.copyfile(path, target / folder / path.name)
        shutil.copyfile(path, other / path.name.replace("ADE_train", "ADE_val"))
    return target


def coco_stuff(fixture: Path, root: Path, copies: int) -> Path:
    """Copy each real COCO-Stuff sample several times under other names."""
    root = root / "coco"
    for path in fixture.rglob("*"):
        if path.is_file():
            relative = path.relative_to(fixture)
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                name = f"{copy:03}{relative.name}"
                shutil.copyfile(path, (root / relative).with_name(name))
    return root


VOC_CLASSES = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse
motorbike person pottedplant sheep sofa train tvmonitor"""


def voc(root: Path) -> Path:
    """Write VOC 2012: one image in train, two in val, one more with labels of SBD only."""
    root = root / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000001\n")
    (lists / "val.txt").write_text("2007_000002\n2008_000003\n")
    voc_labels = {"2007_000001": 1, "2007_000002": 2, "2008_000003": 3}
    sbd_labels = {"2007_000001": 11, "2008_000003": 13, "2008_000004": 14}
    for folder, labels in (("SegmentationClass", voc_labels), ("SegmentationClassAug", sbd_labels)):
        (root / folder).mkdir()
        for name, value in labels.items():
            label_map = np.full((30, 40), value, np.uint8)
            label_map[0] = 255
            image = Image.fromarray(label_map)
            image.putpalette([i // 3 for i in range(768)])
            image.save(root / folder / f"{name}.png")
    (root / "JPEGImages").mkdir()
    for name in voc_labels | sbd_labels:
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets" / "Main").mkdir()
    for number, class_name in enumerate(VOC_CLASSES.split(), start=1):
        labels = sbd_labels | voc_labels
        flags = {name: " 1" if value == number else "-1" for name, value in labels.items()}
        text = "".join(f"{name} {flag}\n" for name, flag in sorted(flags.items()))
        (root / "ImageSets" / "Main" / f"{class_name}_trainval.txt").write_text(text)
    return root


def listed_pairs(
    images: Path, labels: Path, names: Mapping[str, int], count: int, rng: np.random.Generator
) -> None:
    """Write photographs and label maps of 40×30 pixels with random labels below ``count``.

    Args:
        images: folder of ``NAME.jpg``.
        labels: folder of ``NAME.png``; the first row is ignored (255).
        names: name -> a label that fills the last row.
        count: number of labels.
        rng: for labels and pixels.
    """
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for name, label in names.items():
        label_map = rng.integers(0, count, (30, 40), dtype=np.uint8)
        label_map[0], label_map[-1] = 255, label
        Image.fromarray(label_map).save(labels / f"{name}.png")
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{name}.jpg")


def person_part(root: Path) -> Path:
    """Write PASCAL-Person-Part as its two archives are unpacked, with lists of two columns."""
    rng = np.random.default_rng(0)
    folder = root / "pascal_person_part"
    lists = folder / "pascal_person_part_trainval_list"
    lists.mkdir(parents=True)
    for split, names in (
        ("train", {"2008_000008": 1, "2008_000015": 6}),
        ("val", {"2008_000003": 4}),
    ):
        photographs = root / "VOCdevkit/VOC2010/JPEGImages"
        listed_pairs(photographs, folder / "pascal_person_part_gt", names, 7, rng)
        lines = [f"/JPEGImages/{name}.jpg /SegmentationPart/{name}.png\n" for name in names]
        (lists / f"{split}.txt").write_text("".join(lines))
        (lists / f"{split}_id.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def mapillary(root: Path) -> Path:
    """Write Mapillary Vistas 2.0 as downloaded."""
    rng = np.random.default_rng(2)
    for split, names in (("training", {"a": 3, "b": 123}), ("validation", {"c": 0})):
        folder = root / "mapillary_v2" / split
        listed_pairs(folder / "images", folder / "v2.0" / "labels", names, 124, rng)
    return root


def lip(root: Path) -> Path:
    """Write LIP as its two archives are unpacked, without the test images."""
    rng = np.random.default_rng(1)
    images, labels = root / "TrainVal_images", root / "TrainVal_parsing_annotations"
    for split, names in (("train", {"77_471474": 14, "9_1": 19}), ("val", {"36_454991": 5})):
        folders = images / f"{split}_images", labels / f"{split}_segmentations"
        listed_pairs(*folders, names, 20, rng)
        (images / f"{split}_id.txt").write_text("".join(f"{name}\n" for name in names))
    return root
