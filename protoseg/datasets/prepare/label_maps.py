"""Converts and encodes the label maps of a preparation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg.datasets.labels import NO_LABEL
from protoseg.datasets.prepare.steps import Converted
from protoseg.datasets.readers.label_maps import open_verified, read_label_map
from protoseg.errors import DataError


def read_colours(path: Path) -> np.ndarray:
    """The pixels of an RGB image, (height, width, 3) uint8.

    Raises:
        DataError: the file cannot be decoded, or has another mode.
    """
    with open_verified(path) as file:
        if file.mode != "RGB":
            raise DataError(
                f"{path}: expected the mode 'RGB', found '{file.mode}'. Download it again."
            )
        return np.asarray(file)


def encode_png(labels: np.ndarray) -> bytes:
    """A label map, uint8 or uint16, as a PNG of one channel."""
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    return buffer.getvalue()


def build_table(classes: dict[int, int], published: range, ignored: int) -> np.ndarray:
    """A table from published label values to classes, (256,) int64.

    Args:
        classes: published value -> class.
        published: all published values; those of no class become ``ignored``.
        ignored: the ignored label.

    Returns:
        The class or ``ignored`` for each published value, `NO_LABEL` for all other values.
    """
    table = np.full(256, NO_LABEL)
    table[published.start : published.stop] = ignored
    table[list(classes)] = list(classes.values())
    return table


def look_up_labels(path: Path, table: np.ndarray, meaning: str) -> np.ndarray:
    """Apply a table of `build_table` to an 8-bit label map, (height, width) uint8.

    Args:
        path: the published label map.
        table: see `build_table`.
        meaning: the end of the error message about a value that was never published.

    Raises:
        DataError: the file cannot be decoded, or has a value that was never published.
    """
    raw = read_label_map(path)
    clipped = raw if raw.dtype == np.uint8 else np.clip(raw, 0, 255)
    labels = table[clipped]
    invalid = raw[(labels == NO_LABEL) | (clipped != raw)]
    if invalid.size:
        raise DataError(
            f"{path}: has the value {int(invalid[0])} ({invalid.size} such pixels), which "
            f"{meaning}. Name the folder of the published label maps, not of converted ones."
        )
    narrow: np.ndarray = labels.astype(np.uint8)
    return narrow


def convert_label_map(path: Path, table: np.ndarray, meaning: str) -> bytes:
    """Encode the result of `look_up_labels`, which describes the arguments and errors, as PNG."""
    return encode_png(look_up_labels(path, table, meaning))


def check_label_map(sources: tuple[Path, ...], number: int, ignored: int) -> Converted:
    """Check that a label map has the labels 0 to ``number - 1`` and ``ignored``; it is linked.

    Raises:
        DataError: the file cannot be decoded, or has another value.
    """
    table = build_table({value: value for value in (*range(number), ignored)}, range(0), ignored)
    meaning = f"is no label of this data set (0 to {number - 1}, or {ignored})"
    look_up_labels(sources[0], table, meaning)
    return Converted()
