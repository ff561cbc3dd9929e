"""PASCAL VOC 2012: one folder a split, train with the additional annotations of SBD."""

from __future__ import annotations

from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout
from protoseg.datasets.prepare.steps import Plan, Step, published
from protoseg.errors import DataError

EXPECTED = (
    "Expected are JPEGImages/*.jpg, SegmentationClass/*.png, SegmentationClassAug/*.png and "
    "ImageSets/Segmentation/{train,val}.txt: get VOCtrainval_11-May-2012.tar from "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012 and add SegmentationClassAug, which mmseg's "
    "tools/dataset_converters/voc_aug.py makes from SBD."
)


def plan(source: Path, dataset: DatasetSpec) -> Plan:
    """Link images and label maps.

    train_aug is train, with VOC's own label maps, and every label map of SBD that is in neither
    train nor val; val is VOC's. The image-level labels of VOC (``ImageSets/Main``) go to
    ``image_labels``.

    Raises:
        DataError: another folder than the published one.
    """
    names = ("VOC2012", "VOCdevkit/VOC2012")
    root = published(source, "ImageSets/Segmentation", names, EXPECTED)
    own, more = root / "SegmentationClass", root / "SegmentationClassAug"
    for folder in (own, more):
        if not folder.is_dir():
            raise DataError(f"{folder}: this folder is missing. {EXPECTED}")
    train, val = (
        _names(root / "ImageSets" / "Segmentation" / f"{s}.txt") for s in ("train", "val")
    )
    labels = {name: own / f"{name}.png" for name in train}
    for name, path in layout.stems(more, ".png").items():
        if name not in labels and name not in set(val):
            labels[name] = path
    steps = []
    splits = {"train_aug": labels, "val": {name: own / f"{name}.png" for name in val}}
    for split, members in splits.items():
        for name in sorted(members):
            image = root / "JPEGImages" / f"{name}.jpg"
            steps.append(Step(f"images/{split}/{name}.jpg", (image,)))
            steps.append(Step(f"annotations/{split}/{name}.png", (members[name],)))
    for name in dataset.classes[1:]:
        listed = root / "ImageSets" / "Main" / f"{name}_trainval.txt"
        if listed.is_file():  # only weak supervision needs them, and says so where they are missing
            steps.append(Step(f"image_labels/{name}.txt", (listed,)))
    layout.refuse(
        [
            f"{step.sources[0]}: this file is missing. Complete the copy."
            for step in steps
            if not step.sources[0].is_file()
        ]
    )
    return Plan(root, steps)


def _names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list of images is missing. {EXPECTED}") from error
