"""PASCAL VOC 2012: one folder per split; train includes the additional annotations of SBD."""

from __future__ import annotations

from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout
from protoseg.datasets.prepare.steps import (
    Preparation,
    Step,
    find_published_folder,
    require_sources,
)
from protoseg.errors import DataError

EXPECTED = (
    "Expected are JPEGImages/*.jpg, SegmentationClass/*.png, SegmentationClassAug/*.png and "
    "ImageSets/Segmentation/{train,val}.txt: get VOCtrainval_11-May-2012.tar from "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012 and add SegmentationClassAug, which mmseg's "
    "tools/dataset_converters/voc_aug.py makes from SBD."
)


def plan_preparation(source: Path, dataset: DatasetSpec) -> Preparation:
    """Link images and label maps.

    The split train_aug is VOC's train with VOC's label maps, and all label maps of SBD that are
    in neither train nor val. The split val is VOC's. VOC's image-level labels
    (``ImageSets/Main``) go to ``image_labels``.

    Raises:
        DataError: ``source`` is not the published folder, or files are missing.
    """
    names = ("VOC2012", "VOCdevkit/VOC2012")
    root = find_published_folder(source, "ImageSets/Segmentation", names, EXPECTED)
    voc_labels, sbd_labels = root / "SegmentationClass", root / "SegmentationClassAug"
    for folder in (voc_labels, sbd_labels):
        if not folder.is_dir():
            raise DataError(f"{folder}: this folder is missing. {EXPECTED}")
    train, val = (
        _read_names(root / "ImageSets" / "Segmentation" / f"{s}.txt") for s in ("train", "val")
    )
    labels = {name: voc_labels / f"{name}.png" for name in train}
    for name, path in layout.find_files(sbd_labels, ".png").items():
        if name not in labels and name not in set(val):
            labels[name] = path
    steps = []
    splits = {"train_aug": labels, "val": {name: voc_labels / f"{name}.png" for name in val}}
    for split, members in splits.items():
        for name in sorted(members):
            image = root / "JPEGImages" / f"{name}.jpg"
            steps.append(Step(f"images/{split}/{name}.jpg", (image,)))
            steps.append(Step(f"annotations/{split}/{name}.png", (members[name],)))
    for name in dataset.classes[1:]:
        image_list = root / "ImageSets" / "Main" / f"{name}_trainval.txt"
        # Only weak supervision needs the lists; `find_label_lists` reports missing ones.
        if image_list.is_file():
            steps.append(Step(f"image_labels/{name}.txt", (image_list,)))
    require_sources(steps)
    return Preparation(root, steps)


def _read_names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list of images is missing. {EXPECTED}") from error
