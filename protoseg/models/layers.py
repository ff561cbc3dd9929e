"""Small pieces that the heads share: a projection of feature maps, and rows of pixels as maps."""

from __future__ import annotations

from torch import Tensor, nn


def project(channels: int, out: int) -> nn.Sequential:
    """Two 1×1 convolutions with BatchNorm and ReLU between, for maps (B, ``channels``, H, W)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out, 1),
    )


def rows_to_map(rows: Tensor, like: Tensor) -> Tensor:
    """(B·H·W, C) rows as a (B, C, H, W) map, with B, H, W of the channels-last ``like``."""
    # Contiguous while it is small: upsampled as it is, torch's losses would copy the large one.
    return rows.unflatten(0, like.shape[:3]).permute(0, 3, 1, 2).contiguous()
