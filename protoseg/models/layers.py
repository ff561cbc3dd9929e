"""Building blocks shared by the heads: projection, reshape of pixel rows, random keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def build_projection(channels: int, out: int) -> nn.Sequential:
    """Build two 1×1 convolutions with BatchNorm and ReLU between, for maps (B, channels, H, W)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out, 1),
    )


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
