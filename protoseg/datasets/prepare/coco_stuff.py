"""COCO-Stuff 164k: convert the published ids, which have eleven gaps, to the classes 0 to 170."""

from __future__ import annotations

from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare.label_maps import build_table, convert_label_map
from protoseg.datasets.prepare.steps import (
    Converted,
    Preparation,
    Step,
    find_published_folder,
    pair_files,
)

EXPECTED = (
    "Expected are images/{train2017,val2017}/*.jpg and annotations/{train2017,val2017}/*.png: get "
    "train2017.zip and val2017.zip from https://cocodataset.org, unpack them into images/, and "
    "stuffthingmaps_trainval2017.zip from https://github.com/nightrome/cocostuff, unpack it into "
    "annotations/."
)
SPLITS = ("train2017", "val2017")
IGNORED = 255
UNUSED_IDS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""The ids in 0 to 181 of things that COCO names but does not annotate."""

_IDS = [id_ for id_ in range(182) if id_ not in UNUSED_IDS]
_TABLE = build_table({id_: number for number, id_ in enumerate(_IDS)}, range(0), IGNORED)
_TABLE[IGNORED] = IGNORED


def convert_to_train_ids(sources: tuple[Path, ...]) -> Converted:
    """Convert one label map to the classes 0 to 170; pixels without a label are 255."""
    meaning = "is no id of COCO-Stuff (0 to 181 without the 11 unused ones, or 255)"
    return Converted(convert_label_map(sources[0], _TABLE, meaning))


def plan_preparation(source: Path, dataset: DatasetSpec) -> Preparation:
    """Link the images, convert the label maps.

    Raises:
        DataError: ``source`` is not the published folder.
    """
    names = ("coco_stuff164k", "coco_stuff")
    root = find_published_folder(source, "annotations", names, EXPECTED)
    steps = []
    for split in SPLITS:
        images, labels = (root / "images" / split, ".jpg"), (root / "annotations" / split, ".png")
        for name, image, label in pair_files(images, labels, EXPECTED):
            steps.append(Step(f"images/{split}/{name}.jpg", (image,)))
            target = f"annotations/{split}/{name}_labelTrainIds.png"
            steps.append(Step(target, (label,), convert_to_train_ids))
    return Preparation(root, steps)
