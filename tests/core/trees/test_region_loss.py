"""The region loss against numpy with loops over nodes, pixels and regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.trees import reference
from core.trees.random_trees import TWO_LEVELS, draw_paths, make_batch
from protoseg.core.trees.region_loss import compute_region_loss

THREE_LEVELS = draw_paths(np.random.default_rng(4), 7, 3)


@pytest.mark.parametrize("paths", [TWO_LEVELS, THREE_LEVELS])
@pytest.mark.parametrize("size", [(2, 7, 7), (2, 13, 18)])
def test_the_loss_equals_loops_over_regions(paths, size) -> None:
    logits, labels, tables = make_batch(paths, size=size)
    scores = logits.sigmoid()
    expected = reference.compute_region_loss(scores.numpy(), labels.numpy(), paths)
    actual = compute_region_loss(scores, labels, tables.ancestors)
    assert actual.item() == pytest.approx(expected, rel=1e-9)
    in_float32 = compute_region_loss(scores.float(), labels, tables.ancestors)
    assert in_float32.dtype == torch.float32
    assert in_float32.item() == pytest.approx(expected, rel=1e-4)


def test_the_gradient_equals_differences() -> None:
    logits, labels, tables = make_batch(TWO_LEVELS, size=(1, 8, 8))
    assert torch.autograd.gradcheck(
        lambda values: compute_region_loss(values.sigmoid(), labels, tables.ancestors),
        logits.requires_grad_(),
        atol=1e-4,
    )


def test_true_scores_have_a_smaller_loss_than_random_ones() -> None:
    logits, labels, tables = make_batch(TWO_LEVELS, size=(2, 24, 24), ignored=0)
    truth = torch.zeros_like(logits).scatter_(1, tables.ancestors[:, labels].movedim(0, 1), 1.0)
    wrong = compute_region_loss(logits.sigmoid(), labels, tables.ancestors)
    assert compute_region_loss(truth, labels, tables.ancestors) < wrong - 1


def test_ignored_pixels_have_no_gradient() -> None:
    logits, labels, tables = make_batch(TWO_LEVELS, size=(2, 10, 10))
    scores = logits.sigmoid().requires_grad_()
    compute_region_loss(scores, labels, tables.ancestors).backward()
    assert not scores.grad.movedim(1, -1)[labels == -1].any()
    assert scores.grad.any()
    scores.grad = None
    loss = compute_region_loss(scores, torch.full_like(labels, -1), tables.ancestors)
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_smaller_images_than_7_pixels_are_an_error() -> None:
    logits, labels, tables = make_batch(TWO_LEVELS, size=(1, 6, 20))
    with pytest.raises(ValueError, match=r"method\.rmi_weight: needs crops of at least 7 pixels"):
        compute_region_loss(logits.sigmoid(), labels, tables.ancestors)
