"""Statistics over a few seeds: means, intervals, tests, and the rules for bold and verdicts.

Intervals and p values here are those of one comparison. `protoseg.report.tables.comparisons`
corrects the p values of a table for their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.95
MIN_SEEDS = 3
"""With two seeds the half width of the interval is 12.7 standard errors: too wide to be useful."""

BOLD_RULE = (
    "Bold: the best value of its column ({columns}), if the 95% Student t interval of its paired "
    "differences to every other measured value of the column, over shared seeds (at least 3), "
    "excludes 0 and no other value is printed with the same digits. The intervals are not "
    "corrected for their number."
)


def mean(values: Iterable[float]) -> float:
    """Compute the arithmetic mean; nan without values."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def sample_std(values: Iterable[float]) -> float:
    """Compute the sample standard deviation (divisor n - 1); nan for fewer than two values."""
    values = list(values)
    if len(values) < 2:
        return math.nan
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def t_interval(values: Iterable[float], level: float = LEVEL) -> tuple[float, float]:
    """Compute the two-sided Student t interval of the mean; nan for fewer than two values."""
    values = list(values)
    if len(values) < 2:
        return math.nan, math.nan
    from scipy.special import stdtrit  # imported here: it takes half a second

    half = float(stdtrit(len(values) - 1, (1 + level) / 2))
    half *= sample_std(values) / math.sqrt(len(values))
    centre = mean(values)
    return centre - half, centre + half


def prediction_interval(values: Iterable[float], level: float = LEVEL) -> tuple[float, float]:
    """Compute the prediction interval of one more run: mean ± t s √(1 + 1/n); nan for n < 2."""
    values = list(values)
    low, high = t_interval(values, level)
    centre, reach = mean(values), (high - low) / 2 * math.sqrt(len(values) + 1)
    return centre - reach, centre + reach


ROUNDING = 1e-9
"""Differences that spread less than this share of the largest one count as equal: what remains is
the rounding of the subtraction."""


def has_variance(differences: Sequence[float]) -> bool:
    """Whether a t test of these values is defined: two or more values that are not all equal."""
    if len(differences) < 2:
        return False
    return sample_std(differences) > ROUNDING * max(map(abs, differences))


def paired_t_p(differences: Sequence[float]) -> float:
    """Compute the two-sided p of the paired t test, which agrees with `t_interval`.

    t = mean / (s / √n) with n - 1 degrees of freedom (Student 1908).

    Args:
        differences: one difference per pair, in any order.

    Returns:
        p; nan for fewer than two differences or without variance (`has_variance`).
    """
    if not has_variance(differences):
        return math.nan
    from scipy.special import stdtr  # imported here: it takes half a second

    n = len(differences)
    t = mean(differences) / (sample_std(differences) / math.sqrt(n))
    return float(2 * stdtr(n - 1, -abs(t)))


@dataclass(frozen=True)
class Paired:
    """Differences a - b over the shared seeds."""

    differences: tuple[tuple[int, float], ...]
    """(seed, difference), sorted by seed."""
    mean: float
    std: float
    """Sample standard deviation of the differences, not of either side."""

    @property
    def n(self) -> int:
        """Number of shared seeds."""
        return len(self.differences)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Compute the Student t interval of the mean difference.

        It is nan for fewer than two seeds, and if all differences are equal: they have no spread
        from which an interval could be estimated.
        """
        differences = [d for _, d in self.differences]
        return t_interval(differences, level) if has_variance(differences) else (math.nan, math.nan)


def pair_by_seed(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Pair the values of two settings by seed; ``a`` and ``b`` map a seed to its value."""
    pairs = tuple((seed, a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys()))
    differences = [d for _, d in pairs]
    return Paired(pairs, mean(differences), sample_std(differences))


EXACT_SEEDS = 20
"""Most differences of the exact test; it counts all 2^n sign patterns, about a million here."""


def smallest_p(n: int) -> float:
    """Compute the smallest two-sided p of a sign-flip test of n paired differences: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Compute the two-sided p of the exact sign-flip test for differences symmetric about 0.

    p is the share of the 2^n sign patterns whose sum is at least as far from 0 as the observed sum.
    The test assumes no form of the distribution. The lower bound for n seeds is `smallest_p`.

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
    observed = abs(math.fsum(differences))
    # The same numbers summed in another order differ in the last bits.
    slack = 1e-9 * math.fsum(map(abs, differences))
    return float(np.mean(np.abs(sums) >= observed - slack))


Verdict = Literal["reproduced", "above", "below", "can not tell"]
MARGIN = 0.5

VERDICT_RULE = (
    "Verdict: comparison with the published value, which counts as one run. Reproduced: the 95% "
    "Student t interval of the mean over seeds is within {margin} points of it. Above or below: it "
    "is outside the 95% prediction interval of one more run, by more than half a unit of its last "
    "digit. Can not tell: otherwise, and always with fewer than 3 seeds."
)


def compare_with_published(
    values: Iterable[float], published: float, margin: float = MARGIN, unit: float = 0.0
) -> Verdict:
    """Decide by `VERDICT_RULE` whether runs agree with a published value.

    The published value counts as one run, as uncertain as one of ours. A difference is therefore
    claimed against the prediction interval, not against the narrower interval of the mean.

    Args:
        values: one value per seed, in the unit of ``published``.
        published: the printed value.
        margin: largest difference of two values that count as equal.
        unit: unit of the last printed digit; rounding changes a value by up to half of it.
    """
    values = list(values)
    if len(values) < MIN_SEEDS:
        return "can not tell"
    low, high = t_interval(values)
    # Decimal numbers are inexact in binary: 46.4 + 0.5 may differ from 46.9 in the last bit.
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
    """Whether the t interval of the paired differences excludes 0.

    With fewer than `MIN_SEEDS` shared seeds it is False, whatever the values are.
    """
    comparison = pair_by_seed(a, b)
    if comparison.n < MIN_SEEDS:
        return False
    low, high = comparison.interval(level)
    return low > 0 or high < 0


def find_best(
    candidates: Mapping[int, Mapping[int, float]], higher_is_better: bool, decimals: int = 15
) -> int | None:
    """Find the row with the best mean, if it is distinguishable from all others; else None.

    Args:
        candidates: row -> seed -> value; at least two rows must have values.
        higher_is_better: whether the best mean is the highest.
        decimals: printed decimals; a lead that they do not show is none.
    """
    measured = {key: values for key, values in candidates.items() if values}
    if len(measured) < 2:
        return None
    sign = 1 if higher_is_better else -1
    leader = max(measured, key=lambda key: sign * mean(measured[key].values()))
    best = mean(measured[leader].values())
    for key, values in measured.items():
        if key == leader:
            continue
        comparison = pair_by_seed(measured[leader], values)
        # The sign matters too: over the shared seeds alone, the leader may be worse.
        if sign * comparison.mean <= 0 or not is_distinguishable(measured[leader], values):
            return None
        if f"{best:.{decimals}f}" == f"{mean(values.values()):.{decimals}f}":
            return None
    return leader
