"""Paired bootstrap over images: the uncertainty of a mIoU difference that the images cause.

Each draw takes images with replacement, the same ones for both sides. mIoU is computed from the
counts summed over a draw, as the metric computes it over a split. The trained models are fixed:
the effect of another seed is measured by the interval over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from protoseg.errors import ProtosegError
from protoseg.report.statistics.counts import Floats, ImageCounts

DRAWS = 10_000
CHUNK = 256
"""Draws that are weighted at once: about 10 MB with 847 classes and 2,000 images."""


def miou(hit: Floats, union: Floats) -> Floats:
    """Compute mIoU in percent from summed counts (..., C).

    Returns:
        (...); classes without a pixel in the union are left out, 0 where no class has a pixel.
    """
    present = union > 0
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=present)
    return np.asarray(100 * iou.sum(-1) / np.maximum(present.sum(-1), 1))


def draw_images(generator: np.random.Generator, draws: int, images: int) -> NDArray[np.int64]:
    """Draw image indices with replacement, (draws, images)."""
    return generator.integers(0, images, size=(draws, images))


def bootstrap_differences(
    ours: Sequence[ImageCounts],
    theirs: Sequence[ImageCounts],
    generator: np.random.Generator,
    draws: int = DRAWS,
) -> Floats:
    """Compute the mIoU of ``ours`` minus that of ``theirs`` on each draw, (draws,).

    Args:
        ours: runs of one side, evaluated on the same images in the same order; their mIoU is
            averaged.
        theirs: runs of the other side.
        generator: source of the draws; the same state gives the same draws.
        draws: number of draws.

    Raises:
        ProtosegError: the runs were not evaluated on the same images.
    """
    check_same_images([*ours, *theirs])
    images = len(ours[0].truth)
    parts = []
    for indices in _draw_chunks(generator, draws, images):
        weights = np.zeros((len(indices), images))
        np.add.at(weights, (np.arange(len(indices))[:, None], indices), 1.0)
        parts.append(_mean_miou(weights, ours) - _mean_miou(weights, theirs))
    return np.concatenate(parts)


def _draw_chunks(
    generator: np.random.Generator, draws: int, images: int
) -> Iterator[NDArray[np.int64]]:
    for start in range(0, draws, CHUNK):
        yield draw_images(generator, min(CHUNK, draws - start), images)


def _mean_miou(weights: Floats, runs: Sequence[ImageCounts]) -> Floats:
    values = [miou(weights @ run.hit, weights @ run.union) for run in runs]
    return np.asarray(sum(values) / len(values))


def percentile_interval(values: Floats, level: float) -> tuple[float, float]:
    """Compute the percentile interval of bootstrap draws."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def check_same_images(runs: Sequence[ImageCounts]) -> None:
    """Check that all runs have the same ground truth in every image, so that they are paired.

    Raises:
        ProtosegError: the ground truth of two runs differs.
    """
    first = runs[0].truth
    for run in runs[1:]:
        if run.truth.shape != first.shape or not np.array_equal(run.truth, first):
            raise ProtosegError(
                "compare: the runs were not evaluated on the same images with the same classes: "
                "their ground-truth counts differ. Compare runs of one data set and one split."
            )
