"""Compares the levels of one axis directly, by one additive model with seeds as blocks.

The model of a randomised complete block design: value = mean + effect of the level + effect of the
seed + error, with independent normal errors of one variance for all levels. The standard error of a
difference is estimated from all levels, so its t test has (levels - 1)(seeds - 1) degrees of
freedom instead of the seeds - 1 of a paired t test. With two levels both are the same test.

Source: Montgomery, D. C. Design and Analysis of Experiments, chapter on randomised blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from protoseg.errors import ProtosegError
from protoseg.report.statistics.significance import LEVEL, ROUNDING, mean

MIN_BLOCKS = 2


@dataclass(frozen=True)
class LevelDifference:
    """The difference of two levels, not adjusted for the number of comparisons."""

    difference: float
    interval: tuple[float, float]
    """95% Student t interval; nan without residual variance."""
    p: float
    """Two-sided p of the t test; nan without residual variance."""


@dataclass(frozen=True)
class BlockModel:
    """The fitted model of the levels of one axis."""

    levels: tuple[str, ...]
    seeds: tuple[int, ...]
    """The seeds that all levels share, sorted."""
    means: tuple[float, ...]
    """The mean of each level over these seeds."""
    residual_std: float
    """Standard deviation of the error, √(residual sum of squares / df)."""
    df: int
    """Degrees of freedom of the error, (levels - 1)(seeds - 1)."""

    @property
    def standard_error(self) -> float:
        """Standard error of the difference of any two levels, s √(2 / seeds)."""
        return self.residual_std * math.sqrt(2 / len(self.seeds))

    def compare(self, a: int, b: int) -> LevelDifference:
        """Compare two levels.

        Args:
            a: index of a level in ``levels``.
            b: index of the level that is subtracted.

        Returns:
            a - b with its interval and p; both are nan without residual variance.
        """
        difference = self.means[a] - self.means[b]
        if not self.residual_std > 0:
            return LevelDifference(difference, (math.nan, math.nan), math.nan)
        from scipy.special import stdtr, stdtrit  # imported here: it takes half a second

        half = float(stdtrit(self.df, (1 + LEVEL) / 2)) * self.standard_error
        p = float(2 * stdtr(self.df, -abs(difference) / self.standard_error))
        return LevelDifference(difference, (difference - half, difference + half), p)


def fit_block_model(values: Mapping[str, Mapping[int, float]]) -> BlockModel:
    """Fit the additive model to the values of several levels over their shared seeds.

    Args:
        values: level -> seed -> value. Seeds that a level lacks are left out.

    Returns:
        The model. Its ``residual_std`` is 0 if the residuals are only rounding errors.

    Raises:
        ProtosegError: fewer than two levels, or fewer than two seeds that all levels share.
    """
    levels = tuple(values)
    if len(levels) < 2:
        raise ProtosegError(
            f"block model: a comparison of levels needs at least two levels, not {len(levels)} "
            f"({', '.join(levels) or 'none'})."
        )
    shared = set.intersection(*(set(of_level) for of_level in values.values()))
    seeds = tuple(sorted(shared))
    if len(seeds) < MIN_BLOCKS:
        raise ProtosegError(
            f"block model: the levels {', '.join(levels)} share {len(seeds)} of the required "
            f"{MIN_BLOCKS} or more seeds; run the missing seeds or compare fewer levels."
        )
    means = tuple(mean(values[level][seed] for seed in seeds) for level in levels)
    centre = mean(means)
    of_seeds = [mean(values[level][seed] for level in levels) for seed in seeds]
    residuals = [
        values[level][seed] - of_level - of_seed + centre
        for level, of_level in zip(levels, means, strict=True)
        for seed, of_seed in zip(seeds, of_seeds, strict=True)
    ]
    df = (len(levels) - 1) * (len(seeds) - 1)
    residual_std = math.sqrt(math.fsum(r * r for r in residuals) / df)
    largest = max(abs(values[level][seed] - centre) for level in levels for seed in seeds)
    if residual_std <= ROUNDING * largest:
        residual_std = 0.0
    return BlockModel(levels, seeds, means, residual_std, df)
