"""A training iteration of a whole model, with either head: forward, backward, optimiser.

Also what its precision and the layout of its weights cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from networks import camvid_spec, crops, mit_b2_spec, network

from protoseg.config.schema import RunSpec


def iteration(
    spec: RunSpec,
    batch: dict[str, Any],
    device: torch.device,
    layout: torch.memory_format = torch.preserve_format,
) -> Callable[[], float]:
    """One training iteration; the loss, which is waited for as training does to write it down."""
    model, optimizer = network(spec, device)
    model.to(memory_format=layout)

    def step() -> float:
        losses = model.train_step(batch, optim_wrapper=optimizer)
        return float(losses["loss"].detach())

    assert step() < 20, "the model does not train"
    return step


def test_mobilenet_v2(case: Callable[..., None], device: torch.device) -> None:
    batch = crops(8, 256, 11)
    case(
        "training iteration",
        "MobileNetV2, 8 crops of 256, 11 classes, K = 10",
        iteration(camvid_spec("paper"), batch, device),
        {
            "parametric": iteration(camvid_spec("parametric"), batch, device),
            "parametric, K = 1": iteration(camvid_spec("parametric", 1), batch, device),
        },
        rounds=(10, 30),
        slow=20,
    )


def test_mit_b2(case: Callable[..., None], device: torch.device) -> None:
    batch = crops(2, 512, 150)
    case(
        "training iteration",
        "MiT-B2, 2 crops of 512, 150 classes, K = 10",
        iteration(mit_b2_spec("paper", 150), batch, device),
        {"parametric": iteration(mit_b2_spec("parametric", 150), batch, device)},
        rounds=(5, 20),
        slow=10,
    )


def test_precision(case: Callable[..., None], device: torch.device) -> None:
    batch = crops(8, 256, 11)
    single = camvid_spec("paper")
    half = dataclasses.replace(single, precision="bf16")
    case(
        "training iteration",
        "MobileNetV2, 8 crops of 256, 11 classes, K = 10, bf16",
        iteration(half, batch, device),
        {
            "fp32": iteration(single, batch, device),
            "fp32, channels last": iteration(single, batch, device, torch.channels_last),
            "bf16, channels first": iteration(half, batch, device, torch.contiguous_format),
        },
        rounds=(10, 30),
        slow=20,
    )
