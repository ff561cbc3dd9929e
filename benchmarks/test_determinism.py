"""The cost of determinism: a training iteration at level ``bitwise`` and ``seeded``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import EXPERIMENTS, build_camvid_spec, build_mit_b2_spec, build_network, make_crops

from protoseg.config.compose import Composer
from protoseg.config.schema import RunSpec
from protoseg.training.machine import determinism


@pytest.fixture(autouse=True)
def _cublas(device: torch.device) -> None:
    """Set the workspace of ``bitwise`` for both levels, because CUDA reads it once at its start."""
    if device.type == "cuda" and determinism.CUBLAS not in os.environ:
        if torch.cuda.is_initialized():
            pytest.skip("CUDA is already initialised; run this file alone with -k determinism")
        os.environ[determinism.CUBLAS] = determinism.CUBLAS_CONFIGS[0]


def run_at_level(level: str, step: Callable[[], float]) -> Callable[[], float]:
    """Wrap ``step`` to run at a level and restore torch afterwards; this takes microseconds."""

    def run() -> float:
        backends = torch.backends
        before = backends.cudnn.deterministic, backends.cudnn.benchmark
        tf32 = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
        determinism.apply_level(level)
        try:
            return step()
        finally:
            torch.use_deterministic_algorithms(False)
            backends.cudnn.deterministic, backends.cudnn.benchmark = before
            backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = tf32

    return run


def build_iteration(
    spec: RunSpec, batch: dict[str, Any], device: torch.device, level: str
) -> Callable[[], float]:
    """Return a function that runs one training iteration at a level and returns the loss."""
    model, optimizer = build_network(spec, device)

    def step() -> float:
        return float(model.train_step(batch, optim_wrapper=optimizer)["loss"].detach())

    return run_at_level(level, step)


def check_bitwise(spec: RunSpec, device: torch.device) -> None:
    """Assert that two trainings of two iterations at ``bitwise`` are bit-identical."""
    batch = make_crops(2, 128, len(spec.dataset.classes))
    losses = []
    for _ in range(2):
        step = build_iteration(spec, batch, device, "bitwise")
        losses.append([step(), step()])
    assert losses[0] == losses[1]


def test_tiny(case: Callable[..., None], device: torch.device) -> None:
    spec, batch = Composer(EXPERIMENTS).spec([], "benchmarks"), make_crops(8, 64, 6)
    check_bitwise(spec, device)
    case(
        "determinism",
        "TinyNet, 8 crops of 64, 6 classes, K = 10",
        build_iteration(spec, batch, device, "seeded"),
        {"bitwise": build_iteration(spec, batch, device, "bitwise")},
        rounds=(20, 60),
    )


def test_mobilenet_v2(case: Callable[..., None], device: torch.device) -> None:
    batch, paper, parametric = (
        make_crops(8, 256, 11),
        build_camvid_spec("paper"),
        build_camvid_spec("parametric"),
    )
    check_bitwise(paper, device)
    check_bitwise(parametric, device)
    case(
        "determinism",
        "MobileNetV2, 8 crops of 256, 11 classes, K = 10",
        build_iteration(paper, batch, device, "seeded"),
        {
            "bitwise": build_iteration(paper, batch, device, "bitwise"),
            "parametric": build_iteration(parametric, batch, device, "seeded"),
            "parametric, bitwise": build_iteration(parametric, batch, device, "bitwise"),
        },
        rounds=(10, 30),
        slow=20,
    )


def test_mit_b2(case: Callable[..., None], device: torch.device) -> None:
    batch, paper = make_crops(2, 512, 150), build_mit_b2_spec("paper", 150)
    check_bitwise(paper, device)
    case(
        "determinism",
        "MiT-B2, 2 crops of 512, 150 classes, K = 10",
        build_iteration(paper, batch, device, "seeded"),
        {"bitwise": build_iteration(paper, batch, device, "bitwise")},
        rounds=(5, 20),
        slow=10,
    )
