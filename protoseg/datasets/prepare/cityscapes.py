"""Cityscapes: convert ``labelIds`` to ``labelTrainIds``, in the published layout."""

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
    "Expected are leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and "
    "gtFine/{train,val}/CITY/*_gtFine_labelIds.png: get leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com and unpack both into one "
    "folder."
)
SPLITS = ("train", "val")
IGNORED = 255
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The labelIds of the 19 evaluated classes, in the order of their trainIds."""

_TABLE = build_table({id_: number for number, id_ in enumerate(EVALUATED)}, range(34), IGNORED)


def convert_to_train_ids(sources: tuple[Path, ...]) -> Converted:
    """Convert one label map; pixels of classes that are not evaluated get 255."""
    return Converted(convert_label_map(sources[0], _TABLE, "is no labelId (0 to 33)"))


def plan_preparation(source: Path, dataset: DatasetSpec) -> Preparation:
    """Link the images, convert the label maps, and join train and val as trainval.

    Raises:
        DataError: ``source`` is not the published folder.
    """
    root = find_published_folder(source, "gtFine", ("cityscapes",), EXPECTED)
    steps = []
    for split in SPLITS:
        images = (root / "leftImg8bit" / split, "_leftImg8bit.png")
        labels = (root / "gtFine" / split, "_gtFine_labelIds.png")
        for name, image, label in pair_files(images, labels, EXPECTED):
            steps.append(Step(f"leftImg8bit/{split}/{name}{images[1]}", (image,)))
            target = f"gtFine/{split}/{name}_gtFine_labelTrainIds.png"
            steps.append(Step(target, (label,), convert_to_train_ids))
    trainval = {
        f"{folder}/trainval/{split}": f"../{split}"
        for folder in ("leftImg8bit", "gtFine")
        for split in SPLITS
    }
    return Preparation(root, steps, trainval)
