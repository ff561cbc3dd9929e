"""Batches to time: labels with classes of chosen sizes, similarities, embeddings, label maps."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Sizes = Literal["even", "long tail", "20 present"]


def labels(
    num_pixels: int, num_classes: int, sizes: Sizes = "even", device: torch.device | None = None
) -> Tensor:
    """Class of each pixel in random order, (N,).

    ``even``: classes of equal size. ``long tail``: the c-th largest class is 1/c of the largest, a
    tenth of the pixels ignored (-1). ``20 present``: as in a single crop, twenty classes share the
    pixels by a long tail, and the others have none.
    """
    generator = torch.Generator().manual_seed(num_pixels + num_classes)
    if sizes == "even":
        drawn = torch.arange(num_pixels) % num_classes
    else:
        present = min(20, num_classes) if sizes == "20 present" else num_classes
        share = torch.zeros(num_classes)
        places = torch.randperm(num_classes, generator=generator)[:present]
        share[places] = 1 / torch.arange(1, present + 1)
        drawn = torch.multinomial(share, num_pixels, replacement=True, generator=generator)
        drawn[torch.rand(num_pixels, generator=generator) < 0.1] = -1
    return drawn[torch.randperm(num_pixels, generator=generator)].to(device)


def cosines(num_pixels: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Similarities as cosines are, within [-1, 1], (N, columns)."""
    generator = torch.Generator().manual_seed(columns)
    return (torch.randn(num_pixels, columns, generator=generator) / 2).tanh_().to(device)


def embeddings(num_pixels: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Random unit vectors, (N, D)."""
    generator = torch.Generator().manual_seed(channels)
    return F.normalize(torch.randn(num_pixels, channels, generator=generator)).to(device)


def label_maps(
    images: int, size: int, num_classes: int, device: torch.device | None = None
) -> Tensor:
    """Label maps of patches 16 pixels wide, 255 for a tenth of them, (B, size, size) int64."""
    cells = labels(images * (size // 16) ** 2, num_classes, "long tail")
    cells = torch.where(cells < 0, 255, cells).view(images, size // 16, size // 16)
    return cells.repeat_interleave(16, 1).repeat_interleave(16, 2).to(device)


def samples(maps: Tensor) -> list[Any]:
    """mmseg's data samples with these label maps as ground truth."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    found = []
    for truth in maps:
        shape = tuple(truth.shape)
        sample = SegDataSample(metainfo={"img_shape": shape, "ori_shape": shape})
        sample.gt_sem_seg = PixelData(data=truth[None])
        found.append(sample)
    return found
