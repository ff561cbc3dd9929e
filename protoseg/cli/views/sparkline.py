"""Curves of one line of text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

LEVELS = "▁▂▃▄▅▆▇█"


def draw_sparkline(values: Sequence[float], width: int) -> str:
    """Draw a curve with one character for each of at most ``width`` values.

    More values are divided into ``width`` groups of almost equal size, each drawn as its mean. The
    lowest and the highest drawn value have the lowest and the highest level.

    Args:
        values: finite numbers, oldest first.
        width: number of characters.

    Returns:
        The curve; empty for fewer than two values.
    """
    count = len(values)
    if count < 2 or width < 2:
        return ""  # one point is no curve
    number = min(count, width)
    bounds = [index * count // number for index in range(number + 1)]
    groups = [values[start:end] for start, end in itertools.pairwise(bounds)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(LEVELS[round((mean - low) * scale)] for mean in means)
