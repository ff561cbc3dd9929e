"""PASCAL-Person-Part: photographs of PASCAL VOC 2010 and label maps of six parts of persons.

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
    "Expected are VOCdevkit/VOC2010/JPEGImages/*.jpg, pascal_person_part_gt/*.png and "
    "pascal_person_part_trainval_list/{train,val}.txt: get VOCtrainval_03-May-2010.tar from "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010 and pascal_person_part.zip from "
    "http://liangchiehchen.com/projects/DeepLab.html, and unpack both into one folder."
)
SPLITS = ("train", "val")
IMAGES = ("VOCdevkit/VOC2010/JPEGImages", "VOC2010/JPEGImages", "JPEGImages")
PARENTS = ("", "pascal_person_part/")
"""Folders that hold label maps and lists; the archive unpacks into the second."""
LABELS = ("pascal_person_part_gt", "SegmentationPart")
LISTS = "pascal_person_part_trainval_list"
ENDINGS = (".txt", "_id.txt")
"""Endings of the list of a split: with two columns, or with names alone."""


def plan_preparation(source: Path, dataset: DatasetSpec) -> Preparation:
    """Link the listed images and label maps, and check the labels.

    Raises:
        DataError: ``source`` is not the published folder, or files are missing.
    """
    images = find_first(source, IMAGES, EXPECTED)
    labels = find_first(source, [f"{p}{name}" for name in LABELS for p in PARENTS], EXPECTED)
    check = partial(check_label_map, number=len(dataset.classes), ignored=dataset.ignore_index)
    steps = []
    for split in SPLITS:
        paths = [f"{parent}{LISTS}/{split}{end}" for end in ENDINGS for parent in PARENTS]
        names = read_list(find_first(source, paths, EXPECTED))
        steps += plan_listed_split(split, names, images, labels, check)
    require_sources(steps)
    return Preparation(source, steps)
