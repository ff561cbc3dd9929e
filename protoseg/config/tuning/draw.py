"""Draws the settings of the trials of a search: points of a Sobol sequence, or a full grid.

The points depend on the number of the key in its row and on the seed of the search only. So more
trials extend the list and never change its beginning, and rows that search the same keys try the
same values.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from protoseg.config.tuning.search_space import Choice, Space
from protoseg.config.tuning.sobol import DIMENSIONS, list_points
from protoseg.errors import UsageError


def draw_settings(
    spaces: Mapping[str, Space], trials: int, seed: int, where: str
) -> list[dict[str, Any]]:
    """Draw the values of some trials.

    Args:
        spaces: key -> its space, in the order of the matrix.
        trials: number of trials.
        seed: seed of the search.
        where: place named in error messages.

    Returns:
        For each trial: key -> value. Without a key, every trial has the same empty setting.

    Raises:
        UsageError: too many keys.
    """
    if len(spaces) > DIMENSIONS:
        raise UsageError(
            f"{where}: {len(spaces)} keys are searched at once; at most {DIMENSIONS} are allowed. "
            "Search fewer keys."
        )
    return [
        {key: space.pick(share) for (key, space), share in zip(spaces.items(), point, strict=False)}
        for point in list_points(trials, seed)
    ]


def list_grid(spaces: Mapping[str, Space], where: str) -> list[dict[str, Any]]:
    """List all combinations of the values of some spaces.

    Raises:
        UsageError: a space is a range.
    """
    for key, space in spaces.items():
        if not isinstance(space, Choice):
            raise UsageError(
                f"{where}.{key}: a grid needs a list of values; {space.describe()} is a range. "
                "List values, or set trials instead of grid."
            )
    lists = [space.values for space in spaces.values() if isinstance(space, Choice)]
    return [dict(zip(spaces, values, strict=True)) for values in itertools.product(*lists)]
