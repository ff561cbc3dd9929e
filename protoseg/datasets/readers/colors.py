"""Colours of label maps: the palette of a data set, and the class of each colour.

A palette names the colours of each class, 8 bits per channel, and under ``ignore`` the colours of
ignored pixels. A file with 16 bits per channel stores the value v as 257·v.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protoseg.config.schema import DatasetSpec
from protoseg.errors import DataError

IGNORED = "ignore"
"""The key of the ignored colours in a palette."""

Color = tuple[int, int, int]


class ColorTable:
    """The label value of each colour.

    Args:
        values: colour -> label value.
        names: colour -> name of its class, for messages.
    """

    def __init__(self, values: dict[Color, int], names: dict[Color, str]) -> None:
        colors = sorted(values)
        self._names = names
        self._codes = _encode(np.array(colors, np.uint32))
        highest = max(values.values())
        dtype = np.uint8 if highest < 256 else np.uint16
        self._values = np.array([values[color] for color in colors], dtype)

    def map_colors(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        """The label values of an image.

        Args:
            pixels: (height, width, 3) uint8, red first.
            path: the file, for messages.

        Returns:
            (height, width), uint8, or uint16 for values above 255.

        Raises:
            DataError: a colour that is not in the table.
        """
        codes = _encode(pixels.astype(np.uint32))
        positions = np.searchsorted(self._codes, codes)
        positions[positions == len(self._codes)] = 0
        unknown = self._codes[positions] != codes
        if unknown.any():
            raise DataError(self._describe_unknown(pixels, unknown, path))
        labels: np.ndarray = self._values[positions]
        return labels

    def _describe_unknown(self, pixels: np.ndarray, unknown: np.ndarray, path: Path) -> str:
        y, x = np.unravel_index(int(unknown.argmax()), unknown.shape)
        color = tuple(pixels[y, x].tolist())
        nearest = min(self._names, key=lambda other: (_distance(color, other), other))
        return (
            f"{path}: pixel x={x}, y={y} has the colour {_format(color)}, which is not in the "
            f"palette ({int(unknown.sum())} such pixels); the nearest is {_format(nearest)}, "
            f"'{self._names[nearest]}'. Add the colour to dataset.palette, or correct the file."
        )


def make_color_table(dataset: DatasetSpec) -> ColorTable | None:
    """The colours of a data set; None without a palette.

    The label value of a class is its number; ignored colours have ``ignore_index``.
    """
    if not dataset.palette:
        return None
    values: dict[Color, int] = {}
    names: dict[Color, str] = {}
    for name, colors in dataset.palette.items():
        for color in list_colors(colors):
            ignored = name == IGNORED
            values[color] = dataset.ignore_index if ignored else dataset.classes.index(name)
            names[color] = name
    return ColorTable(values, names)


def find_palette_problems(dataset: DatasetSpec) -> Iterator[str]:
    """One message for each fault of a palette."""
    if not dataset.palette:
        return
    for key in ("labels", "label_count", "reduce_zero_label", "ignore"):
        if getattr(dataset, key):
            yield (
                f"palette: cannot be used with {key}, which is about label values. Remove {key}; "
                f"list ignored colours under palette.{IGNORED}."
            )
    names = {*dataset.palette} - {IGNORED}
    if IGNORED in dataset.classes:
        yield f"palette: '{IGNORED}' is the key of ignored colours. Rename the class '{IGNORED}'."
    for name in sorted(names.symmetric_difference(dataset.classes) - {IGNORED}):
        where = "classes, but not in palette" if name in dataset.classes else "palette, not classes"
        yield f"palette: '{name}' is in {where}. Name each class in both."
    if dataset.ignore_index < len(dataset.classes):
        yield (
            f"ignore_index: {dataset.ignore_index} is the number of a class; with a palette set "
            "it to 255, or to 65535 for more than 255 classes."
        )
    first: dict[Color, str] = {}
    for name, colors in dataset.palette.items():
        try:
            members = list_colors(colors)
        except ValueError:
            yield (
                f"palette.{name}: expected a colour such as [128, 0, 0], three whole numbers from "
                f"0 to 255, or a list of colours, found {colors!r}."
            )
            continue
        for color in members:
            if first.setdefault(color, name) != name:
                yield (
                    f"palette: {_format(color)} is a colour of '{first[color]}' and of '{name}'. "
                    "Remove it from one of them."
                )


def narrow_colors(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Colours of 16 bits per channel as 8 bits, (height, width, channels) uint8.

    Raises:
        DataError: a value that is no multiple of 257, so that it has no equal of 8 bits.
    """
    narrow = (pixels >> 8).astype(np.uint8)
    uneven = (narrow.astype(np.uint16) * np.uint16(257) != pixels).any(axis=-1)
    if uneven.any():
        y, x = np.unravel_index(int(uneven.argmax()), uneven.shape)
        raise DataError(
            f"{path}: pixel x={x}, y={y} has the 16-bit colour {_format(pixels[y, x].tolist())}, "
            "which is no multiple of 257 and so has no equal of 8 bits. Save the label map with 8 "
            "bits per channel."
        )
    return narrow


def drop_alpha(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Opaque colours without their alpha channel, (height, width, 3) uint8.

    Raises:
        DataError: a pixel is transparent, so that its colour may have no meaning.
    """
    if pixels.shape[-1] == 4:
        transparent = pixels[..., 3] != 255
        if transparent.any():
            y, x = np.unravel_index(int(transparent.argmax()), transparent.shape)
            raise DataError(
                f"{path}: pixel x={x}, y={y} is transparent (alpha {pixels[y, x, 3]} of 255, "
                f"{int(transparent.sum())} such pixels). Give ignored pixels an opaque colour."
            )
    return pixels[..., :3]


def list_colors(value: Any) -> list[Color]:
    """A colour or a list of colours, as tuples."""
    colors = [value] if value and not isinstance(value[0], list | tuple) else value
    if not isinstance(colors, list | tuple) or not colors:
        raise ValueError(value)
    return [_convert_color(color) for color in colors]


def _convert_color(value: Any) -> Color:
    match value:
        case [int(r), int(g), int(b)] if all(type(c) is int and 0 <= c <= 255 for c in (r, g, b)):
            return r, g, b
    raise ValueError(value)


def _encode(pixels: np.ndarray) -> np.ndarray:
    """(..., 3) as one number, 65536·red + 256·green + blue."""
    codes: np.ndarray = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    return codes


def _distance(first: Sequence[int], second: Sequence[int]) -> int:
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True))


def _format(color: Sequence[int]) -> str:
    return f"[{', '.join(map(str, color))}]"
