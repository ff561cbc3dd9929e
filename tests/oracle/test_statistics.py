"""The statistics of the report, compared with scipy.stats and statsmodels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from protoseg.report.statistics import bootstrap
from protoseg.report.statistics.block_model import fit_block_model
from protoseg.report.statistics.counts import ImageCounts
from protoseg.report.statistics.multiplicity import adjust_holm
from protoseg.report.statistics.power import compute_power, smallest_detectable
from protoseg.report.statistics.significance import paired_t_p, t_interval

PERCENT = st.integers(0, 100_000).map(lambda value: value / 1000)
"""A metric in percent with three decimals."""


@given(st.lists(st.tuples(PERCENT, PERCENT), min_size=2, max_size=10))
def test_the_paired_t_test_agrees_with_scipy(values: list[tuple[float, float]]) -> None:
    a, b = zip(*values, strict=True)
    differences = np.subtract(a, b)
    assume(np.std(differences) > 1e-4)
    expected = scipy.stats.ttest_rel(a, b)
    assert paired_t_p(list(differences)) == pytest.approx(expected.pvalue, rel=1e-7)
    assert t_interval(differences) == pytest.approx(expected.confidence_interval(0.95), abs=1e-7)


P_VALUES = st.one_of(st.floats(0, 1), st.floats(0, 0.05), st.sampled_from([0.01, 0.02, 1.0]))


@settings(max_examples=20)  # a call of multipletests takes 40 ms
@given(st.lists(P_VALUES, min_size=1, max_size=30))
def test_adjusted_p_values_agree_with_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1]
    assert adjust_holm(p_values) == pytest.approx(expected.tolist(), rel=1e-12)


@given(st.lists(st.one_of(P_VALUES, st.just(math.nan)), min_size=1, max_size=12))
def test_comparisons_without_a_test_do_not_change_the_others(p_values: list[float]) -> None:
    tested = [p for p in p_values if not math.isnan(p)]
    adjusted = adjust_holm(p_values)
    assert [math.isnan(p) for p in adjusted] == [math.isnan(p) for p in p_values]
    assert [p for p in adjusted if not math.isnan(p)] == list(adjust_holm(tested))


@st.composite
def level_values(draw: st.DrawFn) -> np.ndarray:
    """Values (levels, seeds) with effects of levels and seeds, and errors."""
    levels, seeds = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.01, 0.5, 10.0]))
    effects = generator.normal(0, 3, (levels, 1)) + generator.normal(0, 3, (1, seeds))
    return 50 + effects + generator.normal(0, scale, (levels, seeds))


@settings(max_examples=50)
@given(level_values())
def test_the_block_model_agrees_with_least_squares(values: np.ndarray) -> None:
    levels, seeds = values.shape
    level, seed = (index.ravel() for index in np.indices(values.shape))
    design = np.column_stack([np.eye(levels)[level], np.eye(seeds)[seed][:, 1:]])
    fit = OLS(values.ravel(), design).fit()
    model = fit_block_model({f"level {i}": dict(enumerate(row)) for i, row in enumerate(values)})
    assert model.df == fit.df_resid
    assert model.means == pytest.approx(values.mean(1))
    assert model.residual_std == pytest.approx(math.sqrt(fit.mse_resid), rel=1e-6)
    for a in range(levels):
        for b in range(a):
            contrast = np.zeros(design.shape[1])
            contrast[[a, b]] = 1, -1
            expected, result = fit.t_test(contrast), model.compare(a, b)
            assert result.difference == pytest.approx(expected.effect.item(), abs=1e-9)
            assert result.interval == pytest.approx(expected.conf_int(0.05)[0], rel=1e-6, abs=1e-9)
            assert result.p == pytest.approx(float(expected.pvalue), rel=1e-6)


@settings(max_examples=30)
@given(st.lists(st.tuples(PERCENT, PERCENT), min_size=2, max_size=8))
def test_a_block_model_of_two_levels_agrees_with_the_paired_t_test(
    values: list[tuple[float, float]],
) -> None:
    a, b = zip(*values, strict=True)
    assume(np.std(np.subtract(a, b)) > 1e-4)
    result = fit_block_model({"a": dict(enumerate(a)), "b": dict(enumerate(b))}).compare(0, 1)
    expected = scipy.stats.ttest_rel(a, b)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert result.interval == pytest.approx(expected.confidence_interval(0.95), abs=1e-7)


def integrate_power(effect: float, n: int, level: float) -> float:
    """The power of the paired t test, as the integral over the distribution of the sample std.

    With w = std of the sample / true std, the test is positive where |Z + effect √n| > t w, for a
    standard normal Z.
    """
    df, shift = n - 1, effect * math.sqrt(n)
    critical = scipy.stats.t.ppf(1 - level / 2, df)

    def integrand(w: float) -> float:
        beyond = scipy.stats.norm.sf(critical * w - shift) + scipy.stats.norm.cdf(
            -critical * w - shift
        )
        return scipy.stats.chi.pdf(w * math.sqrt(df), df) * math.sqrt(df) * beyond

    edges = [0, *np.linspace(0.2, 3, 8), 10]
    parts = (scipy.integrate.quad(integrand, *ends) for ends in itertools.pairwise(edges))
    return float(sum(value for value, _ in parts))


LEVELS_AND_POWERS = [(0.05, 0.8), (0.05, 0.95), (0.01, 0.8), (0.1, 0.5)]


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize(("level", "power"), LEVELS_AND_POWERS)
def test_smallest_detectable_difference_agrees_with_an_integral(
    n: int, level: float, power: float
) -> None:
    difference = smallest_detectable(0.7, n, level, power)
    assert integrate_power(difference / 0.7, n, level) == pytest.approx(power, abs=1e-6)
    assert compute_power(difference, 0.7 / math.sqrt(n), n - 1, level) == pytest.approx(power)


@pytest.mark.parametrize("n", [4, 5, 10, 30, 200])  # some of its values are nan below 4
@pytest.mark.parametrize(("level", "power"), LEVELS_AND_POWERS)
def test_smallest_detectable_difference_agrees_with_statsmodels(
    n: int, level: float, power: float
) -> None:
    difference = smallest_detectable(0.7, n, level, power)
    assert TTestPower().power(difference / 0.7, n, level) == pytest.approx(power, abs=1e-7)


@pytest.mark.parametrize("n", [3, 5, 10, 100])
def test_smallest_detectable_difference_agrees_with_the_solver_of_statsmodels(n: int) -> None:
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert smallest_detectable(2.5, n) == pytest.approx(2.5 * float(expected), rel=1e-5)


def make_counts(generator: np.random.Generator, frames: int, classes: int) -> list[ImageCounts]:
    """Two runs on the same frames with different accuracy."""
    truth = generator.integers(0, 500, (frames, classes)).astype(float)
    runs = []
    for accuracy in (0.8, 0.75):
        hit = np.floor(truth * np.clip(generator.normal(accuracy, 0.1, truth.shape), 0, 1))
        wrong = np.roll(truth - hit, 1, axis=1)  # pixels predicted as the next class
        runs.append(ImageCounts(hit, truth, truth + wrong))
    return runs


@pytest.mark.parametrize("size", [1, 4])
def test_the_bootstrap_interval_agrees_with_scipy(size: int) -> None:
    runs = make_counts(np.random.default_rng(1), 60, 5)
    groups = np.arange(60) if size == 1 else bootstrap.frame_blocks(60, size)
    drawn = bootstrap.bootstrap_differences(
        runs[:1], runs[1:], np.random.default_rng(2), 4000, groups=None if size == 1 else groups
    )
    sums = [
        [pd.DataFrame(part).groupby(groups).sum().to_numpy() for part in (run.hit, run.union)]
        for run in runs
    ]

    def difference(indices: np.ndarray, axis: int) -> np.ndarray:
        """The difference of mIoU of the drawn groups, which are along the last axis."""
        ious = [hit[indices].sum(-2) / union[indices].sum(-2) for hit, union in sums]
        return 100 * (ious[0] - ious[1]).mean(-1)

    expected = scipy.stats.bootstrap(
        (np.arange(len(np.unique(groups))),),
        difference,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(3),
    )
    # An end of the interval has a simulation error of about 4% of the standard error.
    tolerance = 0.25 * float(expected.standard_error)
    assert drawn.std() == pytest.approx(float(expected.standard_error), rel=0.1)
    assert bootstrap.percentile_interval(drawn, 0.95) == pytest.approx(
        tuple(expected.confidence_interval), abs=tolerance
    )
