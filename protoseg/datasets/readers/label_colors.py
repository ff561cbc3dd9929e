"""Draws label maps in the colours of their classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protoseg.config.class_colors import Color

STRIPES: tuple[Color, Color] = ((255, 255, 255), (20, 20, 20))
STRIPE_WIDTH = 4
"""Pixels. Ignored pixels have diagonal stripes, which no class has."""


def color_label_map(labels: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """A label map in colours, (height, width, 3) uint8, red first.

    Args:
        labels: (height, width), class numbers; all other values are ignored pixels, which get
            diagonal stripes.
        colors: the colour of each class.
    """
    classes = len(colors)
    rows, columns = np.indices(labels.shape)
    stripes = np.asarray(STRIPES, np.uint8)[(rows + columns) // STRIPE_WIDTH % 2]
    table = np.asarray(colors, np.uint8)
    is_class = (labels >= 0) & (labels < classes)
    pixels: np.ndarray = table[np.where(is_class, labels, 0)]
    return np.where(is_class[..., None], pixels, stripes)
