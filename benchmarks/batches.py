"""Batches to time: labels with classes of chosen sizes, similarities, embeddings, label maps."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.training import synthetic_batches

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
        drawn = synthetic_batches.long_tail(num_pixels, num_classes, present, generator)
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
    return synthetic_batches.label_maps(images, size, size, num_classes).to(device)
