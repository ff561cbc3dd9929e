"""Reads a photograph, for check, training and evaluation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from protoseg.datasets.readers.label_maps import ORIENTATION, UNREADABLE
from protoseg.errors import DataError

# OpenCV prints a warning for each damaged file; the error below names it.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def read_photograph(path: Path) -> np.ndarray:
    """Read a photograph with OpenCV, as mmcv's ``LoadImageFromFile`` does.

    Grey images get three equal channels, 16 bits become 8, transparency is dropped, and an EXIF
    orientation is applied.

    Returns:
        (height, width, 3) uint8, in the order blue, green, red.

    Raises:
        DataError: the file cannot be read or decoded.
        MemoryError: the decoded image does not fit into memory.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(_unreadable_message(path, str(error.strerror or error))) from error
    if not data.size:
        raise DataError(_unreadable_message(path, "the file is empty"))
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path}: {error}") from error
        reason = (str(error).strip().splitlines() or ["OpenCV error"])[-1]
        raise DataError(_unreadable_message(path, reason)) from error
    if pixels is None:
        raise DataError(_unreadable_message(path, "damaged, or no format that OpenCV reads"))
    return pixels


def read_orientation(path: Path) -> int:
    """The EXIF orientation of a photograph, 1 (upright) to 8; 1 if it has none."""
    try:
        with Image.open(path) as file:
            exif = Image.Exif()
            exif.load(file.info.get("exif") or b"")
            tags = file.tag_v2 if isinstance(file, TiffImageFile) else exif
            value = tags.get(ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return value if value in range(2, 9) else 1


def _unreadable_message(path: Path, reason: str) -> str:
    return (
        f"{path}: cannot be decoded ({reason}). Copy or download this file again, or save it as "
        "PNG or JPEG."
    )
