"""Complete models built from specs, and synthetic crops to train them on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import batches
import torch

from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.overrides import parse_overrides
from protoseg.config.schema import RunSpec
from protoseg.training import synthetic_batches, timing

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
MIT_B2 = (
    "dataset=camvid",
    "backbone=mit_b0",
    "backbone.name=mit_b2",
    "backbone.recipe=segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512.py",
    "backbone.channels=[64,128,320,512]",
    "decoder=segformer_256",
    "augmentation=ade20k_512",
    "schedule=segformer_160k",
)


def build_camvid_spec(method: str, num_prototypes: int = 10) -> RunSpec:
    """Return the spec of MobileNetV2 as in the matrix ``camvid_methods``."""
    matrix = load_matrix(Composer(EXPERIMENTS), "camvid_methods", [])
    method_kind = {"paper": "prototype", "parametric": "parametric"}[method]
    for run in matrix.runs:
        spec = run.spec.method
        if (spec.kind, getattr(spec, "num_prototypes", 1)) == (method_kind, num_prototypes):
            return run.spec
    raise LookupError(f"camvid_methods: there is no row {method}, K = {num_prototypes}")


def build_mit_b2_spec(method: str, num_classes: int) -> RunSpec:
    """Return the spec of MiT-B2 with SegFormer's decoder, crops of 512 and placeholder classes."""
    overrides = [f"method={method}", "method.num_prototypes=10", *MIT_B2]
    settings = [s for _, values in parse_overrides(overrides) for s in values]
    spec = Composer(EXPERIMENTS).spec(settings, "benchmarks")
    classes = tuple(f"class {c}" for c in range(num_classes))
    return dataclasses.replace(spec, dataset=dataclasses.replace(spec.dataset, classes=classes))


def build_network(spec: RunSpec, device: torch.device) -> tuple[Any, Any]:
    """Build the segmentor of a spec with random weights, and its optimiser."""
    model, optimizer = timing.build_network(spec)
    return model.to(device), optimizer


def make_crops(images: int, size: int, num_classes: int) -> dict[str, Any]:
    """Create a batch like a data loader: 8-bit images and data samples."""
    return synthetic_batches.make_crops(batches.make_label_maps(images, size, num_classes))
