"""The config and the weights of a run in the form that mmengine and mmseg read.

What only training uses is left out: the auxiliary head, pixel contrast, initial weights. A head of
`ParametricHead` with K = 1 becomes the mmseg head that it wraps, with the classifier as its
``conv_seg``, so that the exported network needs no class of protoseg. Other heads stay what they
are, and the config imports `protoseg.models`.
"""

from __future__ import annotations

import pprint
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import protoseg.models
from protoseg.config.methods import ParametricMethod
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError
from protoseg.training.builders.config import build_model

WRAPPED, CLASSIFIER = "decode_head.head.", "decode_head.classifier."
"""Prefixes of the keys of `ParametricHead`: the wrapped mmseg head, and its classifier."""
TRAINING_ONLY = (
    *("auxiliary_head.", "decode_head.contrast."),
    *("decode_head.embedding.", "decode_head.iteration"),  # of the tree triplets
)
"""Prefixes of the keys that prediction does not use."""


@dataclass(frozen=True)
class ExportedNetwork:
    """A network for mmengine: its config, and how the keys of its weights are named."""

    model: dict[str, Any]
    """``model`` of the config."""
    pipeline: list[dict[str, Any]]
    """``test_pipeline`` of the config: the preparation of an image as in the run's evaluation."""
    is_plain: bool
    """Whether the head of the run is exported as the mmseg head that it wraps."""

    @property
    def imports(self) -> list[str]:
        """Modules that the config imports because their classes are used."""
        own = set(protoseg.models.__all__)
        return ["protoseg.models"] if own.intersection(_find_types(self.model)) else []

    def rename_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select the weights of prediction and name them as the exported network does.

        Args:
            state: state of the network of the run.

        Returns:
            New tensors on the CPU.
        """
        renamed = {}
        for key, value in state.items():
            if key.startswith(TRAINING_ONLY):
                continue
            if self.is_plain:
                key = key.replace(WRAPPED, "decode_head.", 1)
                key = key.replace(CLASSIFIER, "decode_head.conv_seg.", 1)
            renamed[key] = value.detach().cpu().contiguous().clone()
        return renamed

    def render(self, comment: str) -> str:
        """Write the config as a Python file for ``mmengine.Config.fromfile``.

        Args:
            comment: origin of the network, one line.
        """
        lines = [f"# {comment}", 'default_scope = "mmseg"']
        if self.imports:
            lines.append(f"custom_imports = dict(imports={self.imports!r})")
        lines += ["model = dict(", *_render_items(self.model), ")", "test_pipeline = ["]
        lines += [f"    {transform!r}," for transform in self.pipeline]
        lines.append("]")
        return "\n".join([*lines, ""])


def make_exported_network(spec: RunSpec) -> ExportedNetwork:
    """Make the config of a run's network for prediction.

    Raises:
        UsageError: a run of the task ``weak``, whose network needs image-level labels.
    """
    if spec.method.task == "weak":
        raise UsageError(
            f"method {spec.method.kind}: its network needs the image-level labels of each image, "
            "which mmseg's inference does not pass. Export its pseudo-masks with protoseg masks."
        )
    model = _drop_initial_weights(build_model(spec))
    model.pop("auxiliary_head", None)
    head = model["decode_head"]
    head.pop("contrast", None)
    if "triplet_weight" in head:
        head["triplet_weight"] = 0.0
    method = spec.method
    is_plain = type(method) is ParametricMethod and method.num_prototypes == 1
    if is_plain:
        model["decode_head"] = _unwrap(head)
    pipeline: list[dict[str, Any]] = [{"type": "LoadImageFromFile"}]
    if spec.evaluation.scale:
        scale = tuple(spec.evaluation.scale)
        pipeline.append({"type": "Resize", "scale": scale, "keep_ratio": True})
    pipeline.append({"type": "PackSegInputs"})
    return ExportedNetwork(model, pipeline, is_plain)


def _render_items(values: Mapping[str, Any]) -> Iterator[str]:
    """The lines of keyword arguments."""
    for key, value in values.items():
        start = f"    {key}="
        text = pprint.pformat(value, width=99 - len(start), sort_dicts=False)
        yield f"{start}{text},".replace("\n", "\n" + " " * len(start))


def _unwrap(head: dict[str, Any]) -> dict[str, Any]:
    """The config of the wrapped head, with one score per class, as `WrappedHead` builds it."""
    wrapped = dict(head["decode_head"])
    if wrapped["num_classes"] == 2:
        wrapped.setdefault("out_channels", 2)
    return wrapped


def _drop_initial_weights(value: Any) -> Any:
    """Remove the files of initial weights, which would be downloaded."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not (k == "init_cfg" and _is_pretrained(v))}
        return {key: _drop_initial_weights(item) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return type(value)(_drop_initial_weights(item) for item in value)
    return value


def _is_pretrained(init_cfg: Any) -> bool:
    return isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained"


def _find_types(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "type" and isinstance(item, str):
                yield item
            yield from _find_types(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_types(item)
