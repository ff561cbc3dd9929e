"""A backbone of timm: any of its models that returns feature maps."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.models.backbones import timm_backbone
from mmseg.registry import MODELS
from torch import Tensor

FINEST_STRIDE = 4
"""Finer feature maps are left out by default; decoders of mmseg start at this stride."""
TORCHVISION_OPERATORS = ("nms", "qnms")
"""Operators for which torchvision registers shapes when it is imported."""
_declared: list[torch.library.Library] = []


def import_timm() -> Any:
    """Import timm.

    It needs the Python part of torchvision only. A torchvision of PyPI, built for CUDA, cannot load
    its operators beside the CPU build of torch, and then cannot be imported. Their names are then
    declared without an implementation.

    Raises:
        ImportError: timm is not installed, or does not fit the installed packages.
    """
    try:
        timm = importlib.import_module("timm")
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _declared:
            raise ImportError(f"timm cannot be imported ({error})") from error
        for name in [n for n in sys.modules if n.partition(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in TORCHVISION_OPERATORS:
            library.define(f"{operator}(Tensor boxes) -> Tensor")
        _declared.append(library)
        return import_timm()
    timm_backbone.timm = timm  # mmseg's own TIMMBackbone was imported without it
    return timm


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Feature maps of a model of timm, all as (B, C, H, W).

    Args:
        model_name: name of the model, with or without the tag of its weights.
        out_indices: indices of the feature maps; by default those with a stride of at least
            `FINEST_STRIDE`.
        init_cfg: initialisation config of mmengine.
        settings: further arguments of ``timm.create_model``.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: tuple[int, ...] | None = None,
        init_cfg: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(init_cfg)
        if out_indices is not None:
            settings["out_indices"] = tuple(out_indices)
        self.settings = {"model_name": model_name, "features_only": True, **settings}
        self.model = import_timm().create_model(**self.settings)
        strides = self.model.feature_info.reduction()
        channels = self.model.feature_info.channels()
        is_kept = [out_indices is not None or stride >= FINEST_STRIDE for stride in strides]
        self.indices = [index for index, kept in enumerate(is_kept) if kept]
        self.channels = tuple(channels[index] for index in self.indices)
        self.strides = tuple(strides[index] for index in self.indices)
        self._channels_last = str(getattr(self.model, "output_fmt", "")).endswith("NHWC")

    def init_weights(self) -> None:
        """Keep the weights that timm initialised."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of images (B, 3, H, W), at `strides` with `channels`."""
        maps = self.model(images)
        selected = (maps[index] for index in self.indices)
        if self._channels_last:
            return tuple(m.permute(0, 3, 1, 2).contiguous() for m in selected)
        return tuple(selected)
