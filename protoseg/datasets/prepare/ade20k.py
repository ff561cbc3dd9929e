"""ADE20K as published for SceneParse150: images and label maps are linked without conversion."""

from __future__ import annotations

from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare.steps import Preparation, Step, find_published_folder, pair_files

EXPECTED = (
    "Expected are images/{training,validation}/*.jpg and annotations/{training,validation}/*.png: "
    "get ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu and unpack it."
)
SPLITS = ("training", "validation")


def plan_preparation(source: Path, dataset: DatasetSpec) -> Preparation:
    """Link images and label maps.

    Raises:
        DataError: ``source`` is not the published folder.
    """
    root = find_published_folder(source, "annotations", ("ADEChallengeData2016",), EXPECTED)
    steps = []
    for split in SPLITS:
        images, labels = (root / "images" / split, ".jpg"), (root / "annotations" / split, ".png")
        for name, image, label in pair_files(images, labels, EXPECTED):
            steps.append(Step(f"images/{split}/{name}.jpg", (image,)))
            steps.append(Step(f"annotations/{split}/{name}.png", (label,)))
    return Preparation(root, steps)
