"""Which runs are alike: an iteration of one takes as long as an iteration of the other."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from protoseg.config.fields import plain
from protoseg.config.schema import RunSpec

Workload = tuple[Any, ...]

KIND = (
    "backbone.name",
    "decoder.name",
    "decoder.channels",
    "method.kind",
    "dataset.classes",
    "augmentation.crop_size",
    "schedule.batch_size",
    "precision",
)
"""What an iteration's time depends on, with the method's counts and switches (K, the second view),
pixel contrast, and the level of determinism."""


def workload_of(spec: RunSpec | dict[str, Any]) -> Workload:
    """What like runs have in common, from a spec or from its plain data in a record."""
    values = []
    for key in KIND:
        value: Any = spec
        for part in key.split("."):
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        values.append(tuple(value) if isinstance(value, list) else value)
    if isinstance(spec, dict):  # without the fields that came later and have their default
        method, contrast = spec["method"], spec.get("contrast")
        level = spec.get("determinism", "seeded")
    else:
        method, level = plain(spec.method, identity=True), spec.determinism
        contrast = plain(spec.contrast) if spec.contrast.weight else None
    # At 847 classes ten classifiers take several times as long as one; weights, temperatures and
    # distances are no matter beside that.
    counts = {key: value for key, value in method.items() if isinstance(value, int)}
    return *values, _sorted(counts), _sorted(contrast or {}), level


def _sorted(values: dict[str, Any]) -> Workload:
    return tuple(sorted(values.items()))


def workload_digest(spec: RunSpec) -> str:
    """SHA-256 of a kind, 64 hex digits."""
    return hashlib.sha256(json.dumps(workload_of(spec)).encode()).hexdigest()


def describe_workload(spec: RunSpec) -> str:
    """A kind for people: ``mit_b2, segformer, prototype, K = 10, 847 classes, 16 × 512×512``."""
    count = getattr(spec.method, "num_prototypes", None)
    height, width = spec.augmentation.crop_size
    parts = [
        spec.backbone.name,
        spec.decoder.name,
        spec.method.kind.rpartition(".")[2],
        f"K = {count}" if count is not None else "",
        "pixel contrast" if spec.contrast.weight else "",
        f"{len(spec.dataset.classes)} classes",
        f"{spec.schedule.batch_size} × {height}×{width}",
        spec.precision if spec.precision != "fp32" else "",
        spec.determinism if spec.determinism != "seeded" else "",
    ]
    return ", ".join(part for part in parts if part)
