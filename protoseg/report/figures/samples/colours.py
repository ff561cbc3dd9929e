"""Colours of classes and prototypes in figures, and what a note tells about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protoseg.config.class_colors import (
    SAFE_COLORS,
    Color,
    choose_class_colors,
    has_colors,
    list_safe_colors,
)
from protoseg.report.figures.samples.plots import ClassColours

RED_GREEN_BLUE: tuple[Color, ...] = ((228, 26, 28), (0, 170, 60), (30, 80, 255))
"""Colours of three prototypes, as in the paper."""


def choose_colours(
    dataset: Mapping[str, Any], classes: Sequence[str], ignored: int
) -> tuple[ClassColours, str]:
    """Choose the colours of classes.

    Args:
        dataset: the data set of a spec, with its ``palette`` if it has one.
        classes: names of the classes.
        ignored: label of ignored pixels.

    Returns:
        The colours, and a sentence about them for the note.
    """
    palette = dataset.get("palette") or {}
    note = "Colours: safe for colour-blind readers."
    if has_colors(palette, classes):
        note = "Colours: the palette of the data set."
    elif len(classes) > len(SAFE_COLORS):
        note = f"Colours of {len(classes)} classes: not safe for colour-blind readers."
    return ClassColours(tuple(classes), choose_class_colors(classes, palette), ignored), note


def list_prototype_colours(number: int) -> tuple[tuple[Color, ...], str]:
    """List the colours of K prototypes, and the words about them for the note."""
    if number == len(RED_GREEN_BLUE):
        return RED_GREEN_BLUE, "red, green and blue"
    return list_safe_colors(number), "colours that are safe for colour-blind readers"
