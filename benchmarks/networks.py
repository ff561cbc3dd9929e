"""Whole models by protoseg's own recipe, with synthetic crops to train them on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import batches
import torch

from protoseg.config.compose import Composer, parse_overrides
from protoseg.config.load_matrix import load_matrix
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


def camvid_spec(method: str, num_prototypes: int = 10) -> RunSpec:
    """MobileNetV2 as the matrix ``camvid_methods`` trains it."""
    matrix = load_matrix(Composer(EXPERIMENTS), "camvid_methods", [])
    kind = {"paper": "prototype", "parametric": "parametric"}[method]
    for run in matrix.runs:
        found = run.spec.method
        if (found.kind, getattr(found, "num_prototypes", 1)) == (kind, num_prototypes):
            return run.spec
    raise LookupError(f"camvid_methods: no row {method}, K = {num_prototypes}")


def mit_b2_spec(method: str, num_classes: int) -> RunSpec:
    """MiT-B2 and SegFormer's decoder on crops of 512; the data set's classes stand for others."""
    overrides = [f"method={method}", "method.num_prototypes=10", *MIT_B2]
    settings = [s for _, values in parse_overrides(overrides) for s in values]
    spec = Composer(EXPERIMENTS).spec(settings, "benchmarks")
    classes = tuple(f"class {c}" for c in range(num_classes))
    return dataclasses.replace(spec, dataset=dataclasses.replace(spec.dataset, classes=classes))


def network(spec: RunSpec, device: torch.device) -> tuple[Any, Any]:
    """The segmentor of a spec, with random weights, and its optimiser."""
    model, optimizer = timing.network(spec)
    return model.to(device), optimizer


def crops(images: int, size: int, num_classes: int) -> dict[str, Any]:
    """A batch as a loader hands it over: images of 8 bits and data samples."""
    return synthetic_batches.crops(batches.label_maps(images, size, num_classes))
