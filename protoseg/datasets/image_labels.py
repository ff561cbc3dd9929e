"""Image-level labels: the classes of an image, from its label map or from text lists.

The first class is the background; it is never an image-level label.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.labels import label_table, map_to_classes
from protoseg.datasets.readers.colors import make_color_table
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.errors import DataError

PRESENT = {"1": True, "0": True, "-1": False}
"""PASCAL VOC's flags; 0 marks an object that is hard to see but present."""


class ImageLabels:
    """The image-level labels of a data set.

    Args:
        dataset: the spec; ``image_labels`` names the lists. Without it, label maps are read.
        root: the folder of the data set.

    Raises:
        DataError: a list is missing or has another format.
    """

    def __init__(self, dataset: DatasetSpec, root: Path) -> None:
        self.min_share = dataset.image_label_share
        self.num_classes = len(dataset.classes)
        self.list_pattern = dataset.image_labels
        if self.list_pattern:
            self.classes_by_image = _read_lists(root, dataset)
            self.list_location = root / self.list_pattern
        else:
            self.label_table = label_table(dataset)
            self.colors = make_color_table(dataset)

    def find_classes(self, image: Path, annotation: Path) -> tuple[int, ...]:
        """The classes of an image: class numbers from 1, ascending.

        Raises:
            DataError: the lists do not contain the image, or its label map cannot be read.
        """
        if self.list_pattern:
            if image.stem not in self.classes_by_image:
                raise DataError(
                    f"{self.list_location}: no image-level labels of {image.name}. Complete the "
                    "lists, or derive the labels from label maps with dataset.image_labels=''."
                )
            return tuple(sorted(self.classes_by_image[image.stem]))
        classes = map_to_classes(read_label_map(annotation, colors=self.colors), self.label_table)
        foreground = classes[(classes > 0) & (classes < self.num_classes)]
        counts = np.bincount(foreground, minlength=self.num_classes)
        min_pixels = max(1.0, self.min_share * classes.size)
        return tuple(np.flatnonzero(counts >= min_pixels).tolist())


def find_label_lists(root: Path, dataset: DatasetSpec) -> list[Path]:
    """The lists of a data set, one for each class but the first; empty without lists.

    Raises:
        DataError: a list is missing.
    """
    if not dataset.image_labels:
        return []
    paths = [root / dataset.image_labels.replace("{class}", name) for name in dataset.classes[1:]]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"{path}: the list of images with this class is missing. Add it, or derive the "
                "image-level labels from label maps with dataset.image_labels=''."
            )
    return list(dict.fromkeys(paths))


def _read_lists(root: Path, dataset: DatasetSpec) -> dict[str, set[int]]:
    """Image name -> its classes."""
    classes_by_image: dict[str, set[int]] = {}
    for class_number, path in enumerate(find_label_lists(root, dataset), start=1):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}).") from error
        for line_number, line in enumerate(lines, start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 2 or fields[1] not in PRESENT:
                raise DataError(
                    f"{path}: line {line_number}: expected the name of an image and 1, 0 or -1, "
                    f"found '{line.strip()}'."
                )
            classes = classes_by_image.setdefault(fields[0], set())
            if PRESENT[fields[1]]:
                classes.add(class_number)
    return classes_by_image
