"""Look into Person (LIP), single persons: images and label maps are linked and checked.

Layout and names of the files are those that public code for this data set reads.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare.label_maps import check_label_map
from protoseg.datasets.prepare.steps import (
    Preparation,
    find_first,
    plan_listed_split,
    read_list,
    require_sources,
)

EXPECTED = (
    "Expected are TrainVal_images/{train,val}_images/*.jpg, "
    "TrainVal_parsing_annotations/{train,val}_segmentations/*.png and "
    "TrainVal_images/{train,val}_id.txt: get TrainVal_images.zip and "
    "TrainVal_parsing_annotations.zip (single person) from https://sysu-hcp.net/lip and unpack "
    "both into one folder."
)
SPLITS = ("train", "val")
IMAGES, LABELS = "TrainVal_images", "TrainVal_parsing_annotations"


def plan_preparation(source: Path, dataset: DatasetSpec) -> Preparation:
    """Link the listed images and label maps, and check the labels.

    Raises:
        DataError: ``source`` is not the published folder, or files are missing.
    """
    check = partial(check_label_map, number=len(dataset.classes), ignored=dataset.ignore_index)
    steps = []
    for split in SPLITS:
        images = find_first(source, _list_places(IMAGES, f"{split}_images"), EXPECTED)
        labels = find_first(source, _list_places(LABELS, f"{split}_segmentations"), EXPECTED)
        file = f"{split}_id.txt"
        lists = [*_list_places(IMAGES, file), f"{LABELS}/{file}"]
        names = read_list(find_first(source, lists, EXPECTED))
        steps += plan_listed_split(split, names, images, labels, check)
    require_sources(steps)
    return Preparation(source, steps)


def _list_places(archive: str, name: str) -> list[str]:
    """Where a file of an archive may be: the archive has a folder with its name in some copies."""
    return [f"{archive}/{name}", f"{archive}/{archive}/{name}", f"{archive}/" * 3 + name, name]
