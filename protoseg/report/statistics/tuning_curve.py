"""The expected best result of n trials of a search, and a bootstrap band around it.

A search with more trials finds a better best one. A tuning curve shows how much better, for every
number of trials up to that of the search, so that rows can be compared at equal effort. It does not
show what more trials would give: near the number of all trials it flattens in any case.

Sources: Dodge, J., Gururangan, S., Card, D., Schwartz, R. and Smith, N. A. (2019). Show Your Work:
Improved Reporting of Experimental Results, EMNLP (expected validation performance). Tang, R. et al.
(2020). Showing Your Work Doesn't Always Work, ACL (its bias).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BAND = 0.95
DIGITS = 6
"""Decimals of a curve. Its last bits depend on the power function of the machine."""


@dataclass(frozen=True)
class BestOfTrials:
    """The distribution of the best of n trials, for n = 1, 2, ..., N."""

    mean: tuple[float, ...]
    """Its mean for each n, in the unit of the results."""
    low: tuple[float, ...]
    """Its quantile at (1 - `BAND`) / 2."""
    high: tuple[float, ...]
    """Its quantile at (1 + `BAND`) / 2."""


def compute_best_of_trials(
    results: Sequence[float], *, higher_is_better: bool = True
) -> BestOfTrials:
    """Compute mean and band of the best result of n trials, for each n up to their number.

    n trials are drawn with replacement, without order, from the N results: a bootstrap. With the
    results sorted from the worst v₁ to the best v_N, the best of n draws is at most vᵢ with
    probability (i / N)ⁿ. So the mean over all resamples is Σ vᵢ ((i / N)ⁿ - ((i - 1) / N)ⁿ), and
    a quantile q is the first vᵢ with (i / N)ⁿ ≥ q. Both are exact: nothing is drawn at random.

    The mean is biased towards the worse results, most of all at n = N, where a resample leaves out
    the best trial with probability (1 - 1 / N)ᴺ, about 0.37.

    Args:
        results: one value for each trial, (N,), in any order.
        higher_is_better: whether the best result is the highest.

    Returns:
        Three sequences of N values, rounded to `DIGITS` decimals; empty ones without results.
    """
    number = len(results)
    if not number:
        return BestOfTrials((), (), ())
    values = np.sort(np.asarray(results, dtype=np.float64))
    if not higher_is_better:
        values = values[::-1]
    share = np.arange(number + 1) / number
    ends = (1 - BAND) / 2, (1 + BAND) / 2
    mean, low, high = [], [], []
    for n in range(1, number + 1):
        at_most = share**n
        mean.append(float(np.diff(at_most) @ values))
        first, last = sorted(float(values[np.argmax(at_most[1:] >= end)]) for end in ends)
        low.append(first)
        high.append(last)
    return BestOfTrials(*(tuple(round(v, DIGITS) for v in part) for part in (mean, low, high)))
