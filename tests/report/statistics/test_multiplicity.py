"""Holm's adjustment of p values, on examples computed by hand; tests/oracle has more."""

from __future__ import annotations

import math

import pytest

from protoseg.report.statistics.multiplicity import adjust_holm


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 × 0.01; max(2 × 0.03, 0.04)
        ([0.04, 0.01], [0.04, 0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_adjusted_p_values(p_values: list[float], expected: list[float]) -> None:
    assert adjust_holm(p_values) == pytest.approx(expected)


def test_a_comparison_without_a_test_is_not_counted() -> None:
    adjusted = adjust_holm([math.nan, 0.01, 0.04, math.nan])
    assert adjusted[1:3] == pytest.approx((0.02, 0.04))
    assert math.isnan(adjusted[0])
    assert math.isnan(adjusted[3])
    assert all(map(math.isnan, adjust_holm([math.nan] * 2)))
