"""The options of ``contrast=released`` against a float64 reference, and what each slip does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import released_contrast as formulas

from models.segmentors import (
    CHANNELS,
    build_segmentor,
    make_decode_head,
    make_images,
    make_label_maps,
    make_samples,
    sum_losses,
)
from protoseg.core import memory_contrast
from protoseg.core.memory_bank import ContrastMemory
from protoseg.core.memory_bank_slips import SLIPS
from protoseg.models.pixel_contrast import PixelContrast

CLASSES, SIZE, IMAGES, D = 5, (6, 8), 3, 4
NUMBER = IMAGES * SIZE[0] * SIZE[1]
RELEASED: dict[str, Any] = {
    "weight": 0.1,
    "channels": D,
    "temperature": 0.07,
    "anchors": 24,
    "pixel_queue": 12,
    "region_queue": 6,
    "pixels_per_image": 3,
    "memory_contrast": "all",
    "memory_start": "random",
    "anchor_sampling": "per_pair",
    "max_views": 4,
    "base_temperature": 0.07,
    "slips": SLIPS,
}


def make_unit_rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=-1).to(dtype)


def make_labels(seed: int = 0, ignored: float = 0.1) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, NUMBER)
    labels[rng.random(NUMBER) < ignored] = formulas.IGNORED
    return torch.from_numpy(labels)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=["f32", "f64"]
)
@pytest.mark.parametrize("num_classes", [3, 19, 150, 847])
@pytest.mark.parametrize("block", [2**24, 7])
def test_the_loss_over_the_whole_memory_equals_the_formula(
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    num_classes: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    monkeypatch.setattr(memory_contrast, "BLOCK", block * 10)
    rng = np.random.default_rng(num_classes)
    samples, anchors = (
        make_unit_rows(300, D, dtype=dtype),
        make_unit_rows(20, D, seed=1, dtype=dtype),
    )
    sample_labels = torch.from_numpy(rng.integers(-1, num_classes, 300))
    labels = torch.from_numpy(rng.choice(sample_labels.numpy(), 20))
    labels[0], labels[1] = formulas.IGNORED, num_classes  # unused, and a class without an entry
    temperature = 0.3
    loss, gradient = formulas.compute_memory_contrast(
        anchors.numpy(), labels.numpy(), samples.numpy(), sample_labels.numpy(), temperature
    )
    anchors.requires_grad_()
    actual = memory_contrast.compute_memory_contrast(
        anchors,
        labels,
        [(samples[:100], sample_labels[:100]), (samples[100:], sample_labels[100:])],
        temperature,
    )
    actual.backward()
    assert anchors.grad is not None
    assert actual.item() == pytest.approx(loss, rel=10 * tolerance)
    np.testing.assert_allclose(anchors.grad.double().numpy(), gradient, atol=tolerance)


def test_one_queue_alone_is_enough() -> None:
    torch.manual_seed(0)
    for empty in ("pixel_queue", "region_queue"):
        contrast = PixelContrast(D, CLASSES, **{**RELEASED, empty: 0, "slips": ()})
        features, scores = torch.randn(IMAGES, D, *SIZE), torch.randn(IMAGES, CLASSES, *SIZE)
        loss = contrast(features, make_labels(), scores)
        loss.backward()
        assert loss > 0


def test_an_empty_memory_gives_zero() -> None:
    anchors = make_unit_rows(4, D).requires_grad_()
    labels, empty = torch.tensor([0, 1, 2, -1]), torch.full((9,), formulas.IGNORED)
    loss = memory_contrast.compute_memory_contrast(
        anchors, labels, [(make_unit_rows(9, D), empty)], 0.1
    )
    loss.backward()
    assert loss.item() == 0
    assert anchors.grad is not None
    assert not anchors.grad.any()


@pytest.mark.parametrize(("count", "max_views"), [(24, 4), (60, 100), (60, 1), (20, 3), (200, 6)])
def test_anchors_are_drawn_evenly_over_pairs_of_image_and_class(count: int, max_views: int) -> None:
    labels = make_labels()
    hard = torch.rand(NUMBER, generator=torch.Generator().manual_seed(2)) < 0.2
    keys = torch.rand(NUMBER, generator=torch.Generator().manual_seed(3))
    chosen, chosen_labels = memory_contrast.choose_pair_anchors(
        labels, hard, IMAGES, CLASSES, count, max_views, keys
    )
    expected = formulas.choose_pair_anchors(
        labels.numpy(), hard.numpy(), IMAGES, count, max_views, keys.numpy()
    )
    used = chosen_labels != formulas.IGNORED
    assert set(chosen[used].tolist()) == expected
    assert torch.equal(chosen_labels[used], labels[chosen[used]])
    assert len(chosen) == min(count, NUMBER)
    assert bool(expected) == (max_views < 100), "the case must choose anchors"


def test_the_memory_with_all_slips_equals_the_loop() -> None:
    torch.manual_seed(0)
    memory = ContrastMemory(
        CLASSES, D, pixel_queue=12, region_queue=6, pixels_per_image=3, start="random", slips=SLIPS
    )
    loop = formulas.Memory(memory.pixels.numpy(), memory.regions.numpy(), 3)
    for step in range(8):
        rows = make_unit_rows(NUMBER, D, seed=step, dtype=torch.float32)
        labels = make_labels(step)
        keys = torch.rand(NUMBER, generator=torch.Generator().manual_seed(step))
        memory.push_batch(rows, labels, IMAGES, keys, SIZE)
        loop.push_batch(
            rows.view(IMAGES, *SIZE, D).double().numpy(),
            labels.view(IMAGES, *SIZE).numpy(),
            keys.view(IMAGES, *SIZE).numpy(),
        )
        np.testing.assert_allclose(memory.pixels.numpy(), loop.pixels, atol=1e-6)
        np.testing.assert_allclose(memory.regions.numpy(), loop.regions, atol=1e-6)
        assert memory.pixels_seen.tolist() == loop.pixel_pointer
    rows, labels = memory.collect_samples()
    assert (labels >= 0).all()
    assert not rows[labels == 0].any()
    assert torch.allclose(rows[labels > 0].norm(dim=1), torch.ones(1))


@pytest.mark.parametrize("slip", SLIPS)
def test_each_slip_alone_changes_the_memory(slip: str) -> None:
    def fill(slips: tuple[Any, ...]) -> ContrastMemory:
        torch.manual_seed(0)
        memory = ContrastMemory(
            *(CLASSES, D), pixel_queue=12, region_queue=6, pixels_per_image=3, start="random",
            slips=slips,
        )  # fmt: skip
        for step in range(3):
            rows = make_unit_rows(NUMBER, D, seed=step, dtype=torch.float32)
            keys = torch.rand(NUMBER, generator=torch.Generator().manual_seed(step))
            memory.push_batch(rows, make_labels(step), IMAGES, keys, SIZE)
        return memory

    with_slip, without = fill((slip,)), fill(())
    assert not torch.equal(with_slip.pixels, without.pixels)
    changes_regions = slip in ("class_zero_absent", "labels_at_half_size")
    assert torch.equal(with_slip.regions, without.regions) != changes_regions


def test_the_weight_is_zero_during_the_warm_up_and_the_memory_fills() -> None:
    torch.manual_seed(0)
    contrast = PixelContrast(D, CLASSES, **{**RELEASED, "warmup_iterations": 2, "slips": ()})
    before = contrast.memory.pixels.clone()
    features, scores = torch.randn(IMAGES, D, *SIZE), torch.randn(IMAGES, CLASSES, *SIZE)
    values = []
    for _ in range(4):
        loss = contrast(features, make_labels(), scores)
        loss.backward()
        values.append(loss.item())
        if len(values) == 2:
            assert not torch.equal(contrast.memory.pixels, before)
            # A checkpoint has the number of iterations.
            resumed = PixelContrast(D, CLASSES, **{**RELEASED, "warmup_iterations": 2, "slips": ()})
            resumed.load_state_dict(contrast.state_dict())
            assert resumed(features, make_labels(), scores) > 0
    assert values[:2] == [0, 0]
    assert min(values[2:]) > 0
    assert "iterations" not in PixelContrast(D, CLASSES, **RELEASED).state_dict()


def test_samples_without_a_memory_get_a_gradient_and_the_factor() -> None:
    options = {**RELEASED, "memory_contrast": "sampled", "memory_start": "empty", "slips": ()}
    options |= {"pixel_queue": 0, "region_queue": 0, "positives": 99, "negatives": 99}
    options |= {"selection": "random", "temperature": 0.1, "base_temperature": 0.0}
    rows, labels = make_unit_rows(NUMBER, D, dtype=torch.float32), make_labels()
    wrong = torch.zeros(NUMBER, dtype=torch.bool)

    def compute(**changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        contrast = PixelContrast(D, CLASSES, **{**options, **changes})
        torch.manual_seed(1)
        inputs = rows.clone().requires_grad_()
        loss = contrast.compute_loss(inputs, labels, wrong, IMAGES)
        loss.backward()
        assert inputs.grad is not None
        return loss.detach(), inputs.grad

    loss, constant = compute()
    same, gradient = compute(sample_gradient=True)
    assert torch.equal(loss, same)
    assert gradient.norm() > 1.5 * constant.norm()
    # Dense reference: all anchors against all others, by autograd.
    torch.manual_seed(0)
    contrast = PixelContrast(D, CLASSES, **options)
    torch.manual_seed(1)
    chosen, own = contrast._choose_anchors(labels, wrong, IMAGES)
    inputs = rows.double().requires_grad_()
    anchors, own = inputs[chosen[own >= 0]], own[own >= 0]
    products = anchors @ anchors.t() / 0.1
    same_class = (own[:, None] == own) & ~torch.eye(len(own), dtype=torch.bool)
    rest = products.masked_fill(own[:, None] == own, -torch.inf).logsumexp(1, keepdim=True)
    terms = F.softplus(rest - products) * same_class
    dense = (terms.sum(1) / same_class.sum(1).clamp_min(1))[same_class.any(1)].mean()
    dense.backward()
    assert inputs.grad is not None
    assert loss.item() == pytest.approx(dense.item(), rel=1e-5)
    torch.testing.assert_close(gradient, inputs.grad.float(), rtol=1e-4, atol=1e-6)
    scaled, _ = compute(base_temperature=0.07)
    assert scaled.item() == pytest.approx(loss.item() * 0.1 / 0.07, rel=1e-6)


def test_the_projection_can_read_the_maps_of_the_backbone() -> None:
    head = {"type": "ParametricHead", "decode_head": make_decode_head("SegformerHead", 3)}
    options = {**RELEASED, "projection_input": "backbone"}
    torch.manual_seed(0)
    model = build_segmentor({**head, "contrast": options}).train()
    projection = model.decode_head.contrast.projection
    assert projection[0].in_channels == sum(CHANNELS)
    losses = model.loss(make_images(), make_samples(make_label_maps(3)))
    assert losses["decode.loss_contrast"] > 0
    sum_losses(losses).backward()
    assert projection[0].weight.grad.any()
    maps = model.extract_feat(make_images())
    joined = model.decode_head._concatenate_inputs(maps)
    assert joined.shape == (2, sum(CHANNELS), 16, 16)
    torch.testing.assert_close(joined[:, : CHANNELS[0]], maps[0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pixel_queue": 0, "region_queue": 0}, "memory_contrast: all needs pixel_queue"),
        ({"sample_gradient": True}, "sample_gradient: entries of the memory have no gradient"),
        ({"slips": ["typo"]}, "contrast.slips: unknown 'typo'; known: class_zero_absent"),
        ({"anchor_sampling": "pairs"}, "anchor_sampling: unknown 'pairs'; known: per_class"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PixelContrast(D, CLASSES, **{**RELEASED, **changes})
