"""ADE20K as SceneParse150 published it: nothing is converted, only the two splits are linked."""

from __future__ import annotations

from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare.steps import Plan, Step, pairs, published

EXPECTED = (
    "Expected are images/{training,validation}/*.jpg and annotations/{training,validation}/*.png: "
    "get ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu and unpack it."
)
SPLITS = ("training", "validation")


def plan(source: Path, dataset: DatasetSpec) -> Plan:
    """Link images and label maps.

    Raises:
        DataError: another folder than the published one.
    """
    root = published(source, "annotations", ("ADEChallengeData2016",), EXPECTED)
    steps = []
    for split in SPLITS:
        images, labels = (root / "images" / split, ".jpg"), (root / "annotations" / split, ".png")
        for name, image, label in pairs(images, labels, EXPECTED):
            steps.append(Step(f"images/{split}/{name}.jpg", (image,)))
            steps.append(Step(f"annotations/{split}/{name}.png", (label,)))
    return Plan(root, steps)
