"""What the levels of determinism cost: a training iteration, ``bitwise`` beside ``seeded``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import EXPERIMENTS, camvid_spec, crops, mit_b2_spec, network

from protoseg.config.compose import Composer
from protoseg.config.schema import RunSpec
from protoseg.training import determinism


@pytest.fixture(autouse=True)
def _cublas(device: torch.device) -> None:
    """Both levels get the work space that ``bitwise`` wants: it is read when CUDA starts."""
    if device.type == "cuda" and determinism.CUBLAS not in os.environ:
        if torch.cuda.is_initialized():
            pytest.skip("CUDA has started already: bench this file alone, -k determinism")
        os.environ[determinism.CUBLAS] = determinism.CUBLAS_CONFIGS[0]


def at_level(level: str, step: Callable[[], float]) -> Callable[[], float]:
    """``step`` at a level, and torch as it was afterwards; switching takes microseconds."""

    def run() -> float:
        backends = torch.backends
        before = backends.cudnn.deterministic, backends.cudnn.benchmark
        tf32 = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
        determinism.apply(level)
        try:
            return step()
        finally:
            torch.use_deterministic_algorithms(False)
            backends.cudnn.deterministic, backends.cudnn.benchmark = before
            backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = tf32

    return run


def iteration(
    spec: RunSpec, batch: dict[str, Any], device: torch.device, level: str
) -> Callable[[], float]:
    """One training iteration at a level; the loss."""
    model, optimizer = network(spec, device)

    def step() -> float:
        return float(model.train_step(batch, optim_wrapper=optimizer)["loss"].detach())

    return at_level(level, step)


def check(spec: RunSpec, device: torch.device) -> None:
    """Two trainings of two iterations at ``bitwise`` agree in every bit."""
    batch = crops(2, 128, len(spec.dataset.classes))
    losses = []
    for _ in range(2):
        step = iteration(spec, batch, device, "bitwise")
        losses.append([step(), step()])
    assert losses[0] == losses[1]


def test_tiny(case: Callable[..., None], device: torch.device) -> None:
    spec, batch = Composer(EXPERIMENTS).spec([], "benchmarks"), crops(8, 64, 6)
    check(spec, device)
    case(
        "determinism",
        "TinyNet, 8 crops of 64, 6 classes, K = 10",
        iteration(spec, batch, device, "seeded"),
        {"bitwise": iteration(spec, batch, device, "bitwise")},
        rounds=(20, 60),
    )


def test_mobilenet_v2(case: Callable[..., None], device: torch.device) -> None:
    batch, paper, parametric = crops(8, 256, 11), camvid_spec("paper"), camvid_spec("parametric")
    check(paper, device)
    check(parametric, device)
    case(
        "determinism",
        "MobileNetV2, 8 crops of 256, 11 classes, K = 10",
        iteration(paper, batch, device, "seeded"),
        {
            "bitwise": iteration(paper, batch, device, "bitwise"),
            "parametric": iteration(parametric, batch, device, "seeded"),
            "parametric, bitwise": iteration(parametric, batch, device, "bitwise"),
        },
        rounds=(10, 30),
        slow=20,
    )


def test_mit_b2(case: Callable[..., None], device: torch.device) -> None:
    batch, paper = crops(2, 512, 150), mit_b2_spec("paper", 150)
    check(paper, device)
    case(
        "determinism",
        "MiT-B2, 2 crops of 512, 150 classes, K = 10",
        iteration(paper, batch, device, "seeded"),
        {"bitwise": iteration(paper, batch, device, "bitwise")},
        rounds=(5, 20),
        slow=10,
    )
