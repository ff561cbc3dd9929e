"""Random batches for the tests: labels, similarities, vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def shuffle_labels(
    rng: np.random.Generator, sizes: Sequence[int], ignored: Sequence[int] = ()
) -> np.ndarray:
    """Return ``sizes[c]`` labels of each class c and the ``ignored`` labels, shuffled."""
    return rng.permutation([*np.repeat(np.arange(len(sizes)), sizes), *ignored]).astype(np.int64)


def draw_cosines(rng: np.random.Generator, num_pixels: int, num_prototypes: int) -> np.ndarray:
    """Return uniform random numbers in [-1, 1], the range of cosines, (N, K) float32."""
    return rng.uniform(-1, 1, (num_pixels, num_prototypes)).astype(np.float32)


def draw_vectors(rng: np.random.Generator, *shape: int, unit: bool = True) -> np.ndarray:
    """Return random float32 vectors along the last axis; unit vectors by default."""
    drawn = rng.standard_normal(shape)
    if unit:
        drawn /= np.linalg.norm(drawn, axis=-1, keepdims=True)
    return drawn.astype(np.float32)


def convert_float64(tensor: Tensor) -> np.ndarray:
    """Convert a tensor to numpy float64, for the references."""
    return tensor.detach().to(torch.float64).numpy()
