"""Reads a sample of label maps: their values or colours, with counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from protoseg.datasets.readers.label_maps import read_color_pixels, read_label_map
from protoseg.errors import DataError

MOST_COLORS = 256
"""An image with more colours is a photograph, or a label map that was saved with loss."""

PHOTO_ENDINGS = (".jpg", ".jpeg", ".webp")


@dataclass
class Encoding:
    """The content of the label maps that were read."""

    maps: int = 0
    values: Counter[int] = field(default_factory=Counter)
    """Pixels of each label value."""
    colors: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    """Pixels of each colour, for label maps with three channels."""
    images: Counter[object] = field(default_factory=Counter)
    """Label maps that have each value or colour."""
    problems: list[str] = field(default_factory=list)


def is_photograph(path: Path) -> bool:
    """Whether a file is a JPEG or has more colours than a label map."""
    return path.suffix.lower() in PHOTO_ENDINGS or not is_label_map(path)


def is_label_map(path: Path) -> bool:
    """Whether a file has one channel, or few colours."""
    if path.suffix.lower() in PHOTO_ENDINGS:
        return False
    content = Encoding()
    add_label_map(content, path)
    return not content.problems


def add_label_map(content: Encoding, path: Path) -> None:
    """Count the values or colours of one label map."""
    try:
        labels = read_label_map(path)
    except DataError as error:
        if "one channel" not in str(error):
            content.problems.append(str(error))
            return
    else:
        values, counts = np.unique(labels, return_counts=True)
        _add_counts(content.values, content, values.tolist(), counts)
        return
    try:
        pixels = read_color_pixels(path).astype(np.uint32)
    except DataError as error:
        content.problems.append(str(error))
        return
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    colors, counts = np.unique(codes, return_counts=True)
    if len(colors) > MOST_COLORS:
        content.problems.append(
            f"{path}: has {len(colors)} colours, more than the {MOST_COLORS} of a label map; it is "
            "a photograph, or was saved with loss or with smooth edges."
        )
        return
    split = [(code >> 16, code >> 8 & 255, code & 255) for code in colors.tolist()]
    _add_counts(content.colors, content, split, counts)


def _add_counts(
    total: Counter[Any], content: Encoding, keys: list[Any], counts: np.ndarray
) -> None:
    content.maps += 1
    total.update(dict(zip(keys, counts.tolist(), strict=True)))
    content.images.update(keys)
