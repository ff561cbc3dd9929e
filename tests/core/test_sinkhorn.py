"""Clustering within classes (Eq. 8-10) against a float64 reference and POT."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import reference
from core.batches import convert_float64, draw_cosines, shuffle_labels
from protoseg.core.segments import sort_by_segment
from protoseg.core.sinkhorn import (
    assign_pixels,
    choose_dtype,
    run_sinkhorn,
    select_own_similarities,
)

CLEAR = 1e-3
"""Pixels with a smaller margin between their two best prototypes in L are ties."""

SIZES = {
    "even": [40, 40, 40],
    "skewed": [2000, 3, 40],
    "one pixel": [1, 60, 1],
    "fewer than K": [4, 60, 2],
    "absent": [0, 50, 0, 50],
    "alone": [80],
    "none": [0, 0],
}


def solve(similarities, labels, num_classes, **options):
    """Run `run_sinkhorn` with and without a bound; the results must agree. Return float64."""
    bound = float(np.abs(similarities).max(initial=1.0))
    arguments = torch.tensor(similarities), torch.tensor(labels), num_classes
    with_bound, without = (run_sinkhorn(*arguments, bound=b, **options) for b in (bound, None))
    assert with_bound.dtype == without.dtype == torch.float32
    torch.testing.assert_close(with_bound, without, rtol=0, atol=4e-4)
    return convert_float64(with_bound)


def assert_same_plan(plan, expected, atol=2e-4, what=""):
    """Assert that L is close everywhere and that the argmax is equal except for ties."""
    np.testing.assert_allclose(plan, expected, rtol=0, atol=atol, err_msg=what)
    is_clear = reference.compute_margins(expected) > CLEAR
    assert (plan.argmax(1) == expected.argmax(1))[is_clear].all(), what


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_every_class_is_solved_independently(sizes):
    for num_prototypes, kappa in itertools.product([1, 2, 10, 50], [0.01, 0.05, 0.2, 1.0]):
        rng = np.random.default_rng(num_prototypes)
        labels = shuffle_labels(rng, sizes, ignored=[255, -1, len(sizes)] * 7)
        similarities = draw_cosines(rng, len(labels), num_prototypes)
        plan = solve(similarities, labels, len(sizes), kappa=kappa, iterations=3)
        expected = reference.solve_sinkhorn(similarities, labels, len(sizes), kappa, 3)
        assert_same_plan(plan, expected, what=f"K = {num_prototypes}, kappa = {kappa}")


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 50])
def test_iterations_sets_the_number_of_steps(iterations):
    rng = np.random.default_rng(0)
    labels = shuffle_labels(rng, [60, 5, 200])
    similarities = draw_cosines(rng, len(labels), 7)
    plan = solve(similarities, labels, 3, kappa=0.05, iterations=iterations)
    assert_same_plan(plan, reference.solve_sinkhorn(similarities, labels, 3, 0.05, iterations))


def test_the_defaults_are_three_steps_and_kappa_005():
    rng = np.random.default_rng(0)
    labels = shuffle_labels(rng, [60, 30])
    similarities = draw_cosines(rng, len(labels), 5)
    assert_same_plan(
        solve(similarities, labels, 2), reference.solve_sinkhorn(similarities, labels, 2, 0.05, 3)
    )


@pytest.mark.parametrize("kappa", [0.01, 0.05])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_similarities_do_not_overflow(dtype, kappa):
    rng = np.random.default_rng(1)
    labels = shuffle_labels(rng, [300, 3, 0, 41], ignored=[255] * 9)
    similarities = torch.tensor(draw_cosines(rng, len(labels), 10)).to(dtype)
    plan = run_sinkhorn(similarities, torch.tensor(labels), 4, kappa=kappa)
    assert plan.dtype == torch.float32
    expected = reference.solve_sinkhorn(convert_float64(similarities), labels, 4, kappa, 3)
    assert_same_plan(convert_float64(plan), expected)


@pytest.mark.parametrize("offset", [-1000.0, 1000.0])
def test_large_similarities_of_unnormalised_distances_do_not_overflow(offset):
    rng = np.random.default_rng(2)
    labels = shuffle_labels(rng, [50, 50])
    similarities = draw_cosines(rng, 100, 4) * 10 + np.float32(offset)
    plan = solve(similarities, labels, 2, kappa=1.0)
    assert_same_plan(plan, reference.solve_sinkhorn(similarities, labels, 2, 1.0, 3), atol=5e-3)


def test_a_class_of_a_million_pixels_keeps_its_precision():
    # Small terms after a large one: a sequential float32 sum would lose them.
    rng = np.random.default_rng(3)
    similarities = rng.normal(0.08, 0.01, (1_000_000, 2)).astype(np.float32)
    similarities[0] = [0.95, 0.0]
    labels = np.zeros(len(similarities), dtype=np.int64)
    for iterations in (1, 3):
        plan = solve(similarities, labels, 1, kappa=0.05, iterations=iterations)
        expected = reference.solve_sinkhorn_of_class(similarities, 0.05, iterations)
        np.testing.assert_allclose(plan, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("kappa", [0.009, 0.01, 0.049, 0.05, 0.051, 1.0])
def test_similarities_at_both_bounds_are_solved(kappa):
    # The widest range of the scaling vectors, for each of their types.
    rng = np.random.default_rng(8)
    labels = shuffle_labels(rng, [300, 2, 41])
    similarities = rng.choice(np.float32([-1, -1, -1, 0.3, 1]), (len(labels), 6))
    similarities[:, 4] = -1  # a prototype with low similarity to all pixels
    for iterations in (1, 3, 30):
        plan = solve(similarities, labels, 3, kappa=kappa, iterations=iterations)
        expected = reference.solve_sinkhorn(similarities, labels, 3, kappa, iterations)
        assert_same_plan(plan, expected, what=f"{iterations} iterations")


@pytest.mark.parametrize("num_pixels", [1, 3, 4, 5, 300])
def test_a_single_class_is_solved_like_one_of_two(num_pixels):
    """Without a sort, also with as many pixels as prototypes (4) or fewer."""
    generator = torch.Generator().manual_seed(num_pixels)
    similarities = 2 * torch.rand(num_pixels, 4, generator=generator) - 1
    labels = torch.zeros(num_pixels, dtype=torch.long)
    plans = [run_sinkhorn(similarities.clone(), labels, c, bound=1.0) for c in (1, 2)]
    torch.testing.assert_close(*plans)
    targets = [assign_pixels(similarities.clone(), labels, c, bound=1.0)[0] for c in (1, 2)]
    assert targets[0].tolist() == targets[1].tolist() == plans[0].argmax(1).tolist()


@pytest.mark.parametrize(
    ("kappa", "bound", "dtype"),
    [
        (0.05, 1.0, torch.float32),
        (0.0499, 1.0, torch.float64),
        (0.1, 2.0, torch.float32),
        (0.1, 2.01, torch.float64),
        (0.00667, 1.0, torch.float64),
        (0.00666, 1.0, None),
        (0.05, None, None),
    ],
)
def test_the_type_holds_the_range_of_the_exponents(kappa, bound, dtype):
    """exp(2 bound / kappa) is at most exp(40) in float32 and exp(300) in float64."""
    assert choose_dtype(kappa, bound) is dtype


def test_rounding_above_the_bound_is_harmless():
    rng = np.random.default_rng(9)
    labels = shuffle_labels(rng, [60, 30])
    similarities = draw_cosines(rng, len(labels), 5)
    similarities[3, 2] = np.float32(1 + 4e-7)
    plan = run_sinkhorn(torch.tensor(similarities), torch.tensor(labels), 2, bound=1.0)
    expected = reference.solve_sinkhorn(similarities, labels, 2, 0.05, 3)
    assert_same_plan(convert_float64(plan), expected)


def test_after_many_steps_prototypes_have_equal_sums():
    rng = np.random.default_rng(4)
    sizes, num_prototypes = [500, 30, 4, 0, 1], 6
    labels = shuffle_labels(rng, sizes, ignored=[255] * 50)
    similarities = draw_cosines(rng, len(labels), num_prototypes)
    plan = solve(similarities, labels, len(sizes), kappa=0.2, iterations=500)
    for c, size in enumerate(sizes):
        rows = plan[labels == c].sum(0)
        np.testing.assert_allclose(rows, size / num_prototypes, rtol=1e-3)


def test_pixels_spread_over_prototypes_even_if_all_prefer_one():
    rng = np.random.default_rng(5)
    similarities = draw_cosines(rng, 4000, 4) * 0.1
    similarities[:, 2] += 0.9
    plan = solve(similarities, np.zeros(4000, dtype=np.int64), 1, kappa=0.05, iterations=3)
    shares = np.bincount(plan.argmax(1), minlength=4) / 4000
    np.testing.assert_allclose(shares, 0.25, atol=0.03)


def test_at_convergence_the_plan_equals_that_of_pot():
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(6)
    sizes, num_prototypes, kappa = [70, 12], 5, 0.1
    labels = shuffle_labels(rng, sizes)
    similarities = draw_cosines(rng, len(labels), num_prototypes)
    plan = solve(similarities, labels, len(sizes), kappa=kappa, iterations=1000)
    for c, size in enumerate(sizes):
        own = labels == c
        pot = ot.sinkhorn(
            np.full(size, 1 / size),
            np.full(num_prototypes, 1 / num_prototypes),
            -similarities[own].astype(np.float64),
            reg=kappa,
            method="sinkhorn_log",
            numItermax=5000,
            stopThr=1e-12,
        )
        np.testing.assert_allclose(plan[own], pot * size, rtol=0, atol=1e-4)


@st.composite
def draw_problem(draw):
    """Draw a ragged batch: similarities, labels (some ignored), C, κ and iterations."""
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    ignored = draw(st.lists(st.sampled_from([255, -1, -100, len(sizes)]), max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = shuffle_labels(rng, sizes, ignored)
    similarities = draw_cosines(rng, len(labels), draw(st.integers(1, 50)))
    options = {"kappa": draw(st.floats(0.01, 1)), "iterations": draw(st.integers(1, 6))}
    return similarities, labels, len(sizes), options


any_problem = given(draw_problem())
with_fixed_examples = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@with_fixed_examples
@any_problem
def test_any_batch_equals_the_reference(problem):
    similarities, labels, num_classes, options = problem
    expected = reference.solve_sinkhorn(similarities, labels, num_classes, **options)
    assert_same_plan(solve(similarities, labels, num_classes, **options), expected)


@with_fixed_examples
@any_problem
def test_columns_sum_to_one_or_are_zero_for_ignored_pixels(problem):
    similarities, labels, num_classes, options = problem
    plan = solve(similarities, labels, num_classes, **options)
    counts = (labels >= 0) & (labels < num_classes)
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan[counts].sum(1), 1, rtol=1e-5)
    assert (plan[~counts] == 0).all()


@with_fixed_examples
@any_problem
def test_the_order_of_the_pixels_does_not_matter(problem):
    similarities, labels, num_classes, options = problem
    order = np.random.default_rng(0).permutation(len(labels))
    plan = solve(similarities, labels, num_classes, **options)
    shuffled = solve(similarities[order], labels[order], num_classes, **options)
    np.testing.assert_allclose(shuffled, plan[order], rtol=0, atol=2e-4)


@with_fixed_examples
@any_problem
def test_an_equal_bonus_for_all_pixels_of_a_class_changes_nothing(problem):
    similarities, labels, num_classes, options = problem
    bonus = np.random.default_rng(0).uniform(-0.5, 0.5, (num_classes, similarities.shape[1]))
    raised = similarities + bonus[labels.clip(0, num_classes - 1)].astype(np.float32)
    plan = solve(similarities, labels, num_classes, **options)
    np.testing.assert_allclose(
        solve(raised, labels, num_classes, **options), plan, rtol=0, atol=5e-4
    )


def test_all_ignored_pixels_form_one_segment():
    labels = torch.tensor([0, 2, 3, 255, -1, -100, 1])
    assert sort_by_segment(labels, 3).segment.tolist() == [0, 1, 2, 3, 3, 3, 3]


def test_own_similarities_are_those_of_the_class():
    similarities = torch.arange(5 * 6.0).view(5, 6)
    own = select_own_similarities(similarities, torch.tensor([0, 2, 1, 255, -1]), num_prototypes=2)
    assert own.tolist() == [[0, 1], [10, 11], [14, 15], [18, 19], [24, 25]]


def test_an_empty_batch_has_an_empty_plan():
    assert run_sinkhorn(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 3).shape == (0, 4)


def test_no_gradient_passes_through_the_clustering():
    similarities = torch.rand(8, 3, requires_grad=True)
    assert not run_sinkhorn(similarities, torch.zeros(8, dtype=torch.long), 1).requires_grad
