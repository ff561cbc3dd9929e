"""What the planned seeds of a matrix can detect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scipy import stats

from protoseg.config.matrix import FamilySpec, Matrix
from protoseg.report.metrics import METRICS
from protoseg.report.seed_power import count_comparisons, estimate_power, estimate_spread
from protoseg.report.statistics.power import smallest_detectable
from report.lab import Lab, make_matrix, make_record, make_spec, methods_matrix
from report.tables.test_builder import AGAINST_A, A, B, pivot_matrix

K = "method.num_prototypes"


def levels(seeds: int, *, temperatures: int = 1, **table: Any) -> Matrix:
    """A matrix of four values of K, for each of some temperatures."""
    planned = []
    for temperature in range(1, temperatures + 1):
        for k in (1, 2, 5, 10):
            for seed in range(seeds):
                spec = make_spec(seed, method={"kind": "prototype", "num_prototypes": k})
                planned.append((spec, {K: k, "temperature": temperature}))
    return make_matrix(planned, **table)


@pytest.mark.parametrize(
    ("matrix", "number"),
    [
        (methods_matrix([A, B, "prototype 1"], **AGAINST_A), 2),
        (methods_matrix([A, B]), 0),
        (methods_matrix([A, B, "prototype 1"], comparisons=FamilySpec(pairs=((B, A),))), 1),
        (levels(3, temperatures=2, comparisons=FamilySpec(axis=K)), 2 * 6),
        (levels(3, comparisons=FamilySpec(axis="temperature")), 0),
    ],
)
def test_planned_comparisons_are_counted(matrix: Matrix, number: int) -> None:
    assert count_comparisons(matrix) == number


def test_pairs_are_counted_in_each_column(lab: Lab) -> None:
    pairs = FamilySpec(pairs=(("prototype", "parametric"),))
    assert count_comparisons(pivot_matrix(lab, comparisons=pairs)) == 2


def test_comparisons_over_different_data_are_not_counted() -> None:
    planned = [
        (make_spec(seed, dataset={"name": name}), {"dataset.name": name})
        for name in ("easy", "hard")
        for seed in range(3)
    ]
    assert count_comparisons(make_matrix(planned, baseline={"dataset.name": "easy"})) == 0


def test_the_expected_spread_gives_the_detectable_difference() -> None:
    matrix = methods_matrix([A, B, "prototype 1"], expected_spread=0.8, **AGAINST_A)
    power = estimate_power(matrix, [])
    assert power is not None
    assert (power.seeds, power.comparisons, power.spread) == (3, 2, 0.8)
    assert power.source == "table.expected_spread"
    assert power.detectable == {
        n: pytest.approx(smallest_detectable(0.8, n, level=0.025)) for n in (3, 5, 10)
    }
    assert json.loads(json.dumps(power.to_dict()))["metric"] == "miou"


def test_all_pairs_of_an_axis_have_the_degrees_of_freedom_of_their_model() -> None:
    matrix = levels(3, comparisons=FamilySpec(axis=K), expected_spread=0.8)
    power = estimate_power(matrix, [])
    assert power is not None
    # Four values and three seeds: (4 - 1)(3 - 1) degrees of freedom, six comparisons.
    critical = stats.t.ppf(1 - 0.05 / 6 / 2, 6)
    noncentrality = power.detectable[3] / (0.8 / 3**0.5)
    assert stats.nct.sf(critical, 6, noncentrality) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_have_no_detectable_difference_but_more_seeds_do(seeds: int) -> None:
    matrix = methods_matrix([A, B], range(seeds), expected_spread=1.0, **AGAINST_A)
    power = estimate_power(matrix, [])
    assert power is not None
    assert list(power.detectable) == [5, 10]
    assert power.seeds == seeds


def records_of(values: dict[str, list[float]], **schedule: Any) -> list[dict[str, Any]]:
    """The records of settings, seed by seed."""
    changes = {"schedule": schedule} if schedule else {}
    return [
        make_record(
            make_spec(
                seed,
                method={"kind": name.split()[0], "num_prototypes": int(name.split()[1])},
                **changes,
            ),
            miou,
        )
        for name, mious in values.items()
        for seed, miou in enumerate(mious)
    ]


LIKE = {A: [70.0, 71.0, 72.6], B: [74.1, 75.0, 75.2]}


def test_the_spread_is_that_of_the_paired_differences_of_like_runs() -> None:
    matrix = methods_matrix([A, B], **AGAINST_A)
    spread, runs = estimate_spread(matrix, records_of(LIKE), METRICS["miou"])
    differences = [a - b for a, b in zip(*LIKE.values(), strict=True)]
    # Two settings: the residual variance of both is half of that of their differences.
    assert spread == pytest.approx(stats.tstd(differences))
    assert runs == 6
    power = estimate_power(matrix, records_of(LIKE))
    assert power is not None
    assert power.source == "6 finished runs of this data set, backbone and number of iterations"


def test_unlike_runs_single_settings_and_few_seeds_give_no_spread() -> None:
    matrix = methods_matrix([A, B], **AGAINST_A)
    for records in (
        [],
        records_of(LIKE, iterations=999),
        records_of({A: LIKE[A]}),
        records_of({name: values[:2] for name, values in LIKE.items()}),
    ):
        assert estimate_spread(matrix, records, METRICS["miou"]) == (0.0, 0)
        assert estimate_power(matrix, records) is None


def test_settings_with_other_seeds_are_not_mixed() -> None:
    records = records_of({**LIKE, "prototype 1": [60.0, 61.0, 69.0, 90.0]})
    matrix = methods_matrix([A, B], **AGAINST_A)
    assert estimate_spread(matrix, records, METRICS["miou"]) == (
        estimate_spread(matrix, records_of(LIKE), METRICS["miou"])
    )


def test_costs_and_tables_without_comparisons_have_no_power() -> None:
    assert estimate_power(methods_matrix([A, B], expected_spread=1.0), []) is None
    matrix = methods_matrix([A, B], metrics=("seconds",), expected_spread=1.0, **AGAINST_A)
    assert estimate_power(matrix, []) is None
