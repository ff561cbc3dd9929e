"""Reading and writing the label maps of a preparation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg.datasets.check import SINGLE_CHANNEL, UNREADABLE, sound, values
from protoseg.datasets.labels import NO_LABEL
from protoseg.errors import DataError


def read(path: Path, mode: str = "") -> np.ndarray:
    """The pixels of an image file: (height, width), or with channels for ``mode`` RGB.

    Raises:
        DataError: it can not be decoded, or is no label map where ``mode`` is empty.
    """
    try:
        with sound(path) as file:
            if not mode and file.mode not in SINGLE_CHANNEL:
                raise DataError(
                    f"{path}: expected label values in one channel, found the mode '{file.mode}'. "
                    "Name the folder of the published label maps."
                )
            if mode and file.mode != mode:
                raise DataError(
                    f"{path}: expected the mode '{mode}', found '{file.mode}'. Download it again."
                )
            return values(file)
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise DataError(
            f"{path}: can not be decoded ({reason}). Copy or download this file again."
        ) from error


def png(labels: np.ndarray) -> bytes:
    """A label map, uint8 or uint16, as a PNG of one channel."""
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    return buffer.getvalue()


def table(classes: dict[int, int], known: range, ignored: int) -> np.ndarray:
    """From published label values to ours, (256,) int64; `NO_LABEL` where there is no such value.

    Args:
        classes: published value -> class.
        known: values that were published; those of no class become ``ignored``.
    """
    found = np.full(256, NO_LABEL)
    found[known.start : known.stop] = ignored
    found[list(classes)] = list(classes.values())
    return found


def converted(path: Path, values: np.ndarray, what: str) -> bytes:
    """A label map of 8 bits whose values went through a `table`, as a PNG.

    Raises:
        DataError: it can not be decoded, or has a value that was never published.
    """
    raw = read(path)
    inside = raw if raw.dtype == np.uint8 else np.clip(raw, 0, 255)
    labels = values[inside]
    wrong = raw[(labels == NO_LABEL) | (inside != raw)]
    if wrong.size:
        raise DataError(
            f"{path}: has the value {int(wrong[0])} ({wrong.size} such pixels), which {what}. "
            "Name the folder of the published label maps, not of converted ones."
        )
    return png(labels.astype(np.uint8))
