"""Reads the label maps that ``protoseg predict`` writes, and computes their mIoU by definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from training.small import small_spec

from protoseg.datasets.layout import find_pairs, find_root


def read_pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def mean_iou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> float:
    """mIoU in percent by its definition, class by class; ground truth first in each pair."""
    truth = np.concatenate([a.ravel() for a, _ in pairs]).astype(int)
    guess = np.concatenate([b.ravel() for _, b in pairs]).astype(int)
    valid = truth < classes
    truth, guess = truth[valid], guess[valid]
    ious = []
    for c in range(classes):
        union = ((truth == c) | (guess == c)).sum()
        if union:
            ious.append(100 * np.float64(((truth == c) & (guess == c)).sum()) / np.float64(union))
    return float(np.mean(ious))


def read_pairs(out: Path, data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ground truth and prediction of each evaluated image; predicted with ``--ids original``."""
    dataset = small_spec().dataset
    root = find_root(dataset, data)
    return [
        (read_pixels(pair.annotation), read_pixels(out / "labels" / f"{pair.image.stem}.png"))
        for pair in find_pairs(root, dataset, "val")
    ]
