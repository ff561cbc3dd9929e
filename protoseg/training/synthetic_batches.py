"""Batches made up for a training that has no data: label maps by a long tail, images of noise.

What an iteration takes does not depend on what the images show. On how many classes a crop has it
depends a little, and these have many.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PATCH = 16
"""Pixels along the side of a patch of one class."""


def long_tail(number: int, num_classes: int, present: int, generator: torch.Generator) -> Tensor:
    """Classes of some pixels, (N,): of those present the c-th is 1/c as frequent as the first.

    A tenth is ignored (-1). Which classes are present, and which is the c-th, is drawn too.
    """
    share = torch.zeros(num_classes)
    places = torch.randperm(num_classes, generator=generator)[:present]
    share[places] = 1 / torch.arange(1, present + 1)
    drawn = torch.multinomial(share, number, replacement=True, generator=generator)
    drawn[torch.rand(number, generator=generator) < 0.1] = -1
    return drawn


def label_maps(
    images: int, height: int, width: int, num_classes: int, ignored: int = 255
) -> Tensor:
    """Label maps of patches with all classes by a long tail, (B, height, width) int64."""
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    number = images * rows * columns
    generator = torch.Generator().manual_seed(number + num_classes)
    cells = long_tail(number, num_classes, num_classes, generator)
    cells = cells[torch.randperm(number, generator=generator)]
    cells = torch.where(cells < 0, ignored, cells).view(images, rows, columns)
    maps = cells.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    return maps[:, :height, :width].contiguous()


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


def crops(maps: Tensor) -> dict[str, Any]:
    """A batch as a loader hands it over: images of 8 bits, and samples with these label maps."""
    images, height, width = maps.shape
    generator = torch.Generator().manual_seed(height)
    shape = images, 3, height, width
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return {"inputs": list(pixels), "data_samples": samples(maps)}
