"""A backbone small enough for a CPU: what the quickstart trains in seconds."""

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
                    *_convolution(previous, width, stride=2), *_convolution(width, width, stride=1)
                )
            )
            previous = width

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of an image batch (B, 3, H, W), one a stage."""
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return tuple(maps)


def _convolution(inside: int, outside: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )
