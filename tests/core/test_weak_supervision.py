"""Weak supervision against its formulas in float64."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run_in_processes
from torch import Tensor

from core import weak_processes
from core import weak_reference as reference
from protoseg.core import weak_supervision
from protoseg.core.weak_supervision import Prototypes, View

B, C, H, W, D = 3, 6, 5, 4, 8
THRESHOLD, TEMPERATURE, TOP = 0.3, 0.1, 7


@dataclass(frozen=True)
class Batch:
    """Two images with some classes and one without; the last row of the first one is padding."""

    activations: Tensor
    present: Tensor
    view: View
    random_keys: Tensor


def make_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(B, C - 1, H, W, generator=generator)
    present = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]).bool()
    embeddings = torch.randn(B * H * W, D, generator=generator).relu() + 0.01
    embeddings = torch.nn.functional.normalize(embeddings, dim=1)
    maps = weak_supervision.normalise_maps(activations, present)
    valid = torch.ones(B, H, W, dtype=torch.bool)
    valid[0, -1] = False
    confidences = weak_supervision.add_background(maps).permute(0, 2, 3, 1).flatten(0, 2)
    labels = torch.where(
        valid, weak_supervision.make_pseudo_labels(maps, THRESHOLD), weak_supervision.IGNORED
    ).flatten()
    view = View(embeddings, confidences * valid.flatten()[:, None], labels)
    return Batch(activations, present, view, torch.rand(B * H * W, C, generator=generator))


def estimate_prototypes(batch: Batch, **settings: Any) -> Prototypes:
    view = batch.view
    random_keys = batch.random_keys[:, 0]
    return weak_supervision.estimate_prototypes(
        view.embeddings, view.confidences, TOP, random_keys, **settings
    )


def reference_prototypes(batch: Batch, normalised: bool = True, shift: float = 0.0) -> list[Any]:
    """Return the prototypes of the reference; random keys break ties of confidences."""
    view = batch.view
    confidences = (
        view.confidences.double().numpy() - shift * batch.random_keys[:, :1].double().numpy()
    )
    actual = [
        reference.compute_prototype(view.embeddings.numpy(), confidences, c, TOP, normalised)
        for c in range(C)
    ]
    exists = view.confidences.sum(0) > 0
    return [p if exists[c] else None for c, p in enumerate(actual)]


def test_maps_confidences_and_labels_equal_the_reference() -> None:
    batch = make_batch()
    maps = weak_supervision.normalise_maps(batch.activations, batch.present)
    expected = reference.compute_maps(batch.activations.numpy(), batch.present.numpy())
    np.testing.assert_allclose(maps, expected, atol=1e-7)
    confidences = weak_supervision.add_background(maps)
    np.testing.assert_allclose(confidences, reference.add_background(expected), atol=1e-7)
    for threshold in (0.0, 0.3, 0.7, 1.0):
        actual = weak_supervision.make_pseudo_labels(maps, threshold)
        np.testing.assert_array_equal(actual, reference.compute_labels(maps.numpy(), threshold))
    assert (weak_supervision.make_pseudo_labels(maps, 0.0)[2] == 0).all(), (
        "an image without classes must be background"
    )
    assert not maps[:, 1].any(), "an absent class must have no map"


@pytest.mark.parametrize("unit", [True, False])
def test_prototypes_equal_the_reference(unit: bool) -> None:
    batch = make_batch()
    actual, expected = (
        estimate_prototypes(batch, unit=unit),
        reference_prototypes(batch, unit, shift=1e-9),
    )
    assert actual.exists.tolist() == [p is not None for p in expected]
    assert not actual.exists.all(), "one class must be absent"
    for c, vector in enumerate(expected):
        if vector is not None:
            np.testing.assert_allclose(actual.vectors[c], vector, atol=2e-6, err_msg=f"class {c}")


def test_contrast_and_its_gradient_equal_the_reference() -> None:
    batch = make_batch()
    view, prototypes = batch.view, estimate_prototypes(batch)
    embeddings = view.embeddings.clone().requires_grad_()
    loss = weak_supervision.compute_contrast(embeddings, view.labels, prototypes, TEMPERATURE)
    loss.backward()
    vectors = convert_prototypes(prototypes)
    arguments = (view.labels.numpy(), vectors, TEMPERATURE)
    expected = reference.compute_mean_loss(view.embeddings.numpy(), *arguments)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert embeddings.grad is not None
    start = view.embeddings.double().numpy()
    for pixel, channel in ((0, 0), (21, 3), (40, 7), (16, 2)):
        step = np.zeros_like(start)
        step[pixel, channel] = 1e-6
        high = reference.compute_mean_loss(start + step, *arguments)
        low = reference.compute_mean_loss(start - step, *arguments)
        assert embeddings.grad[pixel, channel].item() == pytest.approx(
            (high - low) / 2e-6, abs=2e-6
        )
    assert not embeddings.grad[view.labels == weak_supervision.IGNORED].any()


def convert_prototypes(prototypes: Prototypes) -> list[Any]:
    """Convert to the format of the reference: None for a class without a prototype."""
    pairs = zip(prototypes.vectors.double().numpy(), prototypes.exists.tolist(), strict=True)
    return [vector if exists else None for vector, exists in pairs]


def test_mined_prototypes_equal_the_reference() -> None:
    batch = make_batch()
    view, prototypes = batch.view, estimate_prototypes(batch)
    vectors = convert_prototypes(prototypes)
    settings_list: list[dict[str, float]] = [
        {},
        {"hardest": 0.3},
        {"drawn": 1.0},
        {"hardest": 1.0, "drawn": 1.0},
    ]
    for settings in settings_list:
        actual = weak_supervision.mine_prototypes(view, prototypes, batch.random_keys, **settings)
        for i, label in enumerate(view.labels.tolist()):
            if label != weak_supervision.IGNORED and prototypes.exists[label]:
                expected = reference.mine_prototypes(
                    view.embeddings[i].numpy(),
                    label,
                    vectors,
                    batch.random_keys[i].tolist(),
                    **settings,
                )
                assert set(actual[i].nonzero().flatten().tolist()) == expected, f"pixel {i}"


def test_sampled_pixels_equal_the_reference() -> None:
    batch = make_batch()
    view, prototypes = batch.view, estimate_prototypes(batch)
    actual = weak_supervision.sample_pixels(view, prototypes, batch.random_keys[:, 1])
    expected = reference.sample_pixels(
        view.embeddings.numpy(),
        view.labels.tolist(),
        prototypes.vectors.double().numpy(),
        batch.random_keys[:, 1].tolist(),
    )
    assert actual.tolist() == expected
    assert {0.0, 1.0, 2.0} == set(actual.tolist())
    assert actual.sum() == (view.labels != weak_supervision.IGNORED).sum(), (
        "the weights must sum to the number of pixels"
    )


def test_the_four_losses_equal_the_reference() -> None:
    first, second = make_batch(0), make_batch(1)
    a, b = first.view, second.view
    p, q = estimate_prototypes(first), estimate_prototypes(second)
    p64, q64 = convert_prototypes(p), convert_prototypes(q)
    pixels, labels, others = a.embeddings.numpy(), a.labels.tolist(), b.labels.tolist()
    assert labels != others
    pairs = [
        (
            weak_supervision.compute_cross_prototype_loss(a, q, 0.2),
            reference.compute_mean_loss(pixels, labels, q64, 0.2),
        ),
        (
            weak_supervision.compute_cross_cam_loss(a, p, b, 0.2),
            reference.compute_mean_loss(pixels, others, p64, 0.2),
        ),
        (
            weak_supervision.compute_intra_view_loss(a, p, 0.2),
            reference.compute_mean_loss(pixels, labels, p64, 0.2),
        ),
    ]
    negatives = weak_supervision.mine_prototypes(a, p, first.random_keys)
    weights = weak_supervision.sample_pixels(a, p, first.random_keys[:, 1])
    sets = [set(row.nonzero().flatten().tolist()) for row in negatives]
    pairs.append(
        (
            weak_supervision.compute_intra_view_loss(
                a, p, 0.2, negatives=negatives, weights=weights
            ),
            reference.compute_mean_loss(pixels, labels, p64, 0.2, sets, weights.tolist()),
        )
    )
    actual = [loss.item() for loss, _ in pairs]
    assert actual == pytest.approx([expected for _, expected in pairs], rel=1e-5)
    assert len({round(value, 4) for value in actual}) == 4


def test_classification_loss_equals_the_reference_and_torch() -> None:
    scores = 3 * torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    present = torch.rand(4, 7, generator=torch.Generator().manual_seed(1)) < 0.4
    expected = reference.compute_soft_margin(scores.numpy(), present.tolist())
    assert weak_supervision.compute_classification_loss(scores, present).item() == pytest.approx(
        expected, rel=1e-5
    )
    torch_loss = torch.nn.functional.multilabel_soft_margin_loss(scores, present.float())
    assert torch_loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_valid_pixels_has_loss_zero() -> None:
    batch = make_batch()
    nothing = torch.full_like(batch.view.labels, weak_supervision.IGNORED)
    view = dataclasses.replace(
        batch.view, labels=nothing, confidences=torch.zeros_like(batch.view.confidences)
    )
    prototypes = weak_supervision.estimate_prototypes(
        view.embeddings, view.confidences, 5, batch.random_keys[:, 0]
    )
    assert not prototypes.exists.any()
    embeddings = view.embeddings.clone().requires_grad_()
    negatives = weak_supervision.mine_prototypes(view, prototypes, batch.random_keys)
    weights = weak_supervision.sample_pixels(view, prototypes, batch.random_keys[:, 0])
    loss = weak_supervision.compute_contrast(
        embeddings, nothing, prototypes, 0.1, negatives=negatives, weights=weights
    )
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()
    assert not weights.any()


def test_two_processes_give_the_prototypes_and_loss_of_the_whole_batch(tmp_path: Path) -> None:
    pixels, confidences, labels, random_keys = weak_processes.make_whole_batch()
    expected = weak_supervision.estimate_prototypes(
        pixels, confidences, weak_processes.TOP, random_keys
    )
    loss = weak_supervision.compute_contrast(pixels, labels, expected, 0.1)
    run_in_processes(weak_processes.run_process, 2, str(tmp_path))
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for part in parts:
        torch.testing.assert_close(part["vectors"], expected.vectors)
        assert torch.equal(part["exists"], expected.exists)
    assert sum(part["loss"] for part in parts) / 2 == pytest.approx(loss.item(), rel=1e-5)
