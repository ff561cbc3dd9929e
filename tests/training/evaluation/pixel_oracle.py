"""Evaluates a network with NumPy and plain PyTorch, from arrays in memory.

It shares with protoseg only the network itself: no reader, no pipeline, no inference of mmseg, and
no metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])
"""Mean and standard deviation of ImageNet's red, green and blue, 0 to 255."""


@dataclass(frozen=True)
class Window:
    """A sliding window: its side and its stride in pixels, the same in both directions."""

    side: int
    stride: int


def predict_classes(network: nn.Module, rgb: np.ndarray, window: Window | None) -> np.ndarray:
    """The class of each pixel of an image, (height, width), for (height, width, 3) uint8."""
    height, width, _ = rgb.shape
    pixels = torch.from_numpy(((rgb - MEAN) / STD).transpose(2, 0, 1)[None]).float()
    if window is None:
        return compute_scores(network, pixels).argmax(0)
    total: np.ndarray | float = 0.0
    covered = np.zeros((height, width))
    for top in window_starts(height, window):
        for left in window_starts(width, window):
            part = pixels[..., top : top + window.side, left : left + window.side]
            scores = compute_scores(network, part)
            placed = np.zeros((len(scores), height, width))
            placed[:, top : top + window.side, left : left + window.side] = scores
            total = total + placed
            covered[top : top + window.side, left : left + window.side] += 1
    return np.asarray(total / covered).argmax(0)


def compute_scores(network: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """The scores (C, height, width) of one image (1, 3, height, width) at its own size."""
    with torch.no_grad():
        maps = network.decode_head(network.backbone(pixels))
        size = pixels.shape[2:]
        return interpolate(maps, size, mode="bilinear", align_corners=False)[0].double().numpy()


def window_starts(length: int, window: Window) -> Iterator[int]:
    """The first pixels of the windows that cover a side; the last window ends with the side."""
    start = 0
    while start + window.side < length:
        yield start
        start += window.stride
    yield max(0, length - window.side)


def compute_metrics(
    truths: list[np.ndarray], guesses: list[np.ndarray], values: list[int]
) -> tuple[float, list[tuple[float, int]]]:
    """mIoU in percent, and IoU and labelled pixels of each class.

    Args:
        truths: label values as they were written; values of no class are ignored.
        guesses: predicted class numbers.
        values: the label value of each class.
    """
    per_class = []
    for number, value in enumerate(values):
        hit = union = labelled = 0
        for truth, guess in zip(truths, guesses, strict=True):
            counted = np.isin(truth, values)
            is_class, is_guess = truth == value, (guess == number) & counted
            hit += int((is_class & is_guess).sum())
            union += int((is_class | is_guess).sum())
            labelled += int(is_class.sum())
        per_class.append((100 * hit / union if union else float("nan"), labelled))
    return float(np.nanmean([iou for iou, _ in per_class])), per_class
