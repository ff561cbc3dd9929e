"""Means, intervals, tests and verdicts, compared with scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protoseg.report.statistics import significance

any_speed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
VALUES = st.lists(st.floats(0, 100), min_size=2, max_size=8)


@any_speed
@given(VALUES)
def test_mean_std_and_interval_agree_with_scipy(values: list[float]) -> None:
    assert significance.mean(values) == pytest.approx(np.mean(values))
    assert significance.sample_std(values) == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    if np.std(values) > 1e-6:
        expected = scipy.stats.t.interval(
            0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values)
        )
        assert significance.t_interval(values) == pytest.approx(expected)


def test_one_value_has_no_spread() -> None:
    assert math.isnan(significance.sample_std([1.0]))
    assert all(map(math.isnan, significance.t_interval([1.0])))
    assert math.isnan(significance.mean([]))


def test_only_shared_seeds_are_paired() -> None:
    pairs = significance.pair_by_seed({0: 5.0, 1: 7.0, 2: 100.0}, {1: 4.0, 0: 3.0, 9: -100.0})
    assert pairs.differences == ((0, 2.0), (1, 3.0))
    assert (pairs.mean, pairs.n) == (2.5, 2)
    assert pairs.std == pytest.approx(math.sqrt(0.5))


@any_speed
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=3, max_size=8))
def test_is_distinguishable_agrees_with_paired_t_test(
    values: list[tuple[float, float]],
) -> None:
    a, b = (dict(enumerate(side)) for side in zip(*values, strict=True))
    differences = [x - y for x, y in values]
    if np.std(differences) < 1e-6:
        return
    p = scipy.stats.ttest_1samp(differences, 0).pvalue
    if abs(p - 0.05) > 1e-9:
        assert significance.is_distinguishable(a, b) == (p < 0.05)


def test_p_of_the_paired_t_test_is_below_the_level_where_the_interval_excludes_0() -> None:
    for shift in (0.1, 1.0, 2.0, 2.4, 2.5, 3.0):
        differences = [shift - 1, shift, shift + 1]
        low, high = significance.t_interval(differences)
        assert (significance.paired_t_p(differences) < 0.05) == (low > 0 or high < 0)


def test_without_variance_the_paired_t_test_is_not_defined() -> None:
    subtracted = [46.4 - 46.3, 4.7 - 4.6, 0.3 - 0.2]  # 0.1, with different rounding errors
    assert significance.sample_std(subtracted) > 0
    for differences in ([], [1.0], [0.0, 0.0], [2.0, 2.0, 2.0], subtracted):
        assert math.isnan(significance.paired_t_p(differences))
        assert not significance.has_variance(differences)
    assert significance.has_variance([1.0, 1.0001])


def test_two_seeds_are_never_distinguishable() -> None:
    assert not significance.is_distinguishable({0: 90.0, 1: 91.0}, {0: 1.0, 1: 2.0})
    assert significance.is_distinguishable({0: 90.0, 1: 91.0, 2: 90.5}, {0: 1.0, 1: 2.1, 2: 1.2})


def test_equal_values_are_not_distinguishable() -> None:
    same = {0: 1.0, 1: 2.0, 2: 3.0}
    assert not significance.is_distinguishable(same, same)
    assert significance.find_best({0: same, 1: dict(same)}, True) is None


def test_the_best_row_is_distinguishable_from_all_others() -> None:
    high, close = {0: 9.0, 1: 9.1, 2: 9.2}, {0: 8.0, 1: 10.0, 2: 9.0}
    low = {0: 1.0, 1: 1.1, 2: 1.3}
    assert significance.find_best({0: low, 1: high}, True) == 1
    assert significance.find_best({0: low, 1: high}, False) == 0
    assert significance.find_best({0: low, 1: high, 2: close}, True) is None
    assert significance.find_best({0: high}, True) is None
    assert significance.find_best({0: high, 1: {}}, True) is None


def test_the_best_row_is_better_on_shared_seeds() -> None:
    # The leader has the best mean only because of a seed that the rival lacks.
    leader = {0: 1.0, 1: 1.1, 2: 1.2, 3: 100.0}
    rival = {0: 2.0, 1: 2.1, 2: 2.21}
    assert significance.find_best({0: leader, 1: rival}, True) is None


@any_speed
@given(st.lists(st.integers(-40, 40).map(lambda v: v / 8), min_size=1, max_size=7))
def test_sign_flip_p_counts_all_sign_patterns(differences: list[float]) -> None:
    observed = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in patterns]
    expected = sum(abs(total) >= observed for total in sums) / len(patterns)
    assert significance.sign_flip_p(differences) == pytest.approx(expected, abs=0)


def test_sign_flip_p_agrees_with_scipy() -> None:
    differences = [0.7, 1.2, -0.3, 0.9, 0.4, 1.1]
    expected = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert significance.sign_flip_p(differences) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("n", range(1, 9))
def test_differences_of_one_sign_have_the_smallest_p(n: int) -> None:
    differences = [0.1 * (seed + 1) for seed in range(n)]
    assert significance.sign_flip_p(differences) == significance.smallest_p(n) == 2 / 2**n


def test_sign_flip_p_without_differences_and_of_zeros_is_one() -> None:
    assert significance.sign_flip_p([]) == significance.sign_flip_p([0.0, 0.0]) == 1.0
    assert significance.smallest_p(0) == significance.smallest_p(1) == 1.0
    with pytest.raises(ValueError, match="at most 20"):
        significance.sign_flip_p([1.0] * 21)
    assert significance.sign_flip_p([1.0] * 20) == 2 / 2**20


def spread(centre: float, std: float, n: int) -> list[float]:
    """Make n values with this mean and this sample standard deviation."""
    raw = np.arange(n) - (n - 1) / 2
    return list(centre + std * raw / raw.std(ddof=1)) if n > 1 else [centre]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([46.4], "can not tell"),  # equal value, but one seed
        ([46.4, 46.4], "can not tell"),
        ([20.0, 20.1], "can not tell"),  # far away, but two seeds
        ([], "can not tell"),
        (spread(46.4, 0.1, 3), "reproduced"),  # interval of the mean: ± 0.25
        (spread(46.4, 0.4, 3), "can not tell"),  # ± 0.99: neither within the margin nor outside
        (spread(46.4, 0.4, 6), "reproduced"),  # ± 0.42
        (spread(46.9, 0.0, 3), "reproduced"),  # exactly on the margin
        (spread(46.95, 0.0, 3), "above"),
        (spread(48.4, 0.3, 3), "above"),  # prediction interval: ± 1.49
        (spread(44.4, 0.3, 3), "below"),
        (
            spread(47.8, 0.3, 3),
            "can not tell",
        ),  # outside ± 0.75, inside ± 1.49
    ],
)
def test_verdicts_follow_the_rule(values: list[float], verdict: str) -> None:
    assert significance.compare_with_published(values, 46.4) == verdict


@any_speed
@given(st.lists(st.floats(40, 50), min_size=2, max_size=8))
def test_the_prediction_interval_agrees_with_scipy(values: list[float]) -> None:
    n, low_high = len(values), significance.prediction_interval(values)
    scale = np.std(values, ddof=1) * math.sqrt(1 + 1 / n)
    expected = scipy.stats.t.interval(0.95, n - 1, np.mean(values), scale or 1e-12)
    assert low_high == pytest.approx(expected, abs=1e-6)


def test_rounding_of_the_published_value_is_not_a_difference() -> None:
    values = spread(46.95, 0.0, 3)
    assert significance.compare_with_published(values, 46.0, unit=0.1) == "above"
    # A value printed as 46 may be up to 46.5; ours is 0.45 above that.
    assert significance.compare_with_published(values, 46.0, unit=1.0) == "above"
    assert (
        significance.compare_with_published(spread(46.49, 0.3, 3), 45.0, unit=0.1) == "can not tell"
    )
    assert significance.compare_with_published(spread(46.51, 0.3, 3), 45.0) == "above"
    assert (
        significance.compare_with_published(spread(46.51, 0.3, 3), 45.0, unit=0.1) == "can not tell"
    )
    assert (
        significance.compare_with_published(spread(46.9, 0.3, 3), 45.0, unit=1.0) == "can not tell"
    )


@any_speed
@given(st.lists(st.floats(40, 50), min_size=3, max_size=8), st.floats(40, 50))
def test_a_verdict_follows_from_the_two_intervals(values: list[float], published: float) -> None:
    n, centre, std = len(values), np.mean(values), np.std(values, ddof=1)
    if std < 1e-6:
        return
    t = scipy.stats.t.ppf(0.975, n - 1)
    off, reach = abs(centre - published), t * std * math.sqrt(1 + 1 / n)
    if min(abs(off - reach), abs(off + t * std / math.sqrt(n) - 0.5)) < 1e-6:
        return
    if off + t * std / math.sqrt(n) <= 0.5:
        expected = "reproduced"
    elif off > reach:
        expected = "above" if centre > published else "below"
    else:
        expected = "can not tell"
    assert significance.compare_with_published(values, published) == expected


def test_runs_equal_to_the_published_one_are_rarely_called_different() -> None:
    generator = np.random.default_rng(3)
    for n in (3, 5):
        published = generator.normal(46.4, 0.3, 4000)
        runs = generator.normal(46.4, 0.3, (4000, n))
        verdicts = [
            significance.compare_with_published(values, number)
            for values, number in zip(runs, published, strict=True)
        ]
        wrong = sum(verdict in ("above", "below") for verdict in verdicts) / len(verdicts)
        assert wrong < 0.06  # 5 % by construction
