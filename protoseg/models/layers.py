"""Building blocks shared by the heads: projections, reshape of pixel rows, random keys."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Projection = Literal[False, True, "none", "conv", "conv_no_norm", "released"]

EPSILON = 1e-12
"""Smallest norm that is divided by, as in ``torch.nn.functional.normalize``."""


def build_projection(channels: int, out: int, projection: Projection = "conv") -> nn.Module:
    """Build two 1×1 convolutions with a ReLU between, for maps (B, channels, H, W).

    Args:
        channels: channels of the input and of the first convolution.
        out: channels of the second convolution.
        projection: ``none`` or False: identity. ``conv`` or True: with BatchNorm before the ReLU.
            ``conv_no_norm``: without. ``released``: without, and with `WidthNorm` at the end.
    """
    if projection in (False, "none"):
        return nn.Identity()
    first, second = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, out, 1)
    norms = [nn.BatchNorm2d(channels)] if projection in (True, "conv") else []
    ends = [WidthNorm()] if projection == "released" else []
    return nn.Sequential(first, *norms, nn.ReLU(inplace=True), second, *ends)


class WidthNorm(nn.Module):
    """L2 normalisation over the width of a map (B, D, H, W), as the authors' code of ProtoSeg does.

    It makes the embedding of a pixel depend on all pixels of its row, which the paper does not
    describe.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Divide each row of each channel by its L2 norm.

        Raises:
            ValueError: the map has one column, so that all values would be -1, 0 or 1.
        """
        if features.shape[3] < 2:
            raise ValueError(
                "method.projection: released normalises over the width of the feature map, which "
                "has one column here. Use wider images and crops, or projection=conv_no_norm."
            )
        return cast(Tensor, _NormalizeRows.apply(features))


class _NormalizeRows(torch.autograd.Function):
    """``F.normalize(features, dim=3)``, with a gradient of fewer passes over the map."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(features, dim=3, keepdim=True)
        scale = norm.clamp_min(EPSILON).reciprocal_()
        unit = features * scale
        ctx.save_for_backward(unit, scale)
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        unit, scale = ctx.saved_tensors
        gradient = gradient.contiguous()  # it comes from pixel rows, (B, H, W, D)
        along = torch.linalg.vecdot(gradient, unit, dim=3).unsqueeze(3)
        along = along * (scale < 1 / EPSILON)  # other rows are divided by a constant
        return torch.addcmul(gradient, unit, along, value=-1).mul_(scale)


def rows_to_map(rows: Tensor, like: Tensor) -> Tensor:
    """Reshape rows (B·H·W, C) to a map (B, C, H, W).

    Args:
        rows: one row per pixel.
        like: any channels-last tensor of the same B, H and W, (B, H, W, ...).
    """
    # Made contiguous at the small size. Otherwise torch's losses copy the upsampled map.
    return rows.unflatten(0, like.shape[:3]).permute(0, 3, 1, 2).contiguous()


def draw_random_keys(like: Tensor) -> Tensor:
    """Draw uniform random numbers in [0, 1), one per row of ``like``, on its device; (N,)."""
    return torch.rand(len(like), device=like.device)
