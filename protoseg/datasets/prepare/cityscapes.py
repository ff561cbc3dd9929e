"""Cityscapes: from ``labelIds`` to ``labelTrainIds``, in the published layout."""

from __future__ import annotations

from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare.label_maps import converted, table
from protoseg.datasets.prepare.steps import Made, Plan, Step, pairs, published

EXPECTED = (
    "Expected are leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and "
    "gtFine/{train,val}/CITY/*_gtFine_labelIds.png: get leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com and unpack both into one "
    "folder."
)
SPLITS = ("train", "val")
IGNORED = 255
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The ids of the 19 classes that are evaluated, in the order of their trainIds."""

_TABLE = table({id_: number for number, id_ in enumerate(EVALUATED)}, range(34), IGNORED)


def train_ids(sources: tuple[Path, ...]) -> Made:
    """One label map, 255 where a pixel is not evaluated."""
    return Made(converted(sources[0], _TABLE, "is no labelId (0-33)"))


def plan(source: Path, dataset: DatasetSpec) -> Plan:
    """Link the images, convert the label maps; train and val together make up trainval.

    Raises:
        DataError: another folder than the published one.
    """
    root = published(source, "gtFine", ("cityscapes",), EXPECTED)
    steps = []
    for split in SPLITS:
        images = (root / "leftImg8bit" / split, "_leftImg8bit.png")
        labels = (root / "gtFine" / split, "_gtFine_labelIds.png")
        for name, image, label in pairs(images, labels, EXPECTED):
            steps.append(Step(f"leftImg8bit/{split}/{name}{images[1]}", (image,)))
            target = f"gtFine/{split}/{name}_gtFine_labelTrainIds.png"
            steps.append(Step(target, (label,), train_ids))
    both = {
        f"{kind}/trainval/{split}": f"../{split}"
        for kind in ("leftImg8bit", "gtFine")
        for split in SPLITS
    }
    return Plan(root, steps, both)
