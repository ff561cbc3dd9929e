"""A paired bootstrap over images: how far a difference in mIoU hangs on the images it was seen on.

Images are drawn with replacement, the same ones for both sides; mIoU is that of the counts summed
over a draw, as the metric itself sums them over a split. The trained models are held fixed: what
another seed would change is told by the interval over seeds, not by this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg.errors import ProtosegError

DRAWS = 10_000
CHUNK = 256
"""Draws weighed at once: with 847 classes and 2,000 images some ten MB."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ImageCounts:
    """What mIoU needs of each image, each array (images, C)."""

    hit: Floats
    """Pixels of a class that were found."""
    truth: Floats
    """Pixels of a class by ground truth."""
    union: Floats
    """Pixels of a class by ground truth or prediction."""


def read_counts(path: Path) -> ImageCounts:
    """The confusion counts of a run.

    Raises:
        ProtosegError: not a file of counts.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        classes, images = int(arrays["num_classes"]), int(arrays["num_images"])
        order = np.unique(arrays["image"], return_inverse=True)[1]
        truth_class, guess = np.divmod(arrays["cell"], classes)
        count = arrays["count"].astype(np.float64)
        hit, truth, predicted = (np.zeros((images, classes)) for _ in range(3))
        np.add.at(truth, (order, truth_class), count)
        np.add.at(predicted, (order, guess), count)
        found = truth_class == guess
        np.add.at(hit, (order[found], guess[found]), count[found])
    except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
        raise ProtosegError(f"{path}: not a file of confusion counts ({error}).") from error
    return ImageCounts(hit, truth, truth + predicted - hit)


def miou(hit: Floats, union: Floats) -> Floats:
    """mIoU in percent of summed counts (..., C); a class without a pixel in the union is left out.

    Returns: (...); 0 where no class has a pixel.
    """
    there = union > 0
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=there)
    return np.asarray(100 * iou.sum(-1) / np.maximum(there.sum(-1), 1))


def draw_images(generator: np.random.Generator, draws: int, images: int) -> NDArray[np.int64]:
    """The images of each draw, with replacement, (draws, images)."""
    return generator.integers(0, images, size=(draws, images))


def bootstrap_differences(
    ours: Sequence[ImageCounts],
    theirs: Sequence[ImageCounts],
    generator: np.random.Generator,
    draws: int = DRAWS,
) -> Floats:
    """mIoU of ``ours`` minus that of ``theirs`` (means over their runs) on each draw, (draws,).

    Args:
        ours: the runs of one side, all evaluated on the same images in the same order.
        theirs: those of the other side.
        generator: where the draws come from; the same state gives the same draws.
        draws: how many.

    Raises:
        ProtosegError: the runs were not evaluated on the same images.
    """
    check_same_images([*ours, *theirs])
    images = len(ours[0].truth)
    parts = []
    for indices in _chunks(generator, draws, images):
        weights = np.zeros((len(indices), images))
        np.add.at(weights, (np.arange(len(indices))[:, None], indices), 1.0)
        parts.append(_mean_miou(weights, ours) - _mean_miou(weights, theirs))
    return np.concatenate(parts)


def _chunks(generator: np.random.Generator, draws: int, images: int) -> Iterator[Any]:
    for start in range(0, draws, CHUNK):
        yield draw_images(generator, min(CHUNK, draws - start), images)


def _mean_miou(weights: Floats, runs: Sequence[ImageCounts]) -> Floats:
    values = [miou(weights @ run.hit, weights @ run.union) for run in runs]
    return np.asarray(sum(values) / len(values))


def percentile_interval(values: Floats, level: float) -> tuple[float, float]:
    """The percentile interval of bootstrap draws."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def check_same_images(runs: Sequence[ImageCounts]) -> None:
    """Refuse runs whose ground truth differs image by image: nothing in them is paired.

    Raises:
        ProtosegError: says so.
    """
    first = runs[0].truth
    for run in runs[1:]:
        if run.truth.shape != first.shape or not np.array_equal(run.truth, first):
            raise ProtosegError(
                "the runs were not evaluated on the same images with the same classes "
                "(their ground-truth counts differ), so that nothing is paired between them."
            )
