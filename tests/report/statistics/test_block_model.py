"""The additive model of levels and seeds; tests/oracle compares it with least squares."""

from __future__ import annotations

import math

import pytest

from protoseg.errors import ProtosegError
from protoseg.report.statistics.block_model import fit_block_model
from protoseg.report.statistics.significance import paired_t_p, t_interval


def test_two_levels_give_the_paired_t_test() -> None:
    a, b = {0: 40.0, 1: 42.5, 2: 41.0, 7: 44.0}, {7: 41.5, 0: 39.0, 1: 41.0, 2: 40.5}
    model = fit_block_model({"a": a, "b": b})
    differences = [a[seed] - b[seed] for seed in model.seeds]
    result = model.compare(0, 1)
    assert (model.seeds, model.df) == ((0, 1, 2, 7), 3)
    assert result.difference == pytest.approx(sum(differences) / 4)
    assert result.interval == pytest.approx(t_interval(differences))
    assert result.p == pytest.approx(paired_t_p(differences))


def test_effects_of_seeds_do_not_count_as_error() -> None:
    errors = [[0.1, -0.2, 0.3], [0.0, 0.2, -0.1], [0.3, -0.3, 0.1]]
    small, large = (
        {
            f"K = {level}": {s: 50.0 + level + factor * s + errors[level][s] for s in range(3)}
            for level in range(3)
        }
        for factor in (0.0, 20.0)
    )
    first, second = fit_block_model(small), fit_block_model(large)
    assert first.residual_std == pytest.approx(second.residual_std)
    assert first.df == 4
    forth, back = first.compare(2, 0), first.compare(0, 2)
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert forth.p == back.p
    assert first.compare(1, 1).p == pytest.approx(1.0)


def test_only_shared_seeds_are_used() -> None:
    values = {"a": {0: 1.0, 1: 2.0, 5: 90.0}, "b": {0: 2.0, 1: 2.5}, "c": {1: 4.0, 0: 2.0, 2: 0.0}}
    model = fit_block_model(values)
    assert (model.levels, model.seeds, model.df) == (("a", "b", "c"), (0, 1), 2)
    assert model.means == (1.5, 2.25, 3.0)


def test_without_residual_variance_there_is_no_interval_and_no_p() -> None:
    values = {level: {s: 46.1 + s / 10 + shift for s in range(3)} for level, shift in
              (("a", 0.0), ("b", 0.7), ("c", 0.7))}  # fmt: skip
    model = fit_block_model(values)
    assert model.residual_std == 0
    result = model.compare(1, 0)
    assert result.difference == pytest.approx(0.7)
    assert all(map(math.isnan, (*result.interval, result.p)))
    assert math.isnan(model.compare(1, 2).p)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"needs at least two levels, not 0 \(none\)\."),
        ({"K = 1": {0: 1.0, 1: 2.0}}, r"needs at least two levels, not 1 \(K = 1\)\."),
        ({"a": {0: 1.0, 1: 2.0}, "b": {1: 1.0, 2: 2.0}}, "levels a, b share 1 of the required 2"),
        ({"a": {0: 1.0}, "b": {}}, "share 0 of the required 2 or more seeds"),
    ],
)
def test_too_few_levels_or_seeds_are_refused(
    values: dict[str, dict[int, float]], message: str
) -> None:
    with pytest.raises(ProtosegError, match=message):
        fit_block_model(values)
