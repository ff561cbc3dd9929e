"""Reads a label map: the stored label values, then the class of each pixel.

Check, digest, training, evaluation, preparation and export read label maps with this module only
(`tests/test_house.py`). Image libraries scale grey samples of 1, 2 and 4 bits to 0..255, and
apply palettes; here a label value is the sample or the palette index that the file stores.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import ChunkStream, PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from protoseg.config.schema import HIGHEST_LABEL
from protoseg.datasets.readers.colors import ColorTable, drop_alpha, narrow_colors
from protoseg.errors import DataError

FORMATS = ("PNG", "TIFF", "BMP")
"""Pillow's names of the formats that store label values without loss and without renumbering."""

ORIENTATION = 0x0112
"""The EXIF tag of a photograph's orientation, also a tag of TIFF."""

PHOTOMETRIC = 262
"""The tag of TIFF that tells whether 0 is white."""

UNREADABLE = (
    OSError,
    SyntaxError,  # Pillow raises it for a damaged PNG
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for a damaged file."""

_SCALES = {
    **dict.fromkeys(("1", "1;R", "L", "L;R", "P", "P;R", "P;1", "P;1R", "P;2", "P;2R"), 1),
    **dict.fromkeys(("P;4", "P;4R", "I;16", "I;16B", "I;16N", "I;16R", "I;12"), 1),
    **dict.fromkeys(("I;16S", "I;16BS", "I;32N", "I;32S", "I;32BS"), 1),
    **dict.fromkeys(("L;2", "L;2R"), 255 // 3),
    **dict.fromkeys(("L;4", "L;4R"), 255 // 15),
}
"""Pillow's raw mode, the encoding in the file -> the factor by which Pillow scales samples."""

_LOSSY = {"jpeg", "tiff_jpeg", "webp"}
"""Compressions of TIFF that change values."""

_PNG = "Save the label values as a PNG of one channel."
_PNG_COLORS = "Save it as a PNG of 8 bits per channel."


def read_label_map(
    path: Path, data: bytes | None = None, colors: ColorTable | None = None
) -> np.ndarray:
    """Read the label values of a label map.

    The file is verified first (a PNG by its checksums). An EXIF orientation is applied, as for
    photographs.

    Args:
        path: the file.
        data: its content, if it was read before.
        colors: the colours of a colour-coded label map and their label values.

    Returns:
        Samples of a grey image, or indices of a palette image, as the file stores them:
        (height, width), uint8, or uint16 for more than 8 bits.

    Raises:
        DataError: the file cannot be decoded, has several channels or frames, has values outside
            0 to 65535, or has an encoding from which label values cannot be read unchanged. With
            ``colors``: a colour is not listed, transparent, or has no equal of 8 bits.
    """
    if colors is not None:
        return colors.map_colors(read_color_pixels(path, data), path)
    with open_verified(path, data) as file:
        problem = _find_problem(file)
        if problem:
            raise DataError(f"{path}: {problem}")
        scale = _SCALES[_raw_mode(file)]
        turned = _orientation(file)
        pixels = np.asarray(file)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = _narrow(pixels, path)
    return _apply_orientation(pixels // scale if scale > 1 else pixels, turned)


def read_color_pixels(path: Path, data: bytes | None = None) -> np.ndarray:
    """Read the colours of a colour-coded label map, (height, width, 3) uint8, red first.

    Raises:
        DataError: the file cannot be decoded, may have changed colours, has transparent pixels, or
            colours of 16 bits that have no equal of 8 bits.
    """
    data = _read_bytes(path) if data is None else data
    with open_verified(path, data) as file:
        problem = _find_format_problem(file)
        raw = _raw_mode(file)
        is_deep = "16" in raw or file.mode.startswith("I")
        if not problem and is_deep and file.format != "PNG":
            problem = f"has colours of 16 bits in a {file.format} file. {_PNG_COLORS}"
        if problem:
            raise DataError(f"{path}: {problem}")
        turned = _orientation(file)
        if not is_deep:
            has_alpha = file.mode in ("RGBA", "LA", "PA") or "transparency" in file.info
            pixels = np.asarray(file.convert("RGBA" if has_alpha else "RGB"))
    if is_deep:
        # Pillow keeps the upper 8 of 16 bits only.
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is None:
            raise DataError(unreadable_message(path, OSError("OpenCV cannot decode it")))
        deep = np.repeat(deep[..., None], 3, -1) if deep.ndim == 2 else deep
        order = [2, 1, 0, 3][: deep.shape[-1]]
        pixels = narrow_colors(deep[..., order], path)
    return _apply_orientation(drop_alpha(pixels, path), turned)


@contextlib.contextmanager
def open_verified(path: Path, data: bytes | None = None) -> Iterator[ImageFile]:
    """Open an image with Pillow after verifying it; errors of the block name the file.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    data = _read_bytes(path) if data is None else data
    try:
        if not data:
            raise OSError("the file is empty")
        with Image.open(io.BytesIO(data)) as file:
            if isinstance(file, PngImageFile):
                _verify_checksums(file, data)
                yield file
                return
            file.verify()  # which makes the file unusable
        with Image.open(io.BytesIO(data)) as file:
            yield file
    except UNREADABLE as error:
        raise DataError(unreadable_message(path, error)) from error


def _verify_checksums(file: PngImageFile, data: bytes) -> None:
    """Verify the checksums of a PNG from its pixels to its end; decoding does not verify them.

    As ``file.verify()``, but the file can be decoded afterwards without opening it again.
    """
    stream = io.BytesIO(data)
    stream.seek(file.tile[0].offset - 8)  # the length and the name of the chunk
    ChunkStream(stream).verify()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(unreadable_message(path, error)) from error


def unreadable_message(path: Path, error: BaseException) -> str:
    """The error message for a file that cannot be decoded."""
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"{path}: has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels. "
            "Cut the image and its label map into tiles."
        )
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "no known image format"
    reason = reason or type(error).__name__
    return f"{path}: cannot be decoded ({reason}). Copy or download this file again."


def _find_problem(file: ImageFile) -> str:
    """Why label values cannot be read from an opened file, and the remedy; empty if they can."""
    return _find_format_problem(file) or _find_encoding_problem(file)


def _find_format_problem(file: ImageFile) -> str:
    """Why the format of a file may change label values and colours."""
    if file.format == "GIF":
        return (
            "is a GIF, and programs renumber its palette, so that its values are not those that "
            f"were saved. {_PNG}"
        )
    if file.format not in FORMATS:
        return (
            f"is a {file.format} file; label maps are read from {', '.join(FORMATS)} files, which "
            f"keep every value. {_PNG}"
        )
    frames = getattr(file, "n_frames", 1)
    if frames > 1:
        return f"has {frames} frames; a label map has one. Save the right one alone."
    if file.info.get("compression") in _LOSSY:
        return f"has a lossy compression, which changes label values. {_PNG}"
    return ""


def _find_encoding_problem(file: ImageFile) -> str:
    """Why label values cannot be read from the samples of a file."""
    if len(file.getbands()) > 1:
        return (
            "expected label values in one channel (grey or palette), found the mode "
            f"'{file.mode}'. Name its colours in dataset.palette, or convert them "
            "to label values."
        )
    raw = _raw_mode(file)
    if isinstance(file, TiffImageFile) and file.tag_v2.get(PHOTOMETRIC) == 0:
        return (
            "stores white as 0 (PhotometricInterpretation 0), and programs disagree about its "
            f"values. {_PNG}"
        )
    if file.format == "BMP" and not _is_bmp_decoded_as_stored(file, raw):
        return f"is a BMP with a reduced grey palette, whose values are ambiguous. {_PNG}"
    if raw not in _SCALES:
        return (
            f"label values are whole numbers of 1, 2, 4, 8 or 16 bits, this file has the encoding "
            f"'{raw}'. {_PNG}"
        )
    return ""


def _raw_mode(file: ImageFile) -> str:
    """The encoding of the samples in the file, in Pillow's notation, e.g. ``L;2``."""
    if not file.tile:
        return "no pixels"
    arguments: Any = file.tile[0][3]
    first = arguments if isinstance(arguments, str) else arguments[0]
    # The decoder of a BMP with run lengths has no raw mode: it gives indices.
    return first if isinstance(first, str) else file.mode


def _is_bmp_decoded_as_stored(file: ImageFile, raw: str) -> bool:
    """Whether Pillow's raw mode of a BMP has the bits of its header.

    Pillow takes a palette of black and white for one bit, and grey levels for eight bits.
    """
    assert file.fp is not None
    file.fp.seek(14)
    header = file.fp.read(16)
    (size,) = struct.unpack("<I", header[:4])
    (bits,) = struct.unpack("<H", header[10:12] if size == 12 else header[14:16])
    return bits == {"1": 1, "P;1": 1, "P;4": 4}.get(raw, 8) or _is_run_length(file)


def _is_run_length(file: ImageFile) -> bool:
    return file.tile[0][0] == "bmp_rle" and file.mode == "P"


def _narrow(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Values of 12 to 32 bits as uint16."""
    low, high = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
    if low < 0 or high > HIGHEST_LABEL:
        raise DataError(
            f"{path}: label out of range: {low if low < 0 else high}; a label map has values from "
            f"0 to {HIGHEST_LABEL}. {_PNG}"
        )
    return pixels.astype(np.uint16)


def _orientation(file: ImageFile) -> int:
    """The EXIF orientation that Pillow has not applied yet, 1 to 8; loads the pixels."""
    file.load()
    if file.format == "TIFF":  # Pillow turns a TIFF while loading
        return 1
    exif = Image.Exif()
    exif.load(file.info.get("exif") or b"")
    value = exif.get(ORIENTATION, 1)
    return value if value in range(2, 9) else 1


def _apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror (height, width, ...) as an EXIF orientation asks."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
