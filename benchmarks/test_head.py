"""Forward and backward pass of a head, from the feature map of the decoder to its gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import batches
import pytest
import reference_clustering
import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from protoseg.models import ParametricHead, PrototypeHead
from protoseg.training import synthetic_batches

CHANNELS = 256
CASES = [
    (1, 19, 1),
    (1, 19, 10),
    (1, 150, 1),
    (1, 150, 10),
    (1, 847, 10),
    (4, 19, 10),
    (4, 150, 10),
]


def decode_head(num_classes: int) -> dict[str, Any]:
    """Return the config of a decode head without layers, so that only the classifier is timed."""
    return {
        "type": "FCNHead",
        "num_convs": 0,
        "concat_input": False,
        "in_channels": CHANNELS,
        "channels": CHANNELS,
        "num_classes": num_classes,
        "dropout_ratio": 0.0,
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True},
    }


def build_step(head: torch.nn.Module, features: Tensor, samples: list[Any]) -> Callable[[], Tensor]:
    """Return a function that runs forward and backward and returns the loss."""

    def step() -> Tensor:
        features.grad = None
        head.zero_grad()
        losses = head.loss((features,), samples, None)
        total = sum(value for name, value in losses.items() if "loss" in name)
        total.backward()
        return total.detach()

    return step


@pytest.mark.parametrize(
    ("images", "classes", "k"), CASES, ids=[f"{i}-{c}-{k}" for i, c, k in CASES]
)
def test_forward_and_backward(
    case: Callable[..., None], device: torch.device, images: int, classes: int, k: int
) -> None:
    maps = batches.make_label_maps(images, 512, classes, device)
    features = torch.randn(images, CHANNELS, 128, 128, device=device).requires_grad_()
    with DefaultScope.overwrite_default_scope("mmseg"):
        config = decode_head(classes)
        ours = PrototypeHead(config, num_prototypes=k).to(device).train()
        loop = reference_clustering.LoopHead(config, num_prototypes=k).to(device).train()
        parametric = ParametricHead(config, num_prototypes=k).to(device).train()
        parametric.init_weights()
    loop.bank.load_state_dict(copy.deepcopy(ours.bank.state_dict()))
    samples = synthetic_batches.make_samples(maps)
    steps = [build_step(head, features, samples) for head in (ours, parametric, loop)]
    loss = steps[0]()
    gradient = features.grad
    expected_loss = steps[2]()
    # Ties between prototypes can be assigned differently, so losses differ in the last digits.
    torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=0)
    difference = (gradient - features.grad).norm() / features.grad.norm()
    assert difference < 1e-2, f"the gradients differ by {difference:.1e}"
    pixels = images * 128 * 128
    noun = "image" if images == 1 else "images"
    case(
        "head, forward and backward",
        f"{images} {noun} of 512 ({pixels:,} px), {classes} classes, K = {k}",
        steps[0],
        {"parametric": steps[1], "loop": steps[2]},
        memory=True,
        rounds=(5, 30),
        slow=3,
        matrix_bytes=4 * pixels * classes * k,
    )


@pytest.mark.parametrize(("classes", "k"), [(19, 1), (19, 10), (150, 10)])
def test_released(case: Callable[..., None], device: torch.device, classes: int, k: int) -> None:
    """The released preset with its norm over the width, against the one with BatchNorm."""
    maps = batches.make_label_maps(1, 512, classes, device)
    features = torch.randn(1, CHANNELS, 128, 128, device=device).requires_grad_()
    samples = synthetic_batches.make_samples(maps)
    steps = []
    for projection in ("released", "conv"):
        with DefaultScope.overwrite_default_scope("mmseg"):
            head = PrototypeHead(
                decode_head(classes),
                num_prototypes=k,
                assignment="gumbel",
                update_pixels="correct",
                temperature=1.0,
                projection=projection,
                embedding_norm="layer",
                score_norm="layer",
            )
        steps.append(build_step(head.to(device).train(), features, samples))
    case(
        "released head, forward and backward",
        f"1 image of 512, {classes} classes, K = {k}",
        steps[0],
        {"released_2026_11": steps[1]},
        rounds=(5, 30),
        slow=3,
    )
