"""The losses (Eq. 11 and 12) against a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core import reference
from core.batches import convert_float64, draw_cosines, draw_vectors
from protoseg.core import distances
from protoseg.core.distances import DISTANCES
from protoseg.core.losses import IGNORED, compute_prototype_losses
from protoseg.core.prototypes import PrototypeBank


def compute_ppc(table, target, temperature):
    return compute_prototype_losses(table, target, 1, temperature)[1]


def compute_ppd(table, target, distance="cosine"):
    return compute_prototype_losses(table, target, 1, 0.1, distance)[2]


LOSSES = {
    "L_PPC": lambda table, target: compute_ppc(table, target, 0.1),
    "L_PPD": compute_ppd,
    "L_PPD, euclidean": lambda table, target: compute_ppd(table, target, "euclidean"),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def make_batch(num_columns=12, num_pixels=50, ignored=9):
    """Return similarities or scores (N, columns), and a target per pixel, some ignored."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, num_columns, num_pixels)
    target[rng.permutation(num_pixels)[:ignored]] = IGNORED
    return draw_cosines(rng, num_pixels, num_columns), target


@pytest.mark.parametrize("num_prototypes", [255, 256, 257, 300])
def test_the_best_of_many_prototypes_gets_the_gradient_of_the_score(num_prototypes):
    """The index of the best prototype is stored in few bits."""
    best = [0, num_prototypes - 1, num_prototypes // 2]
    table = torch.zeros(len(best), 2 * num_prototypes)
    for row, index in enumerate(best):
        table[row, num_prototypes + index] = 1.0
    table.requires_grad_()
    target = torch.full((len(best),), IGNORED)
    scores = compute_prototype_losses(table, target, num_prototypes, 0.1)[0]
    scores[:, 1].sum().backward()
    assert table.grad[:, num_prototypes:].argmax(1).tolist() == best
    assert table.grad.sum(1).tolist() == [1.0] * len(best)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_contrast_uses_all_prototypes_of_all_classes(temperature):
    table, target = make_batch()
    loss = compute_ppc(torch.tensor(table), torch.tensor(target), temperature)
    expected = reference.compute_contrast(table, target, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distance_loss_is_the_squared_difference_to_the_prototype(distance):
    table, target = make_batch()
    if distance != "cosine":
        table = -np.abs(table)
    loss = compute_ppd(torch.tensor(table), torch.tensor(target), distance)
    expected = reference.compute_distance_loss(table, target, distance)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("distance", "best"), [("cosine", 1.0), ("euclidean", 0), ("huber", 0)])
def test_distance_loss_is_zero_on_the_prototype(distance, best):
    table = torch.full((3, 4), float(best))
    assert compute_ppd(table, torch.tensor([0, 1, 2]), distance).item() == 0


@every_loss
def test_gradients_equal_finite_differences(loss):
    table, target = make_batch(num_columns=4, num_pixels=7, ignored=2)
    pixels = torch.tensor(table).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.tensor(target)), pixels)


@every_loss
def test_an_ignored_pixel_has_no_loss_and_no_gradient(loss):
    table, target = make_batch()
    pixels = torch.tensor(table, requires_grad=True)
    total = loss(pixels, torch.tensor(target))
    total.backward()
    counts = target != IGNORED
    valid_loss = loss(torch.tensor(table[counts]), torch.tensor(target[counts]))
    torch.testing.assert_close(total.detach(), valid_loss)
    assert pixels.grad is not None
    assert (pixels.grad[~counts] == 0).all()
    assert (pixels.grad[counts] != 0).any(1).all()


@every_loss
@pytest.mark.parametrize("num_pixels", [0, 1, 20])
def test_a_batch_of_ignored_pixels_has_loss_zero(loss, num_pixels):
    table = torch.randn(num_pixels, 6, requires_grad=True)
    total = loss(table, torch.full((num_pixels,), IGNORED))
    assert total.shape == ()
    assert total.item() == 0
    total.backward()
    assert table.grad is not None
    assert (table.grad == 0).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_large_batch_in_half_precision_is_summed_in_float32(loss, dtype):
    num_pixels = 200_000
    table = torch.tensor(draw_cosines(np.random.default_rng(1), num_pixels, 3)).to(dtype)
    target = torch.zeros(num_pixels, dtype=torch.long)
    total = loss(table, target)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, loss(table.float(), target), rtol=1e-5, atol=0)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_reach_embeddings_but_not_prototypes(distance):
    rng = np.random.default_rng(2)
    bank = PrototypeBank(3, 2, 8, distance=distance)
    pixels = torch.tensor(draw_vectors(rng, 30, 8), requires_grad=True)
    table = bank.compute_similarities(pixels)
    target, moved = bank.assign_pixels(table, torch.arange(30) % 3)
    loss = compute_ppc(table, target, 0.1)
    loss = loss + compute_ppd(table, target, distance)
    before = bank.prototypes.clone()
    bank.update_prototypes(pixels, moved)  # in place, between forward and backward
    loss.backward()
    assert not bank.prototypes.requires_grad
    assert bank.prototypes.grad is None
    assert pixels.grad is not None
    assert (pixels.grad != 0).any(1).all()

    by_hand = torch.tensor(convert_float64(pixels), requires_grad=True)
    flat = before.double().flatten(0, 1)
    if distance == "cosine":
        similarities = by_hand @ flat.t()
    else:
        similarities = -(by_hand[:, None] - flat).norm(dim=-1)
        if distance == "huber":
            similarities = -0.1 * ((1 + (similarities / 0.1) ** 2).sqrt() - 1)
    assigned = similarities[torch.arange(30), target]
    best = 1 if distance == "cosine" else 0
    contrast = torch.logsumexp(similarities / 0.1, 1) - assigned / 0.1
    (contrast.mean() + ((best - assigned) ** 2).mean()).backward()
    torch.testing.assert_close(pixels.grad.double(), by_hand.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("num_prototypes", [1, 3])
@pytest.mark.parametrize("rows", [1, 7, 1000], ids="{} numbers at once".format)
def test_the_shared_gradient_is_the_sum_of_the_three_gradients(num_prototypes, rows, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", {"cpu": rows})
    table, target = make_batch(num_columns=6, num_pixels=14, ignored=3)
    table = torch.tensor(table, dtype=torch.float64, requires_grad=True)
    target = torch.tensor(target)

    def outputs(table):
        return compute_prototype_losses(table, target, num_prototypes, 0.3)

    assert torch.autograd.gradcheck(outputs, (table,))
    # The same three losses from separate torch operations.
    scores, contrast, compactness = outputs(table)
    weights = torch.linspace(-1, 1, scores.numel(), dtype=torch.float64).view_as(scores)
    ((scores * weights).sum() + 2 * contrast - 3 * compactness).backward()
    ours, table.grad = table.grad, None
    counts = target != IGNORED
    assigned = table[counts].gather(1, target[counts, None])[:, 0]
    plain = (table.unflatten(1, (-1, num_prototypes)).amax(2) * weights).sum()
    plain = plain + 2 * torch.nn.functional.cross_entropy(table[counts] / 0.3, target[counts])
    plain = plain - 3 * (1 - assigned).square().mean()
    plain.backward()
    assert torch.allclose(ours, table.grad, rtol=1e-12, atol=1e-14)


def test_only_the_similarities_are_saved_for_backward():
    """No second matrix of this size is saved for the backward pass."""
    table = torch.randn(4000, 500, requires_grad=True)
    target = torch.arange(4000) % 500
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        compute_prototype_losses(table, target, 10, 0.1)
    large = {t.data_ptr() for t in saved if t.numel() >= table.numel()}
    assert large == {table.data_ptr()}
