"""Synthetic batches for timings without data: long-tailed label maps and noise images.

The time of an iteration does not depend on the content of the images. It depends slightly on the
number of classes in a crop; these crops have many.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PATCH = 16
"""Side length of a patch of one class, in pixels."""


def draw_long_tail(
    number: int, num_classes: int, present: int, generator: torch.Generator
) -> Tensor:
    """Draw the classes of pixels from a long-tailed distribution.

    Args:
        number: number of pixels, N.
        num_classes: number of classes.
        present: number of classes with a non-zero frequency, selected at random. The c-th of them
            is 1/c as frequent as the first.

    Returns:
        Class of each pixel, (N,) int64; 10% of them are ignored (-1).
    """
    frequencies = torch.zeros(num_classes)
    present_classes = torch.randperm(num_classes, generator=generator)[:present]
    frequencies[present_classes] = 1 / torch.arange(1, present + 1)
    classes = torch.multinomial(frequencies, number, replacement=True, generator=generator)
    classes[torch.rand(number, generator=generator) < 0.1] = -1
    return classes


def make_label_maps(
    images: int, height: int, width: int, num_classes: int, ignored: int = 255
) -> Tensor:
    """Label maps of patches whose classes have a long tail, (B, height, width) int64."""
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    number = images * rows * columns
    generator = torch.Generator().manual_seed(number + num_classes)
    cells = draw_long_tail(number, num_classes, num_classes, generator)
    cells = cells[torch.randperm(number, generator=generator)]
    cells = torch.where(cells < 0, ignored, cells).view(images, rows, columns)
    maps = cells.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    return maps[:, :height, :width].contiguous()


def make_samples(maps: Tensor) -> list[Any]:
    """mmseg data samples with the given label maps (B, height, width) as ground truth."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    data_samples = []
    for truth in maps:
        shape = tuple(truth.shape)
        sample = SegDataSample(metainfo={"img_shape": shape, "ori_shape": shape})
        sample.gt_sem_seg = PixelData(data=truth[None])
        data_samples.append(sample)
    return data_samples


def make_crops(maps: Tensor) -> dict[str, Any]:
    """A batch like that of a loader: 8-bit noise images, and samples with the given label maps."""
    images, height, width = maps.shape
    generator = torch.Generator().manual_seed(height)
    shape = images, 3, height, width
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return {"inputs": list(pixels), "data_samples": make_samples(maps)}
