"""Reads the confusion counts of a run (``confusion.npz``), for all reports but ``verify``.

`protoseg.report.verify.recount` has another reader, so that an error here is found there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protoseg.runs.sealed import RecordError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ConfusionCounts:
    """Confusion counts of every image as the N matrix entries that are not 0, each array (N,)."""

    image: Integers
    """Image number."""
    cell: Integers
    """Ground truth · C + prediction."""
    pixels: Integers
    num_classes: int
    num_images: int


@dataclass(frozen=True)
class ImageCounts:
    """The counts per image that mIoU is computed from, each array (images, C), in pixels."""

    hit: Floats
    """Pixels whose prediction and ground truth are the class."""
    truth: Floats
    """Pixels whose ground truth is the class."""
    union: Floats
    """Pixels whose prediction or ground truth is the class."""

    @property
    def present_classes(self) -> NDArray[np.bool_]:
        """Whether each class has pixels in the ground truth of the split, (C,).

        They are the same for all models of a split. MMSegmentation also averages a class that is
        only predicted, with IoU 0, so two models may be averaged over different classes.
        """
        return np.asarray(self.truth.sum(0) > 0)


def read_counts(path: Path) -> ConfusionCounts:
    """Read the confusion counts of a run.

    Raises:
        RecordError: the file is missing, damaged, or not a file of confusion counts.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            image, cell, pixels = (archive[name].astype(np.int64) for name in _COLUMNS)
            classes, images = int(archive["num_classes"]), int(archive["num_images"])
    except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
        raise RecordError(f"{path}: not a file of confusion counts ({error}).") from error
    if not image.shape == cell.shape == pixels.shape or image.ndim != 1:
        raise RecordError(f"{path}: not a file of confusion counts (columns differ in length).")
    if ((cell < 0) | (cell >= classes**2)).any() or len(np.unique(image)) > images:
        raise RecordError(
            f"{path}: not a file of confusion counts (entries outside {images} images with "
            f"{classes} classes)."
        )
    return ConfusionCounts(image, cell, pixels, classes, images)


_COLUMNS = ("image", "cell", "count")


def count_per_image(counts: ConfusionCounts) -> ImageCounts:
    """Sum the confusion counts per image and class.

    Returns:
        Arrays (images, C); rows are images by rising number.
    """
    row = np.unique(counts.image, return_inverse=True)[1]
    truth_class, predicted_class = np.divmod(counts.cell, counts.num_classes)
    pixels = counts.pixels.astype(np.float64)
    hit, truth, predicted = (np.zeros((counts.num_images, counts.num_classes)) for _ in range(3))
    np.add.at(truth, (row, truth_class), pixels)
    np.add.at(predicted, (row, predicted_class), pixels)
    correct = truth_class == predicted_class
    np.add.at(hit, (row[correct], truth_class[correct]), pixels[correct])
    return ImageCounts(hit, truth, truth + predicted - hit)
