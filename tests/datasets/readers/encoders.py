"""Writes label maps byte by byte, independent of Pillow and of protoseg's reader."""

from __future__ import annotations

import struct
import zlib

import numpy as np

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
         (1, 0, 2, 1))  # fmt: skip
"""First row, first column, row step and column step of the passes of an interlaced PNG."""


def pack_row(row: np.ndarray, depth: int, *, least_first: bool = False) -> bytes:
    """Pack samples of 1, 2, 4, 8 or 16 bits into bytes; the last byte is padded with zeros."""
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = "".join(f"{value:0{depth}b}" for value in row.tolist())
    groups = [bits[i : i + 8].ljust(8, "0") for i in range(0, len(bits), 8)]
    return bytes(int(group[::-1] if least_first else group, 2) for group in groups)


def chunk(name: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encode_png(
    labels: np.ndarray,
    depth: int,
    palette: bytes = b"",
    *,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A grey PNG, or with ``palette`` (3 bytes a colour) a palette PNG.

    Args:
        labels: (height, width), below 2 to the power of ``depth``.
        depth: 1, 2, 4, 8 or 16 bits; at most 8 with a palette.
        interlaced: in the seven passes of Adam7.
        before: further chunks in front of the pixels.
        after: further chunks behind the pixels.
    """
    height, width = labels.shape
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = (labels[row::rows, column::columns] for row, column, rows, columns in passes)
    lines = b"".join(b"\0" + pack_row(row, depth) for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, depth, 3 if palette else 0, 0, 0, interlaced)
    colours = chunk(b"PLTE", palette) if palette else b""
    return b"".join([
        b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), colours, before,
        chunk(b"IDAT", zlib.compress(lines)), after, chunk(b"IEND", b""),
    ])  # fmt: skip


def encode_tiff(
    labels: np.ndarray,
    depth: int,
    *,
    white_is_zero: bool = False,
    least_first: bool = False,
    orientation: int = 1,
) -> bytes:
    """An uncompressed grey TIFF, little-endian.

    Args:
        labels: (height, width), below 2 to the power of ``depth``.
        depth: 1, 2, 4, 8 or 16 bits.
        white_is_zero: PhotometricInterpretation 0 instead of 1.
        least_first: FillOrder 2: the first pixel is in the lowest bits of a byte.
        orientation: the tag of EXIF's values.
    """
    height, width = labels.shape
    if depth == 16:
        pixels = labels.astype("<u2").tobytes()
    else:
        pixels = b"".join(pack_row(row, depth, least_first=least_first) for row in labels)
    tags = [
        (256, width), (257, height), (258, depth), (259, 1), (262, 0 if white_is_zero else 1),
        (266, 2 if least_first else 1), (273, 0), (274, orientation), (277, 1), (278, height),
        (279, len(pixels)),
    ]  # fmt: skip
    offset = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, offset if tag == 273 else value) for tag, value in tags
    )
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + directory + pixels


def encode_bmp(labels: np.ndarray, depth: int, palette: bytes) -> bytes:
    """An uncompressed BMP of 1, 4 or 8 bits, with 4 bytes (blue first) for each colour."""
    height, width = labels.shape
    rows = (pack_row(row, depth) for row in labels[::-1])
    pixels = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in rows)
    offset = 14 + 40 + len(palette)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, depth, 0, len(pixels), 0, 0, len(palette) // 4, 0
    )
    head = b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset)
    return head + info + palette + pixels


ORIENTATIONS = {
    1: "p", 2: "p[:, ::-1]", 3: "p[::-1, ::-1]", 4: "p[::-1]", 5: "p.T", 6: "np.rot90(p, -1)",
    7: "p[::-1, ::-1].T", 8: "np.rot90(p)",
}  # fmt: skip
"""EXIF orientation -> how numpy shows the stored pixels upright (EXIF 2.3, tag 274)."""
