"""How many numbers a model learns, counted without weights or memory, on torch's meta device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import nn
from torch.overrides import TorchFunctionMode

import protoseg.models  # noqa: F401  registers the heads
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError
from protoseg.training.build.config import build_model, reason

FACTORIES = {torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros}


class WithoutMemory(TorchFunctionMode):
    """Within it, what layers allocate lies on the meta device: shapes without numbers.

    ``torch.device("meta")`` would also take the few small tensors that mmseg's transformers
    compute with while they are built (the rates of their dropped paths).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTORIES and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Counts:
    """Learnable numbers of a model, part by part, and the numbers held in prototypes."""

    backbone: int
    position_biases: int
    """Of the backbone: Swin's tables of relative position biases."""
    decoder: int
    """The decode head without its classifier."""
    classifier: int
    """Weight and bias that tell classes apart; 0 where prototypes do."""
    auxiliary: int
    """The auxiliary head and the projection of pixel contrast: trained along, then thrown away."""
    prototype: int
    """Numbers in prototypes: buffers, not learnable."""

    @property
    def learnable(self) -> int:
        """What is left after training, as records count it."""
        return self.backbone + self.decoder + self.classifier

    @property
    def trained(self) -> int:
        """With what is thrown away afterwards."""
        return self.learnable + self.auxiliary


def count(spec: RunSpec) -> Counts:
    """The counts of a run's model.

    Raises:
        UsageError: settings that mmseg refuses.
    """
    model = build_model(spec)
    backbone, biases = _backbone(json.dumps(model["backbone"], sort_keys=True))
    head: Any = build_without_memory(model["decode_head"])
    along = sum(_learnable(getattr(head, part, None)) for part in head.training_only)
    total = _learnable(head) - along
    classifier = _learnable(getattr(head, "classifier", None))
    bank = getattr(head, "bank", None)
    auxiliary = model.get("auxiliary_head")
    return Counts(
        backbone=backbone,
        position_biases=biases,
        decoder=total - classifier,
        classifier=classifier,
        auxiliary=along + (_learnable(build_without_memory(auxiliary)) if auxiliary else 0),
        prototype=bank.prototypes.numel() if bank is not None else 0,
    )


def build_without_memory(config: dict[str, Any]) -> nn.Module:
    """Any part of mmseg on the meta device, without starting weights.

    Raises:
        UsageError: settings that mmseg refuses.
    """
    try:
        with DefaultScope.overwrite_default_scope("mmseg"), WithoutMemory():
            part: nn.Module = MODELS.build(config)
            return part
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"model: mmseg can not build {config.get('type')}: {reason(error)}. Look at "
            "backbone.settings, decoder.settings and the recipes."
        ) from error


@cache
def _backbone(config: str) -> tuple[int, int]:
    """Learnable numbers, and those among them that are position biases."""
    backbone = build_without_memory(json.loads(config))
    named = {k: p.numel() for k, p in backbone.named_parameters() if p.requires_grad}
    biases = sum(n for name, n in named.items() if name.endswith("relative_position_bias_table"))
    return sum(named.values()), biases


def _learnable(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
