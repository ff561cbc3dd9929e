"""Distances (Table 5d) and class scores (Eq. 6): values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core import reference
from core.batches import convert_float64, draw_vectors
from protoseg.core import distances
from protoseg.core.distances import (
    DISTANCES,
    compute_class_scores,
    compute_similarities,
    normalise_vectors,
)

every_distance = pytest.mark.parametrize("distance", DISTANCES)


def compute_from_differences(pixels, prototypes, distance, delta):
    """Compute ``-<i, p>`` from the difference of the vectors, for autograd in float64."""
    if distance == "cosine":
        return torch.einsum("nd,ckd->nck", pixels, prototypes).flatten(1)
    gap = (pixels[:, None, None] - prototypes).norm(dim=-1).flatten(1)
    if distance == "euclidean":
        return -gap
    return -delta * (torch.sqrt(1 + (gap / delta) ** 2) - 1)


@every_distance
@pytest.mark.parametrize("length", [0.01, 1.0, 20.0])
def test_similarities_equal_the_formulas_of_the_paper(distance, length):
    for delta in (0.02, 0.1, 3.0):
        rng = np.random.default_rng(0)
        pixels = length * draw_vectors(rng, 17, 8, unit=distance == "cosine")
        prototypes = length * draw_vectors(rng, 4, 3, 8, unit=distance == "cosine")
        table = compute_similarities(
            torch.tensor(pixels), torch.tensor(prototypes), distance, delta
        )
        assert table.dtype == torch.float32
        expected = reference.compute_similarities(pixels, prototypes, distance, delta)
        np.testing.assert_allclose(
            convert_float64(table),
            expected,
            rtol=2e-5,
            atol=2e-6 * length,
            err_msg=f"delta {delta}",
        )


def test_the_default_huber_delta_is_a_tenth():
    pixel, prototype = torch.zeros(1, 4), torch.full((1, 1, 4), 0.15)
    expected = -0.1 * ((1 + (0.3 / 0.1) ** 2) ** 0.5 - 1)
    assert compute_similarities(pixel, prototype, "huber").item() == pytest.approx(
        expected, rel=1e-6
    )


def test_huber_is_quadratic_for_short_and_linear_for_long_distances():
    origin = torch.zeros(1, 1, 1)
    near, far = torch.tensor([[1e-3]]), torch.tensor([[1e3]])
    assert compute_similarities(near, origin, "huber", 1.0).item() == pytest.approx(
        -0.5e-6, rel=0.1
    )
    assert compute_similarities(far, origin, "huber", 1.0).item() == pytest.approx(-999, rel=1e-4)


def test_an_unknown_distance_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'manhattan'.*cosine, euclidean, huber"):
        compute_similarities(torch.zeros(1, 2), torch.zeros(1, 1, 2), "manhattan")  # type: ignore[arg-type]


@every_distance
def test_gradients_equal_finite_differences(distance):
    rng = np.random.default_rng(1)
    pixels = torch.tensor(draw_vectors(rng, 5, 4)).double().requires_grad_()
    prototypes = torch.tensor(draw_vectors(rng, 3, 2, 4)).double()
    assert torch.autograd.gradcheck(lambda x: compute_similarities(x, prototypes, distance), pixels)


@every_distance
def test_values_and_gradients_equal_those_from_vector_differences(distance):
    rng = np.random.default_rng(2)
    prototypes = torch.tensor(draw_vectors(rng, 3, 2, 4)).double()
    vectors_ours, vectors_reference = (
        torch.tensor(draw_vectors(rng, 9, 4)).double().requires_grad_() for _ in range(2)
    )
    vectors_reference.data.copy_(vectors_ours.data)
    table = compute_similarities(vectors_ours, prototypes, distance, 0.3)
    expected = compute_from_differences(vectors_reference, prototypes, distance, 0.3)
    torch.testing.assert_close(table, expected, rtol=1e-9, atol=1e-9)
    weights = torch.linspace(-1, 1, table.numel()).double().view_as(table)
    (table * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(vectors_ours.grad, vectors_reference.grad, rtol=1e-8, atol=1e-8)


@every_distance
@pytest.mark.parametrize("length", [1.0, 100.0])
def test_a_pixel_on_its_prototype_has_a_finite_gradient(distance, length):
    for gap in (0.0, 1e-20, 1e-8, 1e-4):
        prototypes = length * torch.tensor(draw_vectors(np.random.default_rng(3), 2, 2, 8))
        pixels = (prototypes.flatten(0, 1) + gap).requires_grad_()
        table = compute_similarities(pixels, prototypes, distance)
        table.square().sum().backward()
        assert table.isfinite().all(), gap
        assert pixels.grad is not None
        assert pixels.grad.isfinite().all(), gap
        if distance != "cosine":
            assert (table.diagonal() <= 0).all(), gap
            assert table.diagonal().abs().max() <= 1e-3 * length, gap


@every_distance
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pixels_are_compared_in_float32(distance, dtype):
    rng = np.random.default_rng(4)
    pixels = torch.tensor(3 * draw_vectors(rng, 6, 16)).to(dtype)
    prototypes = torch.tensor(3 * draw_vectors(rng, 2, 3, 16))
    table = compute_similarities(pixels, prototypes, distance)
    assert table.dtype == torch.float32
    expected = reference.compute_similarities(
        convert_float64(pixels), convert_float64(prototypes), distance
    )
    np.testing.assert_allclose(convert_float64(table), expected, rtol=1e-5, atol=1e-5)


@every_distance
def test_autocast_does_not_coarsen_the_similarities(distance):
    # In bfloat16, |i|² + |p|² - 2 i·p loses short distances between long vectors to rounding.
    rng = np.random.default_rng(5)
    prototypes = torch.tensor(10 * draw_vectors(rng, 2, 3, 16))
    pixels = (prototypes.flatten(0, 1) + 0.01).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        table = compute_similarities(pixels, prototypes, distance)
    expected = reference.compute_similarities(
        convert_float64(pixels), convert_float64(prototypes), distance
    )
    np.testing.assert_allclose(convert_float64(table), expected, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("num_prototypes", [1, 2, 5])
def test_a_class_score_is_the_similarity_to_the_nearest_prototype(num_prototypes):
    table = draw_vectors(np.random.default_rng(6), 11, 4 * num_prototypes)
    scores = compute_class_scores(torch.tensor(table), num_prototypes)
    np.testing.assert_array_equal(
        convert_float64(scores), reference.compute_class_scores(table, num_prototypes)
    )


def test_the_gradient_of_a_score_reaches_the_nearest_prototype_only():
    table = torch.tensor([[0.1, 0.9, 0.5, 0.4]], requires_grad=True)
    compute_class_scores(table, 2).sum().backward()
    assert table.grad is not None
    assert table.grad.tolist() == [[0, 1, 1, 0]]


def test_only_the_cosine_distance_normalises_vectors():
    rng = np.random.default_rng(7)
    drawn = torch.tensor(5 * draw_vectors(rng, 3, 2, 4, unit=False))
    torch.testing.assert_close(normalise_vectors(drawn, "cosine").norm(dim=-1), torch.ones(3, 2))
    assert normalise_vectors(drawn, "euclidean") is drawn
    assert normalise_vectors(drawn, "huber") is drawn


def test_a_zero_vector_stays_zero():
    assert normalise_vectors(torch.zeros(2, 4), "cosine").tolist() == [[0] * 4] * 2


@pytest.mark.parametrize("numbers", [1, 40, 10**6], ids="{} at once".format)
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (2, 4, 3, 5)], ids=str)
def test_the_gradient_of_unit_vectors_equals_autograd(shape, numbers, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", {"cpu": numbers})
    drawn = torch.randn(shape, dtype=torch.float64)
    drawn[0] *= 1e-3
    # Like the features of a head: a permuted view with channels last, stored channels first.
    drawn = drawn.movedim(-1, 0).contiguous().movedim(0, -1).requires_grad_()
    unit = normalise_vectors(drawn, "cosine")
    assert unit.is_contiguous()
    torch.testing.assert_close(unit, torch.nn.functional.normalize(drawn, dim=-1))
    assert torch.autograd.gradcheck(lambda x: normalise_vectors(x, "cosine"), (drawn,), eps=1e-8)
    weights = torch.randn(shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((unit * weights).sum(), drawn)
    (expected,) = torch.autograd.grad(
        (torch.nn.functional.normalize(drawn, dim=-1) * weights).sum(), drawn
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_a_tiny_vector_has_a_finite_gradient():
    drawn = torch.tensor([[0.0, 0.0], [3e-13, 4e-13]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((normalise_vectors(drawn, "cosine") * weights).sum(), drawn)
    torch.testing.assert_close(gradient, (weights / 1e-12).expand(2, 2))


def test_normalisation_saves_only_its_input_and_norms_for_backward():
    drawn = torch.randn(2, 64, 8, 8).permute(0, 2, 3, 1).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        normalise_vectors(drawn, "cosine")
    assert {t.data_ptr() for t in saved if t.numel() >= drawn.numel()} == {drawn.data_ptr()}
