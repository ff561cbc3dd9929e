"""The tree-triplet loss against loops over classes and pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.trees import reference
from core.trees.random_trees import TWO_LEVELS, Path, trees
from protoseg.core.trees.tables import TreeTables
from protoseg.core.trees.triplets import compute_tree_triplets


def make_rows(num_classes: int, number: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make unit vectors (N, 6) float64 and labels (N,), a fifth of them ignored."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((number, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = rng.integers(0, num_classes, number)
    labels[rng.random(number) < 0.2] = -1
    return torch.from_numpy(rows), torch.from_numpy(labels)


def compute(rows: Tensor, labels: Tensor, paths: tuple[Path, ...], **settings) -> Tensor:
    distances = TreeTables(paths, len(paths)).distances
    return compute_tree_triplets(rows, labels, distances, height=len(paths[0]), **settings)


@given(trees(max_nodes=40), st.integers(0, 99), st.sampled_from([1, 3, 200]))
@settings(max_examples=60, deadline=None)
def test_the_first_pixels_give_the_loss_of_loops(
    paths: tuple[Path, ...], seed: int, max_triplets: int
) -> None:
    rows, labels = make_rows(len(paths), seed=seed)
    options = {"max_triplets": max_triplets, "margin": 0.3, "tree_margin": 0.7}
    expected = reference.compute_triplets(rows.numpy(), labels.numpy(), paths, **options)
    assert compute(rows, labels, paths, **options).item() == pytest.approx(expected, rel=1e-10)


def test_the_pixels_with_the_smallest_keys_are_taken() -> None:
    rows, labels = make_rows(5)
    keys = torch.rand(60, generator=torch.Generator().manual_seed(3))
    order = np.argsort(keys.numpy())
    expected = reference.compute_triplets(
        rows.numpy()[order], labels.numpy()[order], TWO_LEVELS, max_triplets=3
    )
    actual = compute(rows, labels, TWO_LEVELS, max_triplets=3, random_keys=keys)
    assert actual.item() == pytest.approx(expected, rel=1e-10)
    assert actual.item() != pytest.approx(compute(rows, labels, TWO_LEVELS, max_triplets=3).item())


def test_raster_order_ignores_later_pixels() -> None:
    """Pitfall 3 of the released code: pixels after the first ones have no effect and gradient."""
    rows, labels = make_rows(5, number=400)
    rows.requires_grad_()
    compute(rows, labels, TWO_LEVELS, max_triplets=4).backward()
    used = rows.grad.any(1).nonzero().flatten()
    assert used.max() < 60, "the top of the first image"
    rows.grad = None
    keys = torch.rand(400, generator=torch.Generator().manual_seed(3))
    compute(rows, labels, TWO_LEVELS, max_triplets=4, random_keys=keys).backward()
    assert rows.grad.any(1).nonzero().max() > 300


def test_the_margin_between_groups_of_a_tree_of_two_levels_is_0_6() -> None:
    """The released code has this number: 0.1 + (4 - 2) / 4."""
    rows = torch.ones(3, 1, dtype=torch.float64)  # all distances are 0
    assert compute(rows, torch.tensor([0, 1, 3]), TWO_LEVELS).item() == pytest.approx(0.6)
    deep = (("a", "b", "x"), ("a", "b", "y"), ("a", "c", "z"), ("d", "e", "w"))
    for other, margin in ((2, 0.1 + 2 / 6), (3, 0.1 + 4 / 6)):
        loss = compute(rows, torch.tensor([0, 1, other]), deep)
        assert loss.item() == pytest.approx(margin)


def test_the_gradient_equals_differences() -> None:
    rows, labels = make_rows(5, number=20)
    rows.requires_grad_()
    assert torch.autograd.gradcheck(lambda values: compute(values, labels, TWO_LEVELS), rows)


@pytest.mark.parametrize(
    "labels",
    [[-1] * 4, [0] * 4, [0, 1, 0, 1], [3, 0, 2, 3]],
    ids=["ignored", "one class", "one group", "no siblings"],
)
def test_without_a_triplet_the_loss_and_its_gradient_are_zero(labels: list[int]) -> None:
    rows, _ = make_rows(5, number=4)
    rows.requires_grad_()
    loss = compute(rows, torch.tensor(labels), TWO_LEVELS)
    loss.backward()
    assert loss == 0
    assert torch.equal(rows.grad, torch.zeros_like(rows))


def test_ignored_pixels_are_in_no_triplet() -> None:
    rows, labels = make_rows(5)
    rows.requires_grad_()
    loss = compute(rows, labels, TWO_LEVELS)
    loss.backward()
    ignored = labels == -1
    assert not rows.grad[ignored].any()
    torch.testing.assert_close(compute(rows[~ignored], labels[~ignored], TWO_LEVELS), loss)
