"""The numbers behind ± and bold, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from protoseg.report import statistics

VALUES = st.lists(st.floats(0, 100), min_size=2, max_size=8)


@given(VALUES)
def test_mean_std_and_interval_agree_with_scipy(values: list[float]) -> None:
    assert statistics.mean(values) == pytest.approx(np.mean(values))
    assert statistics.sample_std(values) == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    if np.std(values) > 1e-6:
        expected = scipy.stats.t.interval(
            0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values)
        )
        assert statistics.t_interval(values) == pytest.approx(expected)


def test_one_value_has_no_spread() -> None:
    assert math.isnan(statistics.sample_std([1.0]))
    assert all(map(math.isnan, statistics.t_interval([1.0])))
    assert math.isnan(statistics.mean([]))


def test_paired_uses_shared_seeds_only() -> None:
    pairs = statistics.paired({0: 5.0, 1: 7.0, 2: 100.0}, {1: 4.0, 0: 3.0, 9: -100.0})
    assert pairs.differences == ((0, 2.0), (1, 3.0))
    assert (pairs.mean, pairs.n) == (2.5, 2)
    assert pairs.std == pytest.approx(math.sqrt(0.5))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=3, max_size=8))
def test_distinguishable_is_the_paired_t_test(values: list[tuple[float, float]]) -> None:
    a, b = (dict(enumerate(side)) for side in zip(*values, strict=True))
    differences = [x - y for x, y in values]
    if np.std(differences) < 1e-6:
        return
    p = scipy.stats.ttest_1samp(differences, 0).pvalue
    if abs(p - 0.05) > 1e-9:
        assert statistics.distinguishable(a, b) == (p < 0.05)


def test_two_seeds_are_never_enough() -> None:
    assert not statistics.distinguishable({0: 90.0, 1: 91.0}, {0: 1.0, 1: 2.0})
    assert statistics.distinguishable({0: 90.0, 1: 91.0, 2: 90.5}, {0: 1.0, 1: 2.1, 2: 1.2})


def test_equal_values_are_not_distinguishable() -> None:
    same = {0: 1.0, 1: 2.0, 2: 3.0}
    assert not statistics.distinguishable(same, same)
    assert statistics.best({0: same, 1: dict(same)}, True) is None


def test_best_needs_every_rival() -> None:
    high, close = {0: 9.0, 1: 9.1, 2: 9.2}, {0: 8.0, 1: 10.0, 2: 9.0}
    low = {0: 1.0, 1: 1.1, 2: 1.3}
    assert statistics.best({0: low, 1: high}, True) == 1
    assert statistics.best({0: low, 1: high}, False) == 0
    assert statistics.best({0: low, 1: high, 2: close}, True) is None
    assert statistics.best({0: high}, True) is None
    assert statistics.best({0: high, 1: {}}, True) is None


def test_best_needs_the_right_sign_on_shared_seeds() -> None:
    # The leader's mean is made by a seed the rival never ran; where both ran, it loses.
    leader = {0: 1.0, 1: 1.1, 2: 1.2, 3: 100.0}
    rival = {0: 2.0, 1: 2.1, 2: 2.21}
    assert statistics.best({0: leader, 1: rival}, True) is None
