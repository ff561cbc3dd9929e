"""Parameter counts: of a spec on torch's meta device, without memory, and of a built model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import nn
from torch.overrides import TorchFunctionMode

import protoseg.models  # noqa: F401  registers the heads
from protoseg.config.schema import RunSpec
from protoseg.training.builders.config import build_error, build_model

if TYPE_CHECKING:
    from protoseg.training.builders.components import TrainingComponents

FACTORIES = {torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros}


class WithoutMemory(TorchFunctionMode):
    """A context in which layers allocate their tensors on the meta device, without values.

    ``torch.device("meta")`` would also affect the small tensors whose values mmseg's transformers
    use while they are built (the rates of stochastic depth).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTORIES and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a model by part, and the size of its prototypes."""

    backbone: int
    position_biases: int
    """Swin's tables of relative position biases; included in ``backbone``."""
    decoder: int
    """The decode head without its classifier."""
    classifier: int
    """Weight and bias of the classifier; 0 where prototypes classify."""
    auxiliary: int
    """The auxiliary head and the projection of pixel contrast: removed after training."""
    prototype: int
    """Elements of the prototypes, which are buffers and not learnable."""

    @property
    def learnable(self) -> int:
        """Parameters that remain after training; the count in records."""
        return self.backbone + self.decoder + self.classifier

    @property
    def trained(self) -> int:
        """All trained parameters, including those removed after training."""
        return self.learnable + self.auxiliary


def count_spec_parameters(spec: RunSpec) -> ParameterCounts:
    """Count the parameters of a spec's model.

    Raises:
        UsageError: settings that mmseg refuses.
    """
    model = build_model(spec)
    backbone, biases = _count_backbone(json.dumps(model["backbone"], sort_keys=True))
    head: Any = build_without_memory(model["decode_head"])
    training_only = sum(_count_learnable(getattr(head, part, None)) for part in head.training_only)
    total = _count_learnable(head) - training_only
    classifier = _count_learnable(getattr(head, "classifier", None))
    bank = getattr(head, "bank", None)
    auxiliary = model.get("auxiliary_head")
    if auxiliary:
        training_only += _count_learnable(build_without_memory(auxiliary))
    return ParameterCounts(
        backbone=backbone,
        position_biases=biases,
        decoder=total - classifier,
        classifier=classifier,
        auxiliary=training_only,
        prototype=bank.prototypes.numel() if bank is not None else 0,
    )


def count_parameters(parts: TrainingComponents, frozen: tuple[str, ...] = ()) -> dict[str, int]:
    """Count the learnable parameters of a model as it is evaluated, and its prototypes.

    Auxiliary heads and other modules used only in training are removed after it, so papers do not
    count them. Modules that the run does not train are a part of the network, and are counted.

    Args:
        frozen: names of these modules.

    Returns:
        ``learnable`` and ``prototype``, as in a record.
    """
    model = parts.module
    training_only = getattr(model.decode_head, "training_only", ())
    excluded = ("auxiliary_head.", *(f"decode_head.{name}." for name in training_only))
    counted = tuple(f"{name}." for name in frozen)
    learnable = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if (parameter.requires_grad or name.startswith(counted)) and not name.startswith(excluded)
    )
    bank = getattr(model.decode_head, "bank", None)
    return {"learnable": learnable, "prototype": bank.prototypes.numel() if bank else 0}


def build_without_memory(config: dict[str, Any]) -> nn.Module:
    """Build a module of mmseg on the meta device, without initial weights.

    Raises:
        UsageError: settings that mmseg refuses.
    """
    try:
        with DefaultScope.overwrite_default_scope("mmseg"), WithoutMemory():
            part: nn.Module = MODELS.build(config)
            return part
    except Exception as error:  # any module may be named; the constructor is not ours
        raise build_error(str(config.get("type")), error) from error


@cache
def _count_backbone(config: str) -> tuple[int, int]:
    """Count the learnable parameters of a backbone, and the position biases among them."""
    backbone = build_without_memory(json.loads(config))
    sizes = {name: p.numel() for name, p in backbone.named_parameters() if p.requires_grad}
    suffix = "relative_position_bias_table"
    biases = sum(size for name, size in sizes.items() if name.endswith(suffix))
    return sum(sizes.values()), biases


def _count_learnable(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
