"""Regions of label maps where one model is right and another one is wrong."""

from __future__ import annotations

import numpy as np

from protoseg.runs.results.samples import Array

Box = tuple[int, int, int, int]

BOXES = 3
"""Boxes of one image."""
MIN_SHARE = 0.002
"""Smallest region with a box, as a share of the image."""


def find_boxes(mask: Array, number: int = BOXES, min_share: float = MIN_SHARE) -> tuple[Box, ...]:
    """Find the boxes around the largest connected regions of a mask.

    Args:
        mask: (h, w) bool; pixels are connected by their sides.
        number: of boxes, at most.
        min_share: smallest region, as a share of the pixels.

    Returns:
        Top, left, bottom and right (the last two are outside), the largest region first; of equal
        ones the upper and then the left one first.
    """
    from scipy import ndimage  # takes a tenth of a second, which other figures need not wait for

    labels, count = ndimage.label(mask)
    if not count:
        return ()
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes = [
        (-int(area), rows.start, columns.start, rows.stop, columns.stop)
        for area, (rows, columns) in zip(areas, ndimage.find_objects(labels), strict=True)
        if area >= min_share * mask.size
    ]
    return tuple(
        (top, left, bottom, right) for _, top, left, bottom, right in sorted(boxes)[:number]
    )


def compare_predictions(
    truth: Array, first: Array, second: Array, ignored: int
) -> tuple[Array, Array]:
    """Compare two predictions of an image.

    Returns:
        Two masks (h, w): the second is right and the first is wrong, and the reverse. Ignored
        pixels are in neither.
    """
    inside = truth != ignored
    first_right, second_right = first == truth, second == truth
    return inside & second_right & ~first_right, inside & first_right & ~second_right
