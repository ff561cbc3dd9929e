"""An optimiser constructor of mmengine that never applies weight decay to norm layers."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.nn import GroupNorm, LayerNorm
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, GroupNorm, LayerNorm)
"""Batch, instance, group and layer norms: the modules that mmengine's ``norm_decay_mult`` names."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class NormsWithoutDecay(DefaultOptimWrapperConstructor):
    """mmengine's rules for each parameter, but weight decay 0 for norms whatever else matches.

    mmengine applies one custom key per parameter, the longest that its name contains. ``head`` and
    ``norm`` are equally long, so a learning-rate multiplier of the head would bring back the decay
    of the head's norms.
    """

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Append one parameter group for each parameter below ``module``."""
        first = len(params)
        super().add_params(params, module, prefix, is_dcn_module)
        if isinstance(module, NORMS):
            for group in params[first:]:
                group["weight_decay"] = 0.0
