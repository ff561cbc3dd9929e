"""The options of ``method=weak_seam`` against a float64 reference, and each switch in the head."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import released_weak as formulas

from models.segmentors import build_segmentor, make_decode_head, sum_losses
from protoseg.core import weak_released
from protoseg.core.weak_supervision import Prototypes, View

CLASSES, D = 21, 6
RELEASED: dict[str, Any] = {
    "second_view": True,
    "cross_prototype": True,
    "cross_cam": True,
    "intra": True,
    "prototype_mining": True,
    "pixel_sampling": True,
    "prototype_features": "raw",
    "prototype_images": "all",
    "mining_rule": "by_rank",
    "sampling_rule": "after_hardest",
    "intra_mean": "classes",
    "projection_bias": False,
}


def make_view(seed: int, dtype: torch.dtype) -> tuple[View, Prototypes, torch.Tensor]:
    """Return 150 pixels of seven classes (one has one pixel), 21 prototypes, and random keys."""
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(150, D, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(-1, 6, (150,), generator=generator)
    labels[70] = 9
    vectors = F.normalize(torch.randn(CLASSES, D, generator=generator, dtype=torch.float64), dim=1)
    keys = torch.rand(150, generator=generator)
    view = View(rows.to(dtype), torch.zeros(150, CLASSES), labels)
    return view, Prototypes(vectors.to(dtype), torch.ones(CLASSES, dtype=torch.bool)), keys


@pytest.mark.parametrize("seed", range(3))
def test_mining_sampling_and_loss_equal_the_formulas(seed: int) -> None:
    view, prototypes, keys = make_view(seed, torch.float32)
    embeddings, labels = view.embeddings.numpy(), view.labels.numpy()
    negatives = weak_released.mine_by_rank(view, prototypes)
    mined = formulas.mine_by_rank(embeddings, prototypes.vectors.numpy())
    assert [set(row.nonzero().flatten().tolist()) for row in negatives] == mined
    is_own = [int(label) in chosen for label, chosen in zip(labels, mined, strict=True)]
    assert 0.3 < np.mean(is_own) < 0.65, "10 of 21 random ranks are the pixel's own prototype"
    weights = weak_released.sample_harder_pixels(view, prototypes, keys)
    times = formulas.sample_pixels(embeddings, labels, prototypes.vectors.numpy(), keys.numpy())
    assert weights.tolist() == times.tolist()
    expected = formulas.compute_loss(
        embeddings, labels, prototypes.vectors.numpy(), mined, times, 0.1
    )
    actual = weak_released.compute_contrast_by_class(
        view.embeddings, view.labels, prototypes, 0.1, negatives=negatives, weights=weights
    )
    assert actual.item() == pytest.approx(expected, rel=1e-6)


def test_a_class_of_one_pixel_counts_in_the_divisor_only() -> None:
    view, prototypes, _ = make_view(0, torch.float32)
    one = view.labels == 9
    assert one.sum() == 1

    def compute(labels: torch.Tensor) -> float:
        loss = weak_released.compute_contrast_by_class(view.embeddings, labels, prototypes, 0.1)
        return loss.item()

    without = torch.where(one, formulas.IGNORED, view.labels)
    assert compute(view.labels) == pytest.approx(compute(without) * 6 / 7, rel=1e-6)
    assert compute(torch.full_like(view.labels, formulas.IGNORED)) == 0


def test_ranks_11_to_60_of_100_pixels_are_taken() -> None:
    labels = torch.zeros(100, dtype=torch.long)
    rows = torch.stack([torch.linspace(-1, 1, 100), torch.zeros(100)], 1)
    view = View(rows, torch.zeros(100, 1), labels)
    prototypes = Prototypes(torch.tensor([[1.0, 0.0]]), torch.tensor([True]))
    keys = torch.cat([torch.full((50,), 0.9), torch.full((50,), 0.1)])  # draws the last fifty
    weights = weak_released.sample_harder_pixels(view, prototypes, keys)
    assert weights.tolist() == [0.0] * 10 + [1.0] * 40 + [2.0] * 10 + [1.0] * 40


@pytest.mark.parametrize("switch", [key for key, value in RELEASED.items() if value is not True])
def test_each_switch_changes_the_losses(switch: str) -> None:
    def compute(options: dict[str, Any]) -> dict[str, float]:
        torch.manual_seed(0)
        head = {"type": "CamHead", "decode_head": make_decode_head("FCNHead", 8), "channels": D}
        model = build_segmentor({**head, **options}).decode_head.train()
        generator = torch.Generator().manual_seed(1)
        views = [
            torch.randn(3, model.feature_channels, side, side, generator=generator).relu()
            for side in (12, 6)
        ]
        present = torch.rand(3, 7, generator=generator) < 0.5
        torch.manual_seed(2)
        losses = model.compute_view_losses(views, present, torch.ones(3, 2))
        sum_losses(losses).backward()
        for name, parameter in model.projection.named_parameters():
            assert parameter.grad.isfinite().all(), name
        return {name: value.item() for name, value in losses.items()}

    paper = {key: value for key, value in RELEASED.items() if value is True}
    before, after = compute(paper), compute({**copy.deepcopy(paper), switch: RELEASED[switch]})
    if switch != "projection_bias":  # without a bias the initial weights are another draw
        assert before["loss_cls"] == after["loss_cls"]
    assert before["loss_intra"] != after["loss_intra"]
