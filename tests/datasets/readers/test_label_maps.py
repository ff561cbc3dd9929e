"""A label map is read as the values that were written, or refused with a sentence.

The values are written by encoders of this folder, or by Pillow in each of its modes and formats.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.readers.encoders import ORIENTATIONS, chunk, encode_bmp, encode_png, encode_tiff
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.datasets.readers.photographs import read_photograph
from protoseg.errors import DataError

DEPTHS = (1, 2, 4, 8, 16)
MODES = ("1", "L", "P", "I;16", "I;16B", "I", "F", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr",
         "LAB", "HSV")  # fmt: skip
ONE_CHANNEL = {"1": 1, "L": 255, "P": 255, "I;16": 65535, "I;16B": 65535, "I": 65535}
"""Pillow's modes of one channel with whole numbers -> the highest value written."""
COMPRESSIONS = (None, "raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "group3", "group4",
                "jpeg", "zstd", "lzma")  # fmt: skip


def read_bytes(data: bytes, folder: Path) -> np.ndarray | None:
    """The label map in these bytes; None if it is refused with one sentence about the file."""
    path = folder / "map"
    path.write_bytes(data)
    try:
        return read_label_map(path)
    except DataError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return None


@st.composite
def label_maps(draw: st.DrawFn, highest: int) -> np.ndarray:
    """A map of random size; its values are few, many, or the extremes."""
    shape = draw(st.integers(1, 19)), draw(st.integers(1, 19))
    values = draw(st.lists(st.integers(0, highest), min_size=1, max_size=6))
    values += draw(st.sampled_from([[], [0, 1], [0, highest], [highest]]))
    return np.random.default_rng(draw(st.integers(0, 999))).choice(values, shape)


@st.composite
def palettes(draw: st.DrawFn, count: int, channels: int) -> bytes:
    """Colours: random, grey levels in order, the same for all, or white and black."""
    random = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (count, 3))
    ramp = np.repeat(np.arange(count), 3).reshape(count, 3)
    tables = [random, ramp, ramp[::-1], np.full((count, 3), 7), ramp * 255 // max(1, count - 1)]
    table = draw(st.sampled_from(tables)) % 256
    return np.pad(table, ((0, 0), (0, channels - 3))).astype(np.uint8).tobytes()


@st.composite
def own_files(draw: st.DrawFn) -> tuple[bytes, np.ndarray, bool]:
    """A file of our encoders, its values, and whether it may be refused."""
    file_kind = draw(st.sampled_from(["grey png", "palette png", "tiff", "bmp"]))
    depths = {"palette png": (1, 2, 4, 8), "bmp": (1, 4, 8)}.get(file_kind, DEPTHS)
    depth = draw(st.sampled_from(depths))
    labels = draw(label_maps(2**depth - 1))
    if file_kind == "tiff":
        white, least = draw(st.booleans()), draw(st.booleans()) and depth < 8
        data = encode_tiff(labels, depth, white_is_zero=white, least_first=least)
        return data, labels, white
    if file_kind == "bmp":
        count = draw(st.integers(int(labels.max()) + 1, 2**depth))
        return encode_bmp(labels, depth, draw(palettes(count, 4))), labels, True
    colours = b"" if file_kind == "grey png" else draw(palettes(2**depth, 3))
    extra = {
        b"": b"",
        b"gAMA": chunk(b"gAMA", struct.pack(">I", 45455)),
        b"tRNS": chunk(b"tRNS", bytes(2 ** min(depth, 8)) if colours else b"\0\1"),
        b"sRGB": chunk(b"sRGB", b"\0"),
        b"bKGD": chunk(b"bKGD", b"\0" if colours else b"\0\0"),
    }
    before = extra[draw(st.sampled_from(list(extra)))]
    interlaced = draw(st.booleans())
    return encode_png(labels, depth, colours, interlaced=interlaced, before=before), labels, False


@st.composite
def pillow_files(draw: st.DrawFn) -> tuple[bytes, np.ndarray, str]:
    """A file that Pillow writes, its values, and its mode; empty bytes if Pillow cannot."""
    Image.init()
    formats = sorted(set(Image.SAVE) - {"IM"})  # IM is deprecated
    mode, file_format = draw(st.sampled_from(MODES)), draw(st.sampled_from(formats))
    file_format = draw(st.sampled_from([file_format, "PNG", "TIFF", "BMP", "GIF"]))
    labels = draw(label_maps(ONE_CHANNEL.get(mode, 255)))
    if mode in ("1", "P", "L"):
        image = Image.fromarray((labels * (255 if mode == "1" else 1)).astype(np.uint8))
        image = image.convert("1") if mode == "1" else image
    elif mode.startswith("I;"):
        image = Image.fromarray(labels.astype("<u2" if mode == "I;16" else ">u2"))
    elif mode in ("I", "F"):
        image = Image.fromarray(labels.astype(np.int32 if mode == "I" else np.float32))
    else:
        image = Image.new(mode, labels.shape[::-1])
    if mode == "P":
        image.putpalette(draw(palettes(draw(st.integers(int(labels.max()) + 1, 256)), 3)))
    options = {"compression": draw(st.sampled_from(COMPRESSIONS))} if file_format == "TIFF" else {}
    options |= {"optimize": True} if draw(st.booleans()) else {}
    if file_format == "GIF":
        options |= {"interlace": draw(st.booleans())}
    buffer = io.BytesIO()
    try:
        image.save(buffer, file_format, **{k: v for k, v in options.items() if v is not None})
    except Exception:  # a mode that the format has not; plugins raise many types
        return b"", labels, mode
    return buffer.getvalue(), labels, mode


def check_own_file(folder: Path, case: tuple[bytes, np.ndarray, bool]) -> None:
    data, written, may_be_refused = case
    labels = read_bytes(data, folder)
    if labels is None:
        assert may_be_refused
    else:
        np.testing.assert_array_equal(labels, written)
        assert labels.dtype in (np.uint8, np.uint16)


def check_pillow_file(folder: Path, case: tuple[bytes, np.ndarray, str]) -> None:
    data, written, mode = case
    labels = read_bytes(data, folder) if data else None
    if labels is not None:
        assert mode in ONE_CHANNEL
        np.testing.assert_array_equal(labels, written)


def run_examples(count: int) -> Callable[..., settings]:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, deadline=None, suppress_health_check=checks)


@given(own_files())
@run_examples(100)
def test_maps_of_every_depth_are_read_as_written(
    tmp_path: Path, case: tuple[bytes, np.ndarray, bool]
) -> None:
    check_own_file(tmp_path, case)


@given(pillow_files())
@run_examples(100)
def test_maps_of_every_mode_and_format_are_read_as_written_or_refused(
    tmp_path: Path, case: tuple[bytes, np.ndarray, str]
) -> None:
    check_pillow_file(tmp_path, case)


@pytest.mark.slow
@given(own_files(), pillow_files())
@run_examples(int(os.environ.get("PROTOSEG_MAPS", "1500")))  # 10,000 before a release
def test_many_maps_are_read_as_written_or_refused(
    tmp_path: Path,
    own: tuple[bytes, np.ndarray, bool],
    pillow: tuple[bytes, np.ndarray, str],
) -> None:
    check_own_file(tmp_path, own)
    check_pillow_file(tmp_path, pillow)


FORMATS_OF_ONE_BIT = {
    "PNG": lambda bits: save(one_bit(bits), "PNG"),
    "own PNG": lambda bits: encode_png(bits, 1),
    "palette PNG": lambda bits: encode_png(bits, 1, bytes([255] * 3 + [0] * 3)),
    "TIFF": lambda bits: save(one_bit(bits), "TIFF"),
    "TIFF group4": lambda bits: save(one_bit(bits), "TIFF", compression="group4"),
    "BMP": lambda bits: save(one_bit(bits), "BMP"),
    "inverted BMP": lambda bits: encode_bmp(bits, 1, bytes([255, 255, 255, 0, 0, 0, 0, 0])),
}


def one_bit(bits: np.ndarray) -> Image.Image:
    return Image.fromarray(bits.astype(np.uint8) * 255).convert("1")


def save(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("encode", FORMATS_OF_ONE_BIT.values(), ids=FORMATS_OF_ONE_BIT)
def test_one_bit_is_read_as_0_and_1(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    bits = np.arange(77).reshape(7, 11) % 3 % 2
    np.testing.assert_array_equal(read_bytes(encode(bits), tmp_path), bits)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_grey_png_is_read_as_its_samples(tmp_path: Path, depth: int, interlaced: bool) -> None:
    labels = np.arange(13 * 9).reshape(9, 13) * 331 % 2**depth
    data = encode_png(labels, depth, interlaced=interlaced)
    np.testing.assert_array_equal(read_bytes(data, tmp_path), labels)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_png_is_read_as_its_indices(tmp_path: Path, depth: int) -> None:
    """Neither the order of the colours, nor transparency, nor ICC or gamma changes a label."""
    labels = np.arange(13 * 9).reshape(9, 13) % 2**depth
    palette = bytes(range(256))[: 3 * 2**depth].ljust(3 * 2**depth, b"\7")[::-1]
    for before in (
        chunk(b"tRNS", bytes(2**depth)),
        chunk(b"gAMA", struct.pack(">I", 100000)),
        chunk(b"iCCP", b"name\0\0" + b"x\x9c\3\0\0\0\0\1"),
    ):
        data = encode_png(labels, depth, palette, before=before)
        np.testing.assert_array_equal(read_bytes(data, tmp_path), labels)


def exif_bytes(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize(("orientation", "upright"), ORIENTATIONS.items())
def test_the_orientation_of_a_map_is_applied_as_to_photographs(
    tmp_path: Path, orientation: int, upright: str
) -> None:
    stored = np.arange(35).reshape(5, 7)
    expected = eval(upright, {"np": np, "p": stored})
    mark = chunk(b"eXIf", exif_bytes(orientation))
    files = [
        encode_png(stored, 8, before=mark),
        encode_png(stored, 8, after=mark),
        encode_tiff(stored, 8, orientation=orientation),
    ]
    for data in files:
        np.testing.assert_array_equal(read_bytes(data, tmp_path), expected)
        photograph = tmp_path / "photograph"
        photograph.write_bytes(data)
        np.testing.assert_array_equal(read_photograph(photograph)[..., 0], expected)


GREY = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
LARGE = np.array([[0, 65536]], np.int32)
REFUSED = {
    "gif": (save(GREY, "GIF"), "is a GIF, and programs renumber its palette"),
    "jpeg": (save(GREY, "JPEG"), "is a JPEG file; label maps are read from PNG, TIFF, BMP files"),
    "webp": (save(GREY, "WEBP", lossless=True), "is a WEBP file"),
    "pages": (save(GREY, "TIFF", save_all=True, append_images=[GREY]), "has 2 frames"),
    "apng": (
        save(GREY, "PNG", save_all=True, append_images=[Image.new("L", (4, 3))]),
        "has 2 frames",
    ),
    "jpeg in tiff": (save(GREY, "TIFF", compression="jpeg"), "has a lossy compression"),
    "alpha": (save(GREY.convert("LA"), "PNG"), "found the mode 'LA'"),
    "colour": (save(GREY.convert("RGB"), "BMP"), "found the mode 'RGB'"),
    "cmyk": (save(GREY.convert("CMYK"), "TIFF"), "found the mode 'CMYK'"),
    "float": (save(GREY.convert("F"), "TIFF"), "this file has the encoding 'F;32F'"),
    "white is 0": (encode_tiff(np.eye(3, dtype=int), 2, white_is_zero=True), "stores white as 0"),
    "grey bmp": (encode_bmp(np.eye(3, dtype=int), 8, bytes([0] * 4 + [255] * 3 + [0])), "is a BMP"),
    "large": (save(Image.fromarray(LARGE), "TIFF"), "label out of range: 65536"),
    "negative": (save(Image.fromarray(-LARGE), "TIFF"), "label out of range: -65536"),
    "empty": (b"", "cannot be decoded (the file is empty)"),
    "text": (b"<html>", "cannot be decoded (no known image format)"),
    "no end": (save(GREY, "PNG")[:-12], "cannot be decoded ("),
}


@pytest.mark.parametrize(("data", "problem"), REFUSED.values(), ids=REFUSED)
def test_a_map_without_certain_values_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "map"
    path.write_bytes(data)
    with pytest.raises(DataError, match=re.escape(problem)) as error:
        read_label_map(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_a_gif_is_refused_because_pillow_renumbers_it() -> None:
    labels = np.array([[0, 3, 7]], np.uint8)
    with Image.open(io.BytesIO(save(Image.fromarray(labels), "GIF"))) as file:
        assert np.asarray(file).tolist() == [[0, 1, 2]]


def test_a_map_above_pillows_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "map"
    path.write_bytes(encode_png(np.zeros((3, 7), int), 8))
    with pytest.raises(DataError, match=r"has more than 20 pixels\. Cut the image"):
        read_label_map(path)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
@given(position=st.floats(0, 1, exclude_max=True), cut=st.booleans(), bit=st.integers(0, 7))
@run_examples(40)
def test_damaged_files_are_refused_with_a_sentence(
    tmp_path: Path, file_format: str, position: float, cut: bool, bit: int
) -> None:
    """Only a PNG has checksums: there, a changed bit is never read as another label."""
    labels = np.arange(300).reshape(15, 20) % 251
    data = bytearray(save(Image.fromarray(labels.astype(np.uint8)), file_format))
    index = int(position * len(data))
    if cut:
        del data[index:]
    else:
        data[index] ^= 1 << bit
    read = read_bytes(bytes(data), tmp_path)
    if read is not None and file_format == "PNG":
        np.testing.assert_array_equal(read, labels)
