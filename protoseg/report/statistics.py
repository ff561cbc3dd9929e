"""What is said about a handful of seeds, and when one setting may be called better than another.

No correction for many comparisons is made: of twenty pairs that are the same in truth, about one
is called distinguishable. Read a bold cell as "seen in these seeds", not as a proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LEVEL = 0.95
MIN_SEEDS = 3
"""With two seeds the interval is 12.7 times the standard error: too wide to be worth anything."""

BOLD_RULE = (
    "Bold: the best value of its column, where it is distinguishable from every other measured "
    "value of that column, that is, where the 95 % Student t interval of the paired differences "
    "over shared seeds (at least 3) excludes 0. Not corrected for many comparisons."
)


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean; nan of nothing."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def sample_std(values: Iterable[float]) -> float:
    """Sample standard deviation (divided by n - 1); nan for fewer than two values."""
    values = list(values)
    if len(values) < 2:
        return math.nan
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def t_interval(values: Iterable[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean, two-sided; (nan, nan) for fewer than two values."""
    values = list(values)
    if len(values) < 2:
        return math.nan, math.nan
    from scipy.special import stdtrit  # lazily: half a second that most commands do not need

    half = float(stdtrit(len(values) - 1, (1 + level) / 2))
    half *= sample_std(values) / math.sqrt(len(values))
    centre = mean(values)
    return centre - half, centre + half


@dataclass(frozen=True)
class Paired:
    """Differences a - b seed by seed, over the seeds that both have."""

    differences: tuple[tuple[int, float], ...]
    """(seed, difference), by seed."""
    mean: float
    std: float
    """Sample standard deviation of the differences, not of either side."""

    @property
    def n(self) -> int:
        """How many seeds both have."""
        return len(self.differences)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Student's t interval of the mean difference; nan for fewer than two seeds."""
        return t_interval([d for _, d in self.differences], level)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compare two settings on their shared seeds; ``a`` and ``b`` map a seed to its value."""
    pairs = tuple((seed, a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys()))
    differences = [d for _, d in pairs]
    return Paired(pairs, mean(differences), sample_std(differences))


def distinguishable(a: Mapping[int, float], b: Mapping[int, float], level: float = LEVEL) -> bool:
    """Whether the t interval of the paired differences excludes 0, from at least three seeds.

    With fewer than three shared seeds the answer is no, however far apart the values are. No
    correction for many comparisons is made.
    """
    comparison = paired(a, b)
    if comparison.n < MIN_SEEDS:
        return False
    low, high = comparison.interval(level)
    return low > 0 or high < 0


def best(candidates: Mapping[int, Mapping[int, float]], higher_is_better: bool) -> int | None:
    """The key whose values are best on average and distinguishable from all others, or None.

    ``candidates`` maps a row to its values by seed. A row alone has nothing to be better than.
    """
    measured = {key: values for key, values in candidates.items() if values}
    if len(measured) < 2:
        return None
    sign = 1 if higher_is_better else -1
    leader = max(measured, key=lambda key: sign * mean(measured[key].values()))
    rivals = (values for key, values in measured.items() if key != leader)
    for values in rivals:
        comparison = paired(measured[leader], values)
        # The sign is asked too: over the shared seeds alone the leader may be the worse one.
        if sign * comparison.mean <= 0 or not distinguishable(measured[leader], values):
            return None
    return leader
