"""What is said about a handful of seeds, and when one setting may be called better than another.

No correction for many comparisons is made: of twenty pairs that are the same in truth, about one
is called distinguishable. Read a bold cell as "seen in these seeds", not as a proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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


def prediction_interval(values: Iterable[float], level: float = LEVEL) -> tuple[float, float]:
    """Where one more run falls: mean ± t s √(1 + 1/n); (nan, nan) for fewer than two values."""
    values = list(values)
    low, high = t_interval(values, level)
    centre, reach = mean(values), (high - low) / 2 * math.sqrt(len(values) + 1)
    return centre - reach, centre + reach


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


def pair_by_seed(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compare two settings on their shared seeds; ``a`` and ``b`` map a seed to its value."""
    pairs = tuple((seed, a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys()))
    differences = [d for _, d in pairs]
    return Paired(pairs, mean(differences), sample_std(differences))


EXACT_SEEDS = 20
"""Up to here all 2^n sign patterns are counted: a million of them, well below a second."""


def smallest_p(n: int) -> float:
    """The smallest two-sided p that a sign-flip test of n paired differences can give: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of the exact sign-flip test that the differences are symmetric about 0.

    The share of the 2^n patterns of signs whose sum is as far from 0 as the one that was seen.
    Nothing about the form of the distribution is assumed; what n seeds allow is `smallest_p`.

    Raises:
        ValueError: more than `EXACT_SEEDS` differences.
    """
    n = len(differences)
    if n > EXACT_SEEDS:
        raise ValueError(f"{n} differences; at most {EXACT_SEEDS}")
    if n == 0:
        return 1.0
    import numpy as np

    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    seen = abs(math.fsum(differences))
    # Sums of the same numbers in another order differ in the last bits.
    slack = 1e-9 * math.fsum(map(abs, differences))
    return float(np.mean(np.abs(sums) >= seen - slack))


Verdict = Literal["reproduced", "above", "below", "can not tell"]
MARGIN = 0.5

VERDICT_RULE = (
    "Verdict, against the published value (taken as one run): reproduced, where the 95 % Student t "
    "interval of the mean over seeds lies within {margin} points of it; above or below, where it "
    "lies outside the 95 % prediction interval of one more run, by more than half a unit of its "
    "last digit; can not tell otherwise, and always with fewer than 3 seeds."
)


def compare_with_published(
    values: Iterable[float], published: float, margin: float = MARGIN, unit: float = 0.0
) -> Verdict:
    """Whether runs agree with a published value, as far as their number allows; `VERDICT_RULE`.

    Args:
        values: one a seed, in the unit of ``published``.
        published: the printed value, of a single run as far as anyone knows: it is as uncertain as
            one of ours, so that a difference is claimed against a prediction interval, and not
            against the narrower interval of the mean.
        margin: how far apart two values may be and still count as the same.
        unit: of the last digit that is printed: what was rounded away may be half of it.
    """
    values = list(values)
    if len(values) < MIN_SEEDS:
        return "can not tell"
    low, high = t_interval(values)
    # Printed numbers are decimal: 46.4 + 0.5 may miss 46.9 by a bit.
    slack = 1e-9
    if published - margin - slack <= low and high <= published + margin + slack:
        return "reproduced"
    low, high = prediction_interval(values)
    slack += unit / 2
    if low - slack <= published <= high + slack:
        return "can not tell"
    return "above" if mean(values) > published else "below"


def is_distinguishable(
    a: Mapping[int, float], b: Mapping[int, float], level: float = LEVEL
) -> bool:
    """Whether the t interval of the paired differences excludes 0, from at least three seeds.

    With fewer than three shared seeds the answer is no, however far apart the values are. No
    correction for many comparisons is made.
    """
    comparison = pair_by_seed(a, b)
    if comparison.n < MIN_SEEDS:
        return False
    low, high = comparison.interval(level)
    return low > 0 or high < 0


def find_best(candidates: Mapping[int, Mapping[int, float]], higher_is_better: bool) -> int | None:
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
        comparison = pair_by_seed(measured[leader], values)
        # The sign is asked too: over the shared seeds alone the leader may be the worse one.
        if sign * comparison.mean <= 0 or not is_distinguishable(measured[leader], values):
            return None
    return leader
