"""Image-level labels: which classes an image has, from its label map or from lists.

The first class is the background, of which nothing is said.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.labels import label_table, to_classes
from protoseg.errors import DataError

PRESENT = {"1": True, "0": True, "-1": False}
"""PASCAL VOC's flags; 0 is an object that is hard to see, and there all the same."""


class ImageLabels:
    """The image-level labels of a data set.

    Args:
        dataset: its spec; ``image_labels`` names lists, without it label maps are read.
        root: the folder of the data set.

    Raises:
        DataError: a list is missing, or is not one.
    """

    def __init__(self, dataset: DatasetSpec, root: Path) -> None:
        self.share = dataset.image_label_share
        self.num_classes = len(dataset.classes)
        self.lists = dataset.image_labels
        if self.lists:
            self.table = _read_lists(root, dataset)
            self.where = root / self.lists
        else:
            self.values = label_table(dataset)

    def of(self, image: Path, annotation: Path) -> tuple[int, ...]:
        """Classes of an image, ascending numbers from 1.

        Raises:
            DataError: an image that the lists do not have.
        """
        if self.lists:
            if image.stem not in self.table:
                raise DataError(
                    f"{self.where}: no image-level labels of {image.name}; complete the lists, "
                    "or make them from label maps with dataset.image_labels=''."
                )
            return tuple(sorted(self.table[image.stem]))
        with Image.open(annotation) as file:
            classes = to_classes(np.asarray(file), self.values)
        inside = classes[(classes > 0) & (classes < self.num_classes)]
        counts = np.bincount(inside, minlength=self.num_classes)
        least = max(1.0, self.share * classes.size)
        return tuple(np.flatnonzero(counts >= least).tolist())


def label_lists(root: Path, dataset: DatasetSpec) -> list[Path]:
    """The lists that a data set names, one for each class but the first; perhaps none.

    Raises:
        DataError: a list is missing.
    """
    if not dataset.image_labels:
        return []
    paths = [root / dataset.image_labels.replace("{class}", name) for name in dataset.classes[1:]]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"{path}: the list of images with this class is missing; put it there, or make "
                "image-level labels from label maps with dataset.image_labels=''."
            )
    return list(dict.fromkeys(paths))


def _read_lists(root: Path, dataset: DatasetSpec) -> dict[str, set[int]]:
    """Image name -> classes."""
    table: dict[str, set[int]] = {}
    for number, path in enumerate(label_lists(root, dataset), start=1):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{os.fspath(path)}: can not be read ({error}).") from error
        for place, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or words[1] not in PRESENT:
                raise DataError(
                    f"{path}: line {place}: expected the name of an image and 1, 0 or -1, found "
                    f"'{line.strip()}'."
                )
            classes = table.setdefault(words[0], set())
            if PRESENT[words[1]]:
                classes.add(number)
    return table
