"""Draws the settings of the trials of a search: a scrambled Sobol sequence, or a full grid.

The points depend on the searched keys, their spaces and the seed of the search only. More trials
extend the sequence and never change its beginning.

Source: Sobol' 1967, with the scrambling of Matousek 1998 (scipy.stats.qmc).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from typing import Any

from protoseg.config.search_space import Choice, Space
from protoseg.errors import UsageError

MOST_KEYS = 64
"""More searched keys than this are refused: no number of trials would cover them."""


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
    if not spaces:
        return [{} for _ in range(trials)]
    if len(spaces) > MOST_KEYS:
        raise UsageError(f"{where}: {len(spaces)} keys are searched; at most {MOST_KEYS}.")
    import numpy as np
    from scipy.stats import qmc

    generator = np.random.default_rng(seed)
    sequence = qmc.Sobol(len(spaces), scramble=True, seed=generator)
    with warnings.catch_warnings():
        # Its balance holds for powers of two; a search may have any number of trials.
        warnings.simplefilter("ignore", UserWarning)
        points = sequence.random(trials)
    return [
        {key: space.pick(share) for (key, space), share in zip(spaces.items(), point, strict=True)}
        for point in points.tolist()
    ]


def list_grid(spaces: Mapping[str, Space], where: str) -> list[dict[str, Any]]:
    """List all combinations of the values of some spaces.

    Raises:
        UsageError: a space is a range.
    """
    for key, space in spaces.items():
        if not isinstance(space, Choice):
            raise UsageError(
                f"{where}.{key}: a grid needs a list of values; {space.describe()} is a range."
            )
    lists = [space.values for space in spaces.values() if isinstance(space, Choice)]
    return [dict(zip(spaces, values, strict=True)) for values in itertools.product(*lists)]


def count_grid(spaces: Mapping[str, Space]) -> int:
    """Count the combinations of a grid."""
    return math.prod(len(s.values) for s in spaces.values() if isinstance(s, Choice))
