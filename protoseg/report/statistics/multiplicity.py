"""Adjusts the p values of several comparisons, so that the family has one error rate."""

from __future__ import annotations

import math
from collections.abc import Sequence


def adjust_holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust the p values of one family of comparisons with the step-down method of Holm.

    The probability of one or more false positives in the family is at most the level that the
    adjusted values are compared with. It holds for any dependence, e.g. a shared baseline. With
    the p values in rising order, p_(1) ≤ ... ≤ p_(m), the adjusted value of rank i is
    max_{j ≤ i} min(1, (m - j + 1) p_(j)).

    Source: Holm, S. (1979). A simple sequentially rejective multiple test procedure.
    Scandinavian Journal of Statistics 6(2), 65-70.

    Args:
        p_values: one p value per comparison. nan means that no test was made, e.g. of one seed or
            of differences without variance: it cannot be a false positive, so it is not counted
            in m.

    Returns:
        The adjusted p values in the same order; nan where the p value is nan.
    """
    tested = sorted(
        (index for index, p in enumerate(p_values) if not math.isnan(p)),
        key=lambda index: p_values[index],
    )
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)
