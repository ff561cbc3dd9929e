"""Confusion counts of each image, and the metrics computed from them.

The counts are stored, so that all metrics of a record can be recomputed, and statistics over images
need neither the model nor a GPU.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from protoseg.runs.results.samples import pack_arrays


@METRICS.register_module()
class ConfusionCounts(BaseMetric):
    """Confusion counts of each image, as sparse (ground truth · C + prediction, count) pairs.

    Args:
        num_classes: number of classes, C.
    """

    default_prefix = None

    def __init__(self, num_classes: int) -> None:
        super().__init__(collect_device="cpu")
        self.num_classes = num_classes
        self.images: list[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self.details: dict[str, Any] = {}
        """Values of the evaluation that a record holds in addition to the metrics."""

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count a batch of predictions, resized to the label maps."""
        for sample in data_samples:
            truth = sample["gt_sem_seg"]["data"].squeeze().cpu().numpy().astype(np.int64).ravel()
            guess = sample["pred_sem_seg"]["data"].squeeze().cpu().numpy().astype(np.int64).ravel()
            counted = truth < self.num_classes  # other values are the ignored label
            cells, counts = np.unique(
                truth[counted] * self.num_classes + guess[counted], return_counts=True
            )
            self.results.append((int(sample["sample_idx"]), cells, counts))

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """mIoU, mAcc and aAcc in percent; the counts are kept in ``images``."""
        self.images = sorted(results, key=lambda image: image[0])
        return summarise_matrix(sum_counts(self.images, self.num_classes))[0]


def sum_counts(images: Sequence[tuple[int, Any, Any]], num_classes: int) -> np.ndarray[Any, Any]:
    """Sum the counts of images to a confusion matrix, (C, C) int64; rows are ground truth."""
    matrix = np.zeros(num_classes * num_classes, dtype=np.int64)
    for _, cells, counts in images:
        matrix[cells] += counts
    return matrix.reshape(num_classes, num_classes)


def summarise_matrix(
    matrix: np.ndarray[Any, Any], names: Sequence[str] = ()
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Overall and per-class metrics of a confusion matrix, in percent.

    IoU is intersection over union, Acc is recall. A class without pixels in ground truth and
    prediction has neither (None), and the means skip it. A class that is only predicted has IoU 0,
    as in mmseg.

    Args:
        matrix: (C, C), rows are ground truth.
        names: class names, or empty.

    Returns:
        ``miou``, ``macc`` and ``aacc``; and for each class ``name``, ``iou``, ``acc``, ``pixels``.
    """
    hit = np.diag(matrix).astype(np.float64)
    truth = matrix.sum(1).astype(np.float64)
    union = truth + matrix.sum(0) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, acc = 100 * hit / union, 100 * hit / truth
    overall = {
        "miou": float(np.nanmean(iou)) if np.isfinite(iou).any() else 0.0,
        "macc": float(np.nanmean(acc)) if np.isfinite(acc).any() else 0.0,
        "aacc": float(100 * hit.sum() / max(truth.sum(), 1.0)),
    }
    per_class = [
        {
            "name": name,
            "iou": None if np.isnan(iou[c]) else float(iou[c]),
            "acc": None if np.isnan(acc[c]) else float(acc[c]),
            "pixels": int(truth[c]),
        }
        for c, name in enumerate(names)
    ]
    return overall, per_class


def pack_counts(images: Sequence[tuple[int, Any, Any]], num_classes: int) -> bytes:
    """Pack the counts of all images as a compressed .npz; equal counts give equal bytes.

    Returns:
        A file with the arrays ``image``, ``cell`` (ground truth · C + prediction) and ``count``,
        one entry per nonzero cell, and the scalars ``num_classes`` and ``num_images``.
    """
    arrays = {
        "image": np.concatenate(
            [np.full(len(cells), number, np.int32) for number, cells, _ in images]
        ),
        "cell": np.concatenate([cells for _, cells, _ in images]).astype(np.int32),
        "count": np.concatenate([counts for _, _, counts in images]).astype(np.int32),
        "num_classes": np.int64(num_classes),
        "num_images": np.int64(len(images)),
    }
    return pack_arrays(arrays)


def unpack_counts(
    data: bytes,
) -> list[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Unpack a result of `pack_counts`: (image number, cells, counts) of each image with counts."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        image, cell, count = (file[name] for name in ("image", "cell", "count"))
    numbers, starts = np.unique(image, return_index=True)
    parts = (np.split(column.astype(np.int64), starts[1:]) for column in (cell, count))
    return list(zip(numbers.tolist(), *parts, strict=True))


def encode_counts(images: Sequence[tuple[int, Any, Any]]) -> bytes:
    """Encode the counts of any number of images as bytes, to send them to another process."""
    empty = np.zeros(0, np.int64)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        number=np.array([number for number, _, _ in images], np.int64),
        size=np.array([len(cells) for _, cells, _ in images], np.int64),
        cell=np.concatenate([empty, *(cells for _, cells, _ in images)]),
        count=np.concatenate([empty, *(counts for _, _, counts in images)]),
    )
    return buffer.getvalue()


def decode_counts(data: bytes) -> list[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Decode a result of `encode_counts`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        ends = file["size"].cumsum()[:-1]
        numbers, cells, counts = file["number"].tolist(), file["cell"], file["count"]
    if not numbers:
        return []
    return list(zip(numbers, np.split(cells, ends), np.split(counts, ends), strict=True))


def hash_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as hex digits."""
    return hashlib.sha256(data).hexdigest()
