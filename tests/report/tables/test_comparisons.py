"""Families of comparisons: what is tested, corrected and refused."""

from __future__ import annotations

import re

import pytest
from scipy import stats

from protoseg.config.matrix import FamilySpec, Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.statistics.power import smallest_detectable
from protoseg.report.tables.comparisons import NO_MODEL
from protoseg.report.tables.model import Family, Table, TableComparison
from report.lab import Lab, make_matrix, make_spec, method, methods_matrix, with_table
from report.tables.test_builder import AGAINST_A, A, B, finish_all, footnotes, pivot_matrix

C = "prototype 1"
VALUES = {A: [70.0, 71.0, 72.0], B: [75.0, 76.4, 76.9], C: [70.2, 71.9, 71.7]}


def family_of(table: Table) -> Family:
    """The family of a table that has one."""
    assert table.family is not None
    return table.family


def by_names(table: Table) -> dict[tuple[str, str], TableComparison]:
    """(row, row that is subtracted) -> comparison, in the order of the family."""
    return {(c.ours, c.theirs): c for c in family_of(table).comparisons}


def axis_matrix(lab: Lab, values: dict[int, list[float | None]], **table: object) -> Matrix:
    """A matrix of one axis K with the values of each seed; None is a run without a record."""
    planned = []
    for k, of_seeds in values.items():
        for seed, miou in enumerate(of_seeds):
            spec = method(f"prototype {k}", seed)
            planned.append((spec, {"method.num_prototypes": k}))
            if miou is not None:
                lab.finish(spec, miou)
    table = {"names": {"method.num_prototypes": "K"}, **table}
    return make_matrix(planned, comparisons=FamilySpec(axis="method.num_prototypes"), **table)


def test_by_default_each_row_is_compared_with_the_baseline(lab: Lab) -> None:
    finish_all(lab, VALUES)
    table = lab.table(methods_matrix([A, B, C], **AGAINST_A))
    compared = by_names(table)
    assert list(compared) == [(B, A), (C, A)]
    p_values = []
    for (name, _), comparison in compared.items():
        expected = stats.ttest_rel(VALUES[name], VALUES[A])
        p_values.append(expected.pvalue)
        assert comparison.p == pytest.approx(expected.pvalue)
        assert comparison.interval == pytest.approx(tuple(expected.confidence_interval()))
        assert comparison.seeds == (0, 1, 2)
    assert [c.adjusted_p for c in compared.values()] == pytest.approx(
        [2 * p_values[0], p_values[1]]
    )
    assert compared[B, A].result == "higher"
    assert family_of(table).description == "each row against parametric 1"
    assert f"Of 2 comparisons 1 has an adjusted p < 0.05 (Holm): {B} is higher." in footnotes(table)


def test_no_difference_is_never_without_what_was_detectable(lab: Lab) -> None:
    finish_all(lab, VALUES)
    comparison = by_names(lab.table(methods_matrix([A, B, C], **AGAINST_A)))[C, A]
    differences = [a - b for a, b in zip(VALUES[C], VALUES[A], strict=True)]
    std = float(stats.tstd(differences))
    # The first threshold of Holm for two tests is 0.05 / 2.
    assert comparison.detectable == pytest.approx(smallest_detectable(std, 3, level=0.025))
    assert comparison.result == f"no difference found (detectable: {comparison.detectable:.2f})"


def test_only_tested_comparisons_count_in_the_correction(lab: Lab) -> None:
    equal = [value + 2 for value in VALUES[A]]
    finish_all(lab, {**VALUES, "prototype 5": [80.0, 81.0], "prototype 7": equal})
    names = [A, B, C, "prototype 5", "prototype 7"]
    table = lab.table(methods_matrix(names, **AGAINST_A))
    compared = by_names(table)
    assert family_of(table).tested == 2
    two, same = compared["prototype 5", A], compared["prototype 7", A]
    assert (two.result, same.result) == (
        "not tested: 2 seeds",
        "not tested: no spread over seeds",
    )
    assert (two.difference, same.difference) == (10.0, 2.0)
    for untested in (two, same):
        assert (untested.interval, untested.p, untested.adjusted_p) == (None, None, None)
        assert untested.detectable is None
    without = by_names(lab.table(methods_matrix([A, B, C], **AGAINST_A)))
    assert [compared[pair].adjusted_p for pair in without] == [
        comparison.adjusted_p for comparison in without.values()
    ]


def test_a_family_without_a_test_has_no_correction(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0], B: [75.0, 76.5]})
    table = lab.table(methods_matrix([A, B], seeds=range(2), **AGAINST_A))
    assert family_of(table).tested == 0
    assert "None has 3 shared seeds and a spread, so none is tested." in footnotes(table)


def test_rows_without_a_result_are_left_out(lab: Lab) -> None:
    matrix = methods_matrix([A, B, C, "prototype 5"], **AGAINST_A)
    assert lab.table(matrix).family is None
    finish_all(lab, {B: VALUES[B]})
    assert lab.table(matrix).family is None
    finish_all(lab, {A: VALUES[A]})
    # The baseline has results, so that a row without any is named with the reason.
    compared = by_names(lab.table(matrix))
    assert compared[C, A].result == "no shared seed with a result"
    assert compared[C, A].difference is None
    listed = with_table(matrix, comparisons=FamilySpec(pairs=((B, A), (C, "prototype 5"))))
    assert list(by_names(lab.table(listed))) == [(B, A)]


def test_a_metric_that_some_records_lack_is_compared_over_the_others(lab: Lab) -> None:
    for name, mious in VALUES.items():
        for seed, miou in enumerate([*mious, 73.5]):
            lacks = (name, seed) == (B, 1)
            lab.finish(method(name, seed), miou, metrics={"macc": None if lacks else miou + 8})
    matrix = methods_matrix([A, B, C], range(4), metrics=("macc", "miou"), **AGAINST_A)
    compared = by_names(lab.table(matrix))
    assert (compared[B, A].seeds, compared[C, A].seeds) == ((0, 2, 3), (0, 1, 2, 3))
    assert {c.metric for c in compared.values()} == {"macc"}


def test_listed_pairs_are_the_family(lab: Lab) -> None:
    finish_all(lab, VALUES)
    spec = FamilySpec(pairs=((B, C), (C, A)))
    table = lab.table(methods_matrix([A, B, C], comparisons=spec))
    compared = by_names(table)
    assert list(compared) == [(B, C), (C, A)]
    assert compared[B, C].difference == pytest.approx(sum(VALUES[B]) / 3 - sum(VALUES[C]) / 3)
    assert "Tested in mIoU: the pairs of rows declared in the matrix." in footnotes(table)
    assert f"{B} is higher than {C}" in footnotes(table)


def test_listed_pairs_are_compared_in_each_column(lab: Lab) -> None:
    matrix = pivot_matrix(lab, comparisons=FamilySpec(pairs=(("prototype", "parametric"),)))
    compared = family_of(lab.table(matrix)).comparisons
    assert [(c.ours, c.theirs, c.group) for c in compared] == [
        ("prototype", "parametric", "num_prototypes = 1"),
        ("prototype", "parametric", "num_prototypes = 10"),
    ]


def test_the_column_of_a_baseline_in_another_column_is_in_both_names(lab: Lab) -> None:
    matrix = pivot_matrix(lab, baseline={"method.num_prototypes": 1})
    compared = family_of(lab.table(matrix)).comparisons
    assert [(c.ours, c.theirs, c.group) for c in compared] == [
        (f"{name}, num_prototypes = 10", f"{name}, num_prototypes = 1", "")
        for name in ("parametric", "prototype")
    ]


LEVELS: dict[int, list[float | None]] = {
    1: [53.0, 54.2, 55.1],
    5: [52.4, 53.0, 54.3],
    20: [50.1, 51.9, 52.2],
}


def test_all_pairs_of_an_axis_share_one_block_model(lab: Lab) -> None:
    table = lab.table(axis_matrix(lab, LEVELS))
    compared = by_names(table)
    assert list(compared) == [("5", "1"), ("20", "1"), ("20", "5")]
    widths = [high - low for low, high in (c.interval or (0, 0) for c in compared.values())]
    assert widths == pytest.approx([widths[0]] * 3)
    # Two-way analysis by hand: residual sum of squares / 4, and t with 4 degrees of freedom.
    rows = [[value or 0.0 for value in values] for values in LEVELS.values()]
    centre = sum(map(sum, rows)) / 9
    seeds = [sum(column) / 3 for column in zip(*rows, strict=True)]
    residuals = [
        value - sum(row) / 3 - seed + centre
        for row in rows
        for value, seed in zip(row, seeds, strict=True)
    ]
    error = (sum(r * r for r in residuals) / 4 * 2 / 3) ** 0.5
    assert widths[0] == pytest.approx(2 * stats.t.ppf(0.975, 4) * error)
    difference = (sum(rows[2]) - sum(rows[0])) / 3
    assert compared["20", "1"].difference == pytest.approx(difference)
    assert compared["20", "1"].p == pytest.approx(2 * stats.t.sf(abs(difference) / error, 4))
    assert compared["20", "1"].result == "lower"
    assert "Tested in mIoU: all pairs of values of K." in footnotes(table)
    assert "K = 20 is lower than K = 1" in footnotes(table)


def test_levels_that_share_few_seeds_are_compared_in_pairs(lab: Lab) -> None:
    values: dict[int, list[float | None]] = {
        1: [53.0, 54.2, 55.1, None],
        5: [52.4, 53.0, 54.3, None],
        20: [None, 51.9, 52.2, 53.0],
    }
    compared = by_names(lab.table(axis_matrix(lab, values)))
    expected = stats.ttest_rel(*(values[k][:3] for k in (5, 1)))
    assert compared["5", "1"].p == pytest.approx(expected.pvalue)
    assert compared["5", "1"].notes == (NO_MODEL,)
    assert (compared["20", "1"].result, compared["20", "1"].notes) == ("not tested: 2 seeds", ())


def test_levels_without_residuals_are_not_tested(lab: Lab) -> None:
    values: dict[int, list[float | None]] = {k: [50.0 + k, 51.0 + k, 52.0 + k] for k in (1, 5)}
    (comparison,) = by_names(lab.table(axis_matrix(lab, values))).values()
    assert comparison.result == "not tested: no spread over seeds"
    assert (comparison.interval, comparison.p, comparison.difference) == (None, None, 4.0)


def expect_refusal(lab: Lab, matrix: Matrix, error: type[ProtosegError]) -> str:
    with pytest.raises(error) as caught:
        lab.table(matrix)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_row_is_refused(lab: Lab) -> None:
    matrix = methods_matrix([A, B], comparisons=FamilySpec(pairs=((B, "parametric 2"),)))
    message = expect_refusal(lab, matrix, UsageError)
    assert message.startswith("test: table.comparisons.pairs: unknown row 'parametric 2'.")
    assert f"Known: '{A}', '{B}'." in message


def test_rows_without_a_shared_seed_are_refused(lab: Lab) -> None:
    planned = [(method(A, seed), {"label": A}) for seed in (0, 1)]
    planned += [(method(B, seed), {"label": B}) for seed in (2, 3)]
    matrix = make_matrix(planned, comparisons=FamilySpec(pairs=((B, A),)))
    message = expect_refusal(lab, matrix, ProtosegError)
    assert message == f"test: table.comparisons: '{B}' and '{A}' share no seed. Name others."


@pytest.mark.parametrize("spec", [FamilySpec(pairs=(("b", "a"),)), FamilySpec(axis="dataset.name")])
def test_rows_of_different_evaluations_are_refused(lab: Lab, spec: FamilySpec) -> None:
    planned = []
    for name in ("a", "b"):
        for seed in range(3):
            run = make_spec(seed, dataset={"name": name, "classes": ["sky", name]})
            planned.append((run, {"dataset.name": name}))
            lab.finish(run, 70.0 + seed)
    message = expect_refusal(lab, make_matrix(planned, comparisons=spec), ProtosegError)
    assert "'b' and 'a' have different evaluations" in message
    assert re.search(r"\(they differ in dataset\.name, dataset\.classes\)", message)
