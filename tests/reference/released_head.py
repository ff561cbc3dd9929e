"""Float64 reference of what the authors' code of ProtoSeg adds to the paper.

One image, channel and row at a time, written from the formulas and independently of `protoseg`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]
IGNORED = -1


def convolve(maps: Array, weight: Array, bias: Array) -> Array:
    """Apply a 1×1 convolution with weight (out, in) to maps (B, in, H, W)."""
    batch, _, height, width = maps.shape
    out = np.zeros((batch, len(weight), height, width))
    for b in range(batch):
        for row in range(height):
            out[b, :, row] = weight @ maps[b, :, row] + bias[:, None]
    return out


def normalise_width(maps: Array) -> Array:
    """Scale each row of each channel of maps (B, D, H, W) to length 1."""
    out = np.zeros_like(maps)
    for index in np.ndindex(maps.shape[:3]):
        row = maps[index]
        out[index] = row / max(np.sqrt(np.sum(row**2)), 1e-12)
    return out


def project(maps: Array, layers: list[tuple[Array, Array]], *, width_norm: bool) -> Array:
    """Apply convolution, ReLU, convolution, and the norm over the width; (B, D, H, W)."""
    (first, first_bias), (second, second_bias) = layers
    hidden = np.maximum(convolve(maps, first, first_bias), 0)
    projected = convolve(hidden, second, second_bias)
    return normalise_width(projected) if width_norm else projected


def to_unit_rows(maps: Array) -> Array:
    """Apply LayerNorm with initial parameters over the channels, then L2; (B·H·W, D)."""
    rows = []
    for b, y, x in np.ndindex(maps.shape[0], maps.shape[2], maps.shape[3]):
        pixel = maps[b, :, y, x]
        centred = pixel - pixel.mean()
        pixel = centred / np.sqrt(np.mean(centred**2) + 1e-5)
        rows.append(pixel / np.sqrt(np.sum(pixel**2)))
    return np.array(rows)


def norm_scores(rows: Array) -> Array:
    """Apply LayerNorm with initial parameters over the classes, (N, C)."""
    centred = rows - rows.mean(1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=1, keepdims=True) + 1e-5)


def resize_aligned(maps: Array, size: tuple[int, int]) -> Array:
    """Resize (B, h, w, C) to ``size``, bilinear; the centres of corner pixels stay corners."""
    _, height, width, _ = maps.shape
    out = np.zeros((len(maps), *size, maps.shape[3]))
    for y, x in np.ndindex(size):
        at_y = y * (height - 1) / max(size[0] - 1, 1)
        at_x = x * (width - 1) / max(size[1] - 1, 1)
        top, left = min(int(at_y), height - 1), min(int(at_x), width - 1)
        below, right = min(top + 1, height - 1), min(left + 1, width - 1)
        part_y, part_x = at_y - top, at_x - left
        out[:, y, x] = (
            maps[:, top, left] * (1 - part_y) * (1 - part_x)
            + maps[:, top, right] * (1 - part_y) * part_x
            + maps[:, below, left] * part_y * (1 - part_x)
            + maps[:, below, right] * part_y * part_x
        )
    return out


def compute_weighted_cross_entropy(rows: Array, labels: NDArray[np.int64], weights: Array) -> float:
    """Compute ``Σ w_c (-log p_c) / Σ w_c`` over the pixels that are not ignored; 0 if none are."""
    total, divisor = 0.0, 0.0
    for row, label in zip(rows, labels, strict=True):
        if label != IGNORED:
            total += weights[label] * (logsumexp(row) - row[label])
            divisor += weights[label]
    return total / divisor if divisor else 0.0
