"""A training iteration of a complete model with each head: forward, backward, optimiser.

One case compares precisions and memory formats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from networks import build_camvid_spec, build_mit_b2_spec, build_network, make_crops

from protoseg.config.schema import RunSpec


def build_iteration(
    spec: RunSpec,
    batch: dict[str, Any],
    device: torch.device,
    layout: torch.memory_format = torch.preserve_format,
) -> Callable[[], float]:
    """Return a function that runs one training iteration and returns the loss.

    It waits for the loss, like training does to log it.
    """
    model, optimizer = build_network(spec, device)
    model.to(memory_format=layout)

    def step() -> float:
        losses = model.train_step(batch, optim_wrapper=optimizer)
        return float(losses["loss"].detach())

    assert step() < 20, "the model does not train"
    return step


def test_mobilenet_v2(case: Callable[..., None], device: torch.device) -> None:
    batch = make_crops(8, 256, 11)
    case(
        "training iteration",
        "MobileNetV2, 8 crops of 256, 11 classes, K = 10",
        build_iteration(build_camvid_spec("paper"), batch, device),
        {
            "parametric": build_iteration(build_camvid_spec("parametric"), batch, device),
            "parametric, K = 1": build_iteration(build_camvid_spec("parametric", 1), batch, device),
        },
        rounds=(10, 30),
        slow=20,
    )


def test_mit_b2(case: Callable[..., None], device: torch.device) -> None:
    batch = make_crops(2, 512, 150)
    case(
        "training iteration",
        "MiT-B2, 2 crops of 512, 150 classes, K = 10",
        build_iteration(build_mit_b2_spec("paper", 150), batch, device),
        {"parametric": build_iteration(build_mit_b2_spec("parametric", 150), batch, device)},
        rounds=(5, 20),
        slow=10,
    )


def test_precision(case: Callable[..., None], device: torch.device) -> None:
    batch = make_crops(8, 256, 11)
    single = build_camvid_spec("paper")
    half = dataclasses.replace(single, precision="bf16")
    case(
        "training iteration",
        "MobileNetV2, 8 crops of 256, 11 classes, K = 10, bf16",
        build_iteration(half, batch, device),
        {
            "fp32": build_iteration(single, batch, device),
            "fp32, channels last": build_iteration(single, batch, device, torch.channels_last),
            "bf16, channels first": build_iteration(half, batch, device, torch.contiguous_format),
        },
        rounds=(10, 30),
        slow=20,
    )
