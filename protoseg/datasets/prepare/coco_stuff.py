"""COCO-Stuff 164k: the published ids have eleven holes, which are closed."""

from __future__ import annotations

from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare.label_maps import converted, table
from protoseg.datasets.prepare.steps import Made, Plan, Step, pairs, published

EXPECTED = (
    "Expected are images/{train2017,val2017}/*.jpg and annotations/{train2017,val2017}/*.png: get "
    "train2017.zip and val2017.zip from https://cocodataset.org, unpack them into images/, and "
    "stuffthingmaps_trainval2017.zip from https://github.com/nightrome/cocostuff, unpack it into "
    "annotations/."
)
SPLITS = ("train2017", "val2017")
IGNORED = 255
HOLES = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Of the ids 0-181 those of things that COCO names and does not annotate."""

_IDS = [id_ for id_ in range(182) if id_ not in HOLES]
_TABLE = table({id_: number for number, id_ in enumerate(_IDS)}, range(0), IGNORED)
_TABLE[IGNORED] = IGNORED


def train_ids(sources: tuple[Path, ...]) -> Made:
    """One label map with the classes 0-170, 255 where a pixel has no label."""
    return Made(converted(sources[0], _TABLE, "is no id of COCO-Stuff (0-181 less 11, or 255)"))


def plan(source: Path, dataset: DatasetSpec) -> Plan:
    """Link the images, convert the label maps.

    Raises:
        DataError: another folder than the published one.
    """
    root = published(source, "annotations", ("coco_stuff164k", "coco_stuff"), EXPECTED)
    steps = []
    for split in SPLITS:
        images, labels = (root / "images" / split, ".jpg"), (root / "annotations" / split, ".png")
        for name, image, label in pairs(images, labels, EXPECTED):
            steps.append(Step(f"images/{split}/{name}.jpg", (image,)))
            target = f"annotations/{split}/{name}_labelTrainIds.png"
            steps.append(Step(target, (label,), train_ids))
    return Plan(root, steps)
