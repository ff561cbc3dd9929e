"""The best of n trials: mean and quantiles, against all resamples one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from protoseg.report.statistics.tuning_curve import compute_best_of_trials

RESULTS = (41.0, 47.5, 30.25, 47.5, 44.0)


@pytest.mark.parametrize("is_higher_better", [True, False])
def test_mean_and_band_are_those_of_all_resamples(is_higher_better: bool) -> None:
    curve = compute_best_of_trials(RESULTS, higher_is_better=is_higher_better)
    choose = max if is_higher_better else min
    for n in range(1, len(RESULTS) + 1):
        best = [choose(sample) for sample in itertools.product(RESULTS, repeat=n)]
        ends = np.quantile(best, [0.025, 0.975], method="inverted_cdf")
        if not is_higher_better:  # of the worst 2.5%, seen from the other side
            ends = -np.quantile(np.negative(best), [0.975, 0.025], method="inverted_cdf")
        assert curve.mean[n - 1] == pytest.approx(np.mean(best), abs=1e-6)
        assert (curve.low[n - 1], curve.high[n - 1]) == pytest.approx(tuple(ends))


def test_one_trial_is_the_mean_of_all_and_more_trials_are_never_worse() -> None:
    curve = compute_best_of_trials([50.0 + i % 7 for i in range(40)])
    assert len(curve.mean) == len(curve.low) == len(curve.high) == 40
    assert curve.mean[0] == pytest.approx(np.mean([50.0 + i % 7 for i in range(40)]), abs=1e-6)
    for values in (curve.mean, curve.low, curve.high):
        assert list(values) == sorted(values)
    assert curve.high[-1] == 56.0


def test_the_order_of_trials_does_not_change_the_curve() -> None:
    assert compute_best_of_trials(RESULTS) == compute_best_of_trials(RESULTS[::-1])


def test_without_results_the_curve_is_empty() -> None:
    assert compute_best_of_trials([]).mean == ()
