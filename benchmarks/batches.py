"""Synthetic batches: labels with chosen class sizes, similarities, embeddings, label maps."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.training import synthetic_batches

Sizes = Literal["even", "long tail", "20 present"]


def make_labels(
    num_pixels: int, num_classes: int, sizes: Sizes = "even", device: torch.device | None = None
) -> Tensor:
    """Create labels in random order, (N,).

    Args:
        num_pixels: N.
        num_classes: C.
        sizes: ``even``: classes of equal size. ``long tail``: the c-th largest class has 1/c of the
            pixels of the largest, and a tenth of all pixels is ignored (-1). ``20 present``: like
            ``long tail``, but only 20 classes have pixels, as in a single crop.
        device: device of the result.
    """
    generator = torch.Generator().manual_seed(num_pixels + num_classes)
    if sizes == "even":
        drawn = torch.arange(num_pixels) % num_classes
    else:
        present = min(20, num_classes) if sizes == "20 present" else num_classes
        drawn = synthetic_batches.draw_long_tail(num_pixels, num_classes, present, generator)
    return drawn[torch.randperm(num_pixels, generator=generator)].to(device)


def make_cosines(num_pixels: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Create random similarities in [-1, 1], (N, columns)."""
    generator = torch.Generator().manual_seed(columns)
    return (torch.randn(num_pixels, columns, generator=generator) / 2).tanh_().to(device)


def make_embeddings(num_pixels: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Create random unit vectors, (N, D)."""
    generator = torch.Generator().manual_seed(channels)
    return F.normalize(torch.randn(num_pixels, channels, generator=generator)).to(device)


def make_label_maps(
    images: int, size: int, num_classes: int, device: torch.device | None = None
) -> Tensor:
    """Create label maps of patches of 16 pixels, a tenth ignored (255), (B, size, size) int64."""
    return synthetic_batches.make_label_maps(images, size, size, num_classes).to(device)
