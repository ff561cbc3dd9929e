"""The workload of a run: what the time of an iteration and the size of the model depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.hierarchy.tree import make_hierarchy
from protoseg.config.methods import MethodSpec, PrototypeMethod
from protoseg.config.schema import RunSpec

Workload = tuple[Any, ...]

WORKLOAD_KEYS = (
    "backbone.name",
    "decoder.name",
    "decoder.channels",
    "method.kind",
    "dataset.classes",
    "augmentation.crop_size",
    "schedule.batch_size",
    "precision",
)
"""Keys of the spec that the time of an iteration depends on.

Added to them: counts and switches of the method (K, the second view), pixel contrast, determinism,
and frozen modules.
"""


def workload_of(spec: RunSpec | dict[str, Any]) -> Workload:
    """Return the workload of a spec, or of its plain data in a record.

    Runs of one workload take equally long for an iteration.
    """
    values = []
    for key in WORKLOAD_KEYS:
        value: Any = spec
        for part in key.split("."):
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        values.append(tuple(value) if isinstance(value, list) else value)
    if isinstance(spec, dict):  # newer fields are left out while they have their default
        method, contrast = spec["method"], spec.get("contrast")
        level = spec.get("determinism", "seeded")
    else:
        method, level = to_plain(spec.method, identity=True), spec.determinism
        contrast = to_plain(spec.contrast, identity=True) if spec.contrast.weight else None
    # At 847 classes, ten classifiers take several times as long as one. Weights, temperatures and
    # distances are negligible.
    counts = {key: value for key, value in method.items() if isinstance(value, int)}
    schedule = spec["schedule"] if isinstance(spec, dict) else vars(spec.schedule)
    frozen = tuple(schedule.get("frozen") or ())
    workload = (*values, _sorted(counts), _sorted(contrast or {}), level)
    return (*workload, frozen) if frozen else workload


def evaluation_workload_of(spec: RunSpec | dict[str, Any]) -> Workload:
    """Return what the time of an evaluation depends on.

    Args:
        spec: of a run, or its plain data in a record.
    """
    if isinstance(spec, dict):
        name, evaluation = spec["dataset"]["name"], spec["evaluation"]
    else:
        name, evaluation = spec.dataset.name, to_plain(spec.evaluation, identity=True)
    return workload_of(spec), name, _sorted({k: v for k, v in evaluation.items() if k != "every"})


def _sorted(values: dict[str, Any]) -> Workload:
    return tuple((key, _to_hashable(value)) for key, value in sorted(values.items()))


def _to_hashable(value: Any) -> Any:
    if isinstance(value, dict):  # a holdout
        return _sorted(value)
    return tuple(value) if isinstance(value, list) else value


def workload_digest(spec: RunSpec) -> str:
    """Compute the SHA-256 of the workload of a spec, 64 hex digits."""
    return hashlib.sha256(json.dumps(workload_of(spec)).encode()).hexdigest()


def describe_workload(spec: RunSpec) -> str:
    """Describe a workload: ``mit_b2, segformer, prototype, K = 10, 847 classes, 16 × 512×512``."""
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
        f"{', '.join(spec.schedule.frozen)} frozen" if spec.schedule.frozen else "",
    ]
    return ", ".join(part for part in parts if part)


def make_model_key(spec: RunSpec | dict[str, Any]) -> Workload:
    """Return what the number of learnable parameters depends on.

    Args:
        spec: of a run, or its plain data in a record.
    """
    parts = spec if isinstance(spec, dict) else vars(spec)
    backbone, decoder, method, dataset = (
        part if isinstance(part, dict) else vars(part)
        for part in (parts[key] for key in ("backbone", "decoder", "method", "dataset"))
    )
    # ProtoSeg's prototypes are not learnable parameters; those of the other methods are.
    num_prototypes = 0 if has_prototypes(method["kind"]) else method.get("num_prototypes", 0)
    projection = method.get("projection", False)
    names = (backbone["name"], decoder["name"], decoder["channels"], method["kind"])
    paths = dataset.get("hierarchy")
    num_nodes = make_hierarchy(paths).num_nodes if paths else 0
    return *names, len(dataset["classes"]), num_nodes, num_prototypes, projection


def has_prototypes(method_name: str) -> bool:
    """Whether the head of a method has prototypes as buffers."""
    method = MethodSpec.variants.get(method_name)
    return method is not None and issubclass(method, PrototypeMethod)
