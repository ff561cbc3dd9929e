"""Colours in which classes are shown: those of the data set's palette, or distinct ones."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

Color = tuple[int, int, int]
"""Red, green and blue, 8 bits each."""


def _parse_hex(text: str) -> Color:
    red, green, blue = (int(text[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


SAFE_COLORS = tuple(
    _parse_hex(text)
    for text in (
        *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442"),
        *("#0000FF", "#5A2D00", "#A5F096", "#2D1EA5", "#69005A", "#5A78FF", "#5A3C3C", "#FFA5B4"),
        *("#4BB45A", "#A5E1FF", "#875A3C", "#3C4BF0", "#D2E169", "#4B96F0", "#3C2D87", "#964B78"),
    )
)
"""The seven colours of Okabe and Ito without black, then further ones: each is the colour of a grid
whose smallest distance to all before it, black and white is largest, for normal sight and for
protanopia and deuteranopia (Machado et al. 2009). No two differ by less than 17 (CIE 1976)."""


def has_colors(palette: Mapping[str, Any], classes: Sequence[str]) -> bool:
    """Whether a palette has a colour for every class."""
    return bool(palette) and all(name in palette for name in classes)


def choose_class_colors(classes: Sequence[str], palette: Mapping[str, Any]) -> tuple[Color, ...]:
    """Choose a colour for each class: the first one in the palette, or a distinct one.

    Args:
        classes: names of the classes.
        palette: ``dataset.palette``: class -> a colour or a list of colours; may be empty.
    """
    if has_colors(palette, classes):
        return tuple(_read_first(palette[name]) for name in classes)
    return list_safe_colors(len(classes))


def list_safe_colors(number: int) -> tuple[Color, ...]:
    """List distinct colours; up to ``len(SAFE_COLORS)`` are safe for colour-blind readers."""
    if number <= len(SAFE_COLORS):
        return SAFE_COLORS[:number]
    # Hues at the golden angle, in three brightnesses.
    return tuple(_mix_color(0.618034 * i % 1, (1.0, 0.75, 0.5)[i % 3]) for i in range(number))


def _mix_color(hue: float, brightness: float) -> Color:
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.7, brightness))
    return red, green, blue


def _read_first(value: Any) -> Color:
    """The first colour of a class that may have several."""
    first = value[0] if isinstance(value[0], list | tuple) else value
    red, green, blue = (int(channel) for channel in first)
    return red, green, blue
