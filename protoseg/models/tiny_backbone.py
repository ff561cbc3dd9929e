"""A backbone that trains in seconds on a CPU; used by the quickstart."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class TinyNet(BaseModule):
    """Four stages of two 3×3 convolutions; feature maps at strides 2, 4, 8 and 16.

    Args:
        channels: width of each stage.
        init_cfg: initialisation config of mmengine.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 64, 96),
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.stages = nn.ModuleList()
        previous = 3
        for width in channels:
            self.stages.append(
                nn.Sequential(
                    *_build_convolution(previous, width, stride=2),
                    *_build_convolution(width, width, stride=1),
                )
            )
            previous = width

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute one feature map per stage from images (B, 3, H, W)."""
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return tuple(maps)


def _build_convolution(in_channels: int, out_channels: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
