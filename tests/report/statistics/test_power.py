"""Smallest detectable differences; tests/oracle compares them with statsmodels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from protoseg.report.statistics.block_model import fit_block_model
from protoseg.report.statistics.power import compute_power, smallest_detectable


def test_the_smallest_detectable_difference_has_the_power() -> None:
    for n in (2, 3, 5, 40):
        difference = smallest_detectable(0.7, n)
        assert compute_power(difference, 0.7 / math.sqrt(n), n - 1) == pytest.approx(0.8)
    assert smallest_detectable(1.4, 5) == pytest.approx(2 * smallest_detectable(0.7, 5))
    assert smallest_detectable(0.7, 5, power=0.9) > smallest_detectable(0.7, 5)
    assert smallest_detectable(0.7, 5, level=0.01) > smallest_detectable(0.7, 5)


def test_without_a_difference_the_power_is_the_level() -> None:
    assert compute_power(0.0, 1.0, 4) == pytest.approx(0.05)
    assert compute_power(0.0, 1.0, 4, level=0.2) == pytest.approx(0.2)
    assert compute_power(-1.0, 1.0, 4) == compute_power(1.0, 1.0, 4)


def test_the_difference_is_detected_in_80_percent_of_simulated_tests() -> None:
    generator = np.random.default_rng(4)
    difference = smallest_detectable(2.0, 3)
    samples = generator.normal(difference, 2.0, (20_000, 3))
    detected = scipy.stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert detected.mean() == pytest.approx(0.8, abs=0.01)


def test_it_also_serves_the_block_model() -> None:
    levels = {"a": [1.0, 2.0, 3.5], "b": [2.0, 2.5, 4.0], "c": [0.0, 2.0, 2.5]}
    model = fit_block_model({name: dict(enumerate(v)) for name, v in levels.items()})
    difference = smallest_detectable(
        model.residual_std, 3, df=model.df, standard_error=model.standard_error
    )
    assert compute_power(difference, model.standard_error, model.df) == pytest.approx(0.8)
    # Four degrees of freedom detect smaller differences than two.
    assert difference < smallest_detectable(model.residual_std * math.sqrt(2), 3)


def test_a_difference_far_above_the_error_is_always_detected() -> None:
    # scipy returns nan for some of these probabilities.
    for df, noncentrality in itertools.product((1, 2, 4, 6, 400), (10.0, 50.0, 500.0)):
        assert compute_power(noncentrality, 1.0, df) > 0.5
        assert compute_power(2 * noncentrality, 1.0, df) >= compute_power(noncentrality, 1.0, df)


@pytest.mark.parametrize(("std", "n"), [(1.0, 0), (1.0, 1), (0.0, 5), (math.nan, 5)])
def test_without_variance_or_with_one_seed_there_is_no_number(std: float, n: int) -> None:
    assert math.isnan(smallest_detectable(std, n))
