"""The power of t tests: which difference would have been detected.

If the true difference is d, the t statistic of n paired differences has the noncentral t
distribution with n - 1 degrees of freedom and noncentrality d / (s / √n). The power is the
probability that it is beyond the critical value, in either tail.

Source: Cohen, J. (1988). Statistical Power Analysis for the Behavioral Sciences, chapter 2.
"""

from __future__ import annotations

import math

SIGNIFICANCE = 0.05
"""Significance level of the two-sided test."""
POWER = 0.8
"""Usual probability of detection (Cohen 1988)."""


def compute_power(
    difference: float, standard_error: float, df: int, level: float = SIGNIFICANCE
) -> float:
    """Compute the probability that a two-sided t test detects a true difference.

    Args:
        difference: the true difference.
        standard_error: standard error of the measured difference, in the same unit.
        df: degrees of freedom of the test.
        level: significance level.
    """
    from scipy.special import stdtrit  # imported here: it takes half a second

    critical = float(stdtrit(df, 1 - level / 2))
    noncentrality = abs(difference) / standard_error
    below = _noncentral_t_cdf(critical, df, noncentrality)
    return 1 - below + _noncentral_t_cdf(-critical, df, noncentrality)


def _noncentral_t_cdf(t: float, df: int, noncentrality: float) -> float:
    """Compute P(T ≤ t); scipy returns nan for some probabilities below 1e-14, here it is 0."""
    from scipy.special import nctdtr

    value = float(nctdtr(df, noncentrality, t))
    return 0.0 if math.isnan(value) else value


def smallest_detectable(
    std: float,
    n: int,
    level: float = SIGNIFICANCE,
    power: float = POWER,
    df: int | None = None,
    standard_error: float | None = None,
) -> float:
    """Compute the smallest true difference that a two-sided t test detects with this power.

    Args:
        std: standard deviation of the paired differences.
        n: number of differences.
        level: significance level.
        power: required probability of detection, above ``level``.
        df: degrees of freedom of another design, e.g. `BlockModel`; None for n - 1.
        standard_error: standard error of the difference in that design; None for std / √n.

    Returns:
        The difference in the unit of ``std``; nan for n < 2 or without variance.
    """
    df = n - 1 if df is None else df
    if n < 2 or df < 1:
        return math.nan
    error = std / math.sqrt(n) if standard_error is None else standard_error
    if not 0 < error < math.inf:
        return math.nan
    low, high = 0.0, 1.0
    while compute_power(high, 1.0, df, level) < power:
        low, high = high, 2 * high
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        if compute_power(middle, 1.0, df, level) < power:
            low = middle
        else:
            high = middle
    return high * error
