"""The colour of each class in pictures of label maps."""

from __future__ import annotations

import numpy as np
from mmseg.utils import get_classes, get_palette

from protoseg.config.class_colors import choose_class_colors
from protoseg.config.schema import DatasetSpec

PUBLISHED = ("cityscapes", "ade", "voc", "cocostuff", "pcontext")
"""Data sets of mmseg with usual colours."""


def choose_colors(dataset: DatasetSpec) -> np.ndarray:
    """Choose the colour of each class, (C, 3) uint8, red first.

    The data set's palette comes first, then the usual colours of published data sets, recognised
    by their class names; otherwise the colours are distinct.
    """
    if not dataset.palette:
        for name in PUBLISHED:
            names, palette = get_classes(name), get_palette(name)
            if tuple(names) == dataset.classes and len(palette) == len(names):
                return np.array(palette, np.uint8)
    return np.array(choose_class_colors(dataset.classes, dataset.palette), np.uint8)


def blend_colors(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float
) -> np.ndarray:
    """Lay the colours of a label map over an image.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W), class indices.
        colors: (C, 3) uint8, in the channel order of the image.
        alpha: weight of the colours, 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    out = np.empty_like(image)
    weight = round(256 * alpha)
    scaled = colors.astype(np.uint16) * weight
    rows = max(1, 2**21 // max(1, image.shape[1]))  # temporary arrays of a few MB
    for first in range(0, len(image), rows):
        part = slice(first, first + rows)
        mixed = image[part].astype(np.uint16) * np.uint16(256 - weight) + scaled[labels[part]]
        out[part] = (mixed + 128).clip(0, 65535) >> 8
    return out
