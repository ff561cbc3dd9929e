"""Parameter counts of a published model: a check of the recipes that needs no training."""

from __future__ import annotations

from typing import Any

import pytest

from protoseg.training.parts import build_model
from protoseg.training.recipe import build_model as model_config

from .small import compose

ADE20K = "dataset.classes=[" + ",".join(f"c{number}" for number in range(150)) + "]"
MIT_B0 = ("backbone=mit_b0", "decoder=segformer_256", ADE20K)


def learnable(*overrides: str) -> int:
    model: Any = build_model(model_config(compose(*MIT_B0, *overrides)), None)
    return sum(p.numel() for p in model.parameters())


def test_segformer_b0_has_the_published_3_75_million() -> None:
    assert learnable("method=parametric") / 1e6 == pytest.approx(3.75, abs=0.005)


def test_protoseg_has_exactly_the_classifier_fewer() -> None:
    classifier = 150 * (256 + 1)
    assert learnable("method=parametric") - learnable("method=paper") == classifier
