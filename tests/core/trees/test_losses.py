"""The losses on trees and the scores of classes, against float64 loops over nodes and paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from core.trees import reference
from core.trees.random_trees import TWO_LEVELS, Path, draw_paths, make_batch, trees
from protoseg.core.trees.losses import (
    compute_level_losses,
    compute_tree_loss,
    score_classes,
    take_level_maxima,
)
from protoseg.core.trees.tables import TreeTables

KINDS = ("sigmoid", "tree_min", "focal_tree_min")
INFERENCES = ("path", "leaf", "softmax")
every_tree_loss = pytest.mark.parametrize("tree_loss", KINDS)
THREE_LEVELS = draw_paths(np.random.default_rng(4), 7, 3)


def compute_gradient(logits, labels, tables, tree_loss, gamma=2.0):
    leaf = logits.clone().requires_grad_()
    loss = compute_tree_loss(leaf, labels, tables, tree_loss, gamma)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


@given(trees(), st.sampled_from(KINDS), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_loss_equals_loops_over_nodes(
    paths: tuple[Path, ...], tree_loss: str, gamma: float, seed: int
) -> None:
    logits, labels, tables = make_batch(paths, seed=seed)
    expected = reference.compute_tree_loss(logits.numpy(), labels.numpy(), paths, tree_loss, gamma)
    actual = compute_tree_loss(logits, labels, tables, tree_loss, gamma)
    assert actual.dtype == torch.float64
    assert actual.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@given(trees(max_nodes=40), st.sampled_from(KINDS), st.sampled_from([0.0, 0.5, 2.0]))
@settings(max_examples=25, deadline=None)
def test_the_gradient_equals_differences(
    paths: tuple[Path, ...], tree_loss: str, gamma: float
) -> None:
    logits, labels, tables = make_batch(paths, size=(1, 2, 2), ignored=0.2)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda values: compute_tree_loss(values, labels, tables, tree_loss, gamma), logits
    )


@every_tree_loss
def test_blocks_of_pixels_give_the_same_loss(
    tree_loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels, tables = make_batch(THREE_LEVELS, size=(3, 5, 7))
    whole = compute_gradient(logits, labels, tables, tree_loss)
    monkeypatch.setattr("protoseg.core.trees.node_loss.choose_block_rows", lambda *_: 4)
    parts = compute_gradient(logits, labels, tables, tree_loss)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)


def test_tree_min_charges_a_violation_of_the_tree_more_than_once() -> None:
    """A pixel of ``road`` whose group has a low score: both positive nodes have that score."""
    tables = TreeTables(TWO_LEVELS, 5)
    logits = torch.full((1, 8, 1, 1), -50.0, dtype=torch.float64)
    logits[0, 0], logits[0, 5] = 3.0, -1.0
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    low, high = (F.softplus(torch.tensor(x, dtype=torch.float64)).item() for x in (1.0, -3.0))
    loss, gradient = compute_gradient(logits, labels, tables, "tree_min")
    assert loss.item() == pytest.approx(low / 5 + low / 3)
    assert gradient[0, 0].item() == 0, "the gradient goes to the violating node alone"
    assert gradient[0, 5].item() == pytest.approx(
        -torch.sigmoid(torch.tensor(1.0)) * (1 / 5 + 1 / 3)
    )
    assert compute_gradient(logits, labels, tables, "sigmoid")[0].item() == pytest.approx(
        high / 5 + low / 3
    )


def test_sigmoid_is_the_mean_of_the_cross_entropies_of_each_level() -> None:
    logits, labels, tables = make_batch(THREE_LEVELS, size=(2, 4, 4), ignored=0)
    truth = torch.zeros_like(logits).scatter_(1, tables.ancestors[:, labels].movedim(0, 1), 1.0)
    sizes = list(tables.level_sizes)
    expected = sum(
        F.binary_cross_entropy_with_logits(one, other)
        for one, other in zip(logits.split(sizes, 1), truth.split(sizes, 1), strict=True)
    )
    torch.testing.assert_close(compute_tree_loss(logits, labels, tables, "sigmoid"), expected)


def test_equal_logits_share_the_gradient_of_the_maximum() -> None:
    """Two siblings with one logit: together they get what one of them would get."""
    tables = TreeTables(TWO_LEVELS, 5)
    labels = torch.full((1, 1, 1), 3)
    logits = torch.tensor([2.0, 2.0, -9, 1, -9, -3, -9, 1], dtype=torch.float64)[
        None, :, None, None
    ]
    _, tied = compute_gradient(logits, labels, tables, "tree_min")
    slope = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64)).item()
    assert tied[0, :2].flatten().tolist() == pytest.approx([slope / 5 + slope / 6] * 2)
    # A node with the logit of a child has the gradient itself.
    logits[0, 5] = 2.0
    _, tied = compute_gradient(logits, labels, tables, "tree_min")
    assert tied[0, [0, 1, 5]].flatten().tolist() == pytest.approx([slope / 5] * 2 + [slope / 3])


@every_tree_loss
def test_ignored_pixels_change_nothing(tree_loss: str) -> None:
    logits, labels, tables = make_batch(THREE_LEVELS, size=(2, 4, 4))
    ignored = labels == -1
    assert 0 < ignored.sum() < labels.numel()
    loss, gradient = compute_gradient(logits, labels, tables, tree_loss)
    assert not gradient.movedim(1, -1)[ignored].any()
    assert gradient.movedim(1, -1)[~ignored].any()
    changed = torch.where(ignored[:, None], 1e4, logits)
    other, other_gradient = compute_gradient(changed, labels, tables, tree_loss)
    assert torch.equal(loss, other)
    assert torch.equal(gradient, other_gradient)


@every_tree_loss
def test_without_a_valid_pixel_the_loss_is_zero(tree_loss: str) -> None:
    logits, labels, tables = make_batch(THREE_LEVELS)
    loss, gradient = compute_gradient(logits, torch.full_like(labels, -1), tables, tree_loss)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))
    levels = logits.requires_grad_().split(list(tables.level_sizes), 1)
    losses = compute_level_losses(levels, torch.full_like(labels, -1), tables)
    assert [loss.item() for loss in losses] == [0, 0, 0]
    torch.stack(losses).sum().backward()
    assert not logits.grad.any()


@every_tree_loss
@pytest.mark.parametrize("size", [80.0, 1e4])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_extreme_logits_have_the_exact_loss(tree_loss: str, size: float, gamma: float) -> None:
    logits, labels, tables = make_batch(THREE_LEVELS, size=(2, 4, 4))
    extreme = (size * logits.sign()).float()
    expected = reference.compute_tree_loss(
        extreme.numpy(), labels.numpy(), THREE_LEVELS, tree_loss, gamma
    )
    loss, gradient = compute_gradient(extreme, labels, tables, tree_loss, gamma)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert gradient.isfinite().all()
    assert gradient.any()


@every_tree_loss
def test_half_precision_is_computed_in_float32(tree_loss: str) -> None:
    logits, labels, tables = make_batch(THREE_LEVELS, size=(2, 4, 4))
    half = logits.bfloat16()
    loss, gradient = compute_gradient(half, labels, tables, tree_loss)
    assert (loss.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    expected, _ = compute_gradient(half.float(), labels, tables, tree_loss)
    assert torch.equal(loss, expected)


def test_no_gradient_is_computed_where_none_is_needed() -> None:
    logits, labels, tables = make_batch(THREE_LEVELS)
    loss = compute_tree_loss(logits, labels, tables)
    assert not loss.requires_grad
    expected, _ = compute_gradient(logits, labels, tables, "tree_min")
    assert torch.equal(loss, expected)


def test_level_losses_are_cross_entropies_of_the_groups() -> None:
    logits, labels, tables = make_batch(THREE_LEVELS, size=(2, 4, 4))
    levels = logits.split(list(tables.level_sizes), 1)
    nodes = reference.list_nodes(THREE_LEVELS)
    actual = compute_level_losses(levels, labels, tables)
    for level, loss in enumerate(actual):
        names = [node for node in nodes if len(node) == 3 - level]
        terms = []
        for b, y, x in np.argwhere(labels.numpy() >= 0):
            values = levels[level][b, :, y, x].numpy()
            own = names.index(THREE_LEVELS[labels[b, y, x]][: 3 - level])
            terms.append(np.log(np.exp(values).sum()) - values[own])
        assert loss.item() == pytest.approx(np.mean(terms), rel=1e-10)
    # Scores of fewer levels are those of the highest ones.
    assert compute_level_losses(levels[1:], labels, tables) == actual[1:]


@given(trees(), st.sampled_from(INFERENCES), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_scores_of_classes_are_those_of_their_paths(
    paths: tuple[Path, ...], inference: str, seed: int
) -> None:
    logits, _, tables = make_batch(paths, seed=seed, size=(1, 2, 2), scale=4.0)
    actual = score_classes(logits, tables.ancestors, inference, len(paths))
    assert actual.shape == (1, len(paths), 2, 2)
    for y, x in np.ndindex(2, 2):
        expected = reference.score_path(logits[0, :, y, x].numpy(), paths, inference)
        np.testing.assert_allclose(actual[0, :, y, x].exp().numpy(), expected, rtol=1e-9)
        assert actual[0, :, y, x].argmax() == expected.argmax()


@pytest.mark.parametrize("inference", INFERENCES)
def test_scores_of_extreme_logits_are_finite(inference: str) -> None:
    logits, _, tables = make_batch(THREE_LEVELS, size=(2, 4, 4))
    for size in (80.0, 1e4):
        extreme = (size * logits.sign()).float()
        assert score_classes(extreme, tables.ancestors, inference, 7).isfinite().all()


def test_path_and_leaf_may_choose_different_classes() -> None:
    tables = TreeTables(TWO_LEVELS, 5)
    logits = torch.tensor([0.0, -4, 1, -4, -4, 3, -3, -3])[None, :, None, None]
    chosen = {
        rule: score_classes(logits, tables.ancestors, rule, 5).argmax(1).item()
        for rule in INFERENCES
    }
    assert chosen == {"path": 0, "leaf": 2, "softmax": 0}


def test_level_maxima_are_those_of_all_classes_below() -> None:
    scores, _, tables = make_batch(THREE_LEVELS, size=(2, 3, 3))
    scores = scores[:, :7].clone().requires_grad_()
    levels = take_level_maxima(scores, tables)
    nodes = reference.list_nodes(THREE_LEVELS)
    assert len(levels) == 2
    for number, level in enumerate(levels, start=1):
        for v, node in enumerate(n for n in nodes if len(n) == 3 - number):
            below = [c for c, path in enumerate(THREE_LEVELS) if reference.is_above(node, path)]
            assert torch.equal(level[:, v], scores[:, below].amax(1))
    (gradient,) = torch.autograd.grad(levels[1].sum(), scores)
    assert gradient.sum() == levels[1].numel()
    assert set(gradient.flatten().tolist()) == {0.0, 1.0}
