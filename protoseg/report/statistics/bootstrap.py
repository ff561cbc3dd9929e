"""Paired bootstrap over images: the uncertainty of a mIoU difference that the images cause.

Each draw takes images with replacement, the same ones for both sides. mIoU is computed from the
counts summed over a draw, as the metric computes it over a split. The trained models are fixed:
the effect of another seed is measured by the interval over seeds.

Frames of one sequence are not independent, so an interval over single images is too narrow there.
The units of a draw may therefore be groups of images: blocks of consecutive frames, or images whose
names share a part.

Sources: Künsch, H. R. (1989). The jackknife and the bootstrap for general stationary observations
(blocks). Davison, A. C. and Hinkley, D. V. (1997). Bootstrap Methods and their Application
(percentile interval, groups).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from protoseg.errors import ProtosegError
from protoseg.report.statistics.counts import Floats, ImageCounts

DRAWS = 10_000
CHUNK = 256
"""Draws that are weighted at once: about 10 MB with 847 classes and 2,000 images."""
MIN_GROUPS = 3
"""Two groups have only three different draws."""


def miou(hit: Floats, union: Floats, classes: NDArray[np.bool_] | None = None) -> Floats:
    """Compute mIoU in percent from summed counts (..., C).

    Args:
        hit: pixels whose prediction and ground truth are the class.
        union: pixels whose prediction or ground truth is the class.
        classes: the classes of the mean, (C,); None for all, as mmseg.

    Returns:
        (...); classes without a pixel in the union are left out, also those of ``classes``.
        0 where no class remains.
    """
    present = union > 0
    if classes is not None:
        present &= classes
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=present)
    return np.asarray(100 * iou.sum(-1) / np.maximum(present.sum(-1), 1))


def draw_images(generator: np.random.Generator, draws: int, images: int) -> NDArray[np.int64]:
    """Draw indices of images, or of groups, with replacement, (draws, images)."""
    return generator.integers(0, images, size=(draws, images))


def bootstrap_differences(
    ours: Sequence[ImageCounts],
    theirs: Sequence[ImageCounts],
    generator: np.random.Generator,
    draws: int = DRAWS,
    groups: NDArray[np.int64] | None = None,
    classes: NDArray[np.bool_] | None = None,
) -> Floats:
    """Compute the mIoU of ``ours`` minus that of ``theirs`` on each draw, (draws,).

    Args:
        ours: runs of one side, evaluated on the same images in the same order; their mIoU is
            averaged.
        theirs: runs of the other side.
        generator: source of the draws; the same state gives the same draws.
        draws: number of draws.
        groups: the group of each image, (images,). Groups are drawn with replacement, as many as
            there are, and all images of a group together. None to draw single images.
        classes: the classes of the mean, (C,), the same for both sides; a run without a pixel in
            the union of one in a draw leaves it out there. None for the classes with a pixel in
            the union of the run and draw, as mmseg.

    Raises:
        ProtosegError: the runs were not evaluated on the same images, or ``groups`` has another
            number of images.
    """
    check_same_images([*ours, *theirs])
    if groups is not None:
        ours, theirs = ([_sum_groups(run, groups) for run in side] for side in (ours, theirs))
    units = len(ours[0].truth)
    parts = []
    for indices in _draw_chunks(generator, draws, units):
        weights = np.zeros((len(indices), units))
        np.add.at(weights, (np.arange(len(indices))[:, None], indices), 1.0)
        parts.append(_mean_miou(weights, ours, classes) - _mean_miou(weights, theirs, classes))
    return np.concatenate(parts)


def _sum_groups(run: ImageCounts, groups: NDArray[np.int64]) -> ImageCounts:
    """Sum the counts of the images of each group, (groups, C)."""
    if len(groups) != len(run.truth):
        raise ProtosegError(
            f"compare: the groups are those of {len(groups)} images, but the runs were evaluated "
            f"on {len(run.truth)} images."
        )
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))
    hit, truth, union = (
        np.add.reduceat(counts[order], starts) for counts in (run.hit, run.truth, run.union)
    )
    return ImageCounts(hit, truth, union)


def _draw_chunks(
    generator: np.random.Generator, draws: int, units: int
) -> Iterator[NDArray[np.int64]]:
    for start in range(0, draws, CHUNK):
        yield draw_images(generator, min(CHUNK, draws - start), units)


def _mean_miou(
    weights: Floats, runs: Sequence[ImageCounts], classes: NDArray[np.bool_] | None
) -> Floats:
    values = [miou(weights @ run.hit, weights @ run.union, classes) for run in runs]
    return np.asarray(sum(values) / len(values))


def percentile_interval(values: Floats, level: float) -> tuple[float, float]:
    """Compute the percentile interval of bootstrap draws."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def frame_blocks(images: int, size: int) -> NDArray[np.int64]:
    """Group consecutive images into blocks.

    Args:
        images: number of images, in the order of the sequence.
        size: images per block. A rest that is shorter than half a block joins the last block; a
            longer one is a block.

    Returns:
        The block of each image, (images,), numbered from 0.

    Raises:
        ProtosegError: a block has fewer than two images, or there are fewer than `MIN_GROUPS`
            blocks.
    """
    if size < 2:
        raise ProtosegError(
            f"compare: a block of {size} images is not a group. Use at least 2 images per block, "
            "or draw single images (--by images)."
        )
    blocks, rest = divmod(images, size)
    if 2 * rest >= size:
        blocks += 1
    if blocks < MIN_GROUPS:
        raise ProtosegError(
            f"compare: blocks of {size} of {images} images make {max(blocks, 1)} "
            f"group{'s' * (blocks > 1)}, but the bootstrap needs at least {MIN_GROUPS}. "
            "Use smaller blocks."
        )
    return np.minimum(np.arange(images) // size, blocks - 1)


def groups_by_pattern(names: Sequence[str], pattern: str) -> NDArray[np.int64]:
    """Group images by a part of their names, e.g. the name of the sequence.

    Args:
        names: one name per image.
        pattern: regular expression, searched in each name. Its first capture group, or the whole
            match if it has none, names the group.

    Returns:
        The group of each image, (images,), numbered from 0 in the order of ``names``.

    Raises:
        ProtosegError: the pattern is invalid or does not match a name; it puts all images into
            one group, or each into a separate one; or there are fewer than `MIN_GROUPS` groups.
    """
    where = f"compare: the group pattern '{pattern}'"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ProtosegError(f"{where} is not a valid regular expression: {error}.") from error
    numbers: dict[str, int] = {}
    groups = []
    for name in names:
        match = compiled.search(name)
        part = match[min(compiled.groups, 1)] if match else None
        if part is None:
            raise ProtosegError(
                f"{where} does not match the image '{name}'. It must match every image name."
            )
        groups.append(numbers.setdefault(part, len(numbers)))
    if len(numbers) == 1 and len(names) > 1:
        raise ProtosegError(
            f"{where} puts all {len(names)} images into one group ('{next(iter(numbers))}'). "
            "Match a part of the name that differs between groups."
        )
    if len(numbers) == len(names) > 1:
        raise ProtosegError(
            f"{where} puts each of the {len(names)} images into a separate group. Match a part "
            "that images of one group share, or draw single images (--by images)."
        )
    if len(numbers) < MIN_GROUPS:
        raise ProtosegError(
            f"{where} makes {len(numbers)} group{'s' * (len(numbers) != 1)}, but the bootstrap "
            f"needs at least {MIN_GROUPS}. Match a part that differs between more groups."
        )
    return np.array(groups, dtype=np.int64)


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
