"""Pseudo-masks of a CAM network: counted at every background threshold at once, written to disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protoseg.config.schema import RunSpec
from protoseg.training.evaluation.confusion import ConfusionCounts, summarise

THRESHOLDS = tuple(number / 50 for number in range(50))
"""Background thresholds that are tried, 0 to 0.98."""


def counter_of(spec: RunSpec) -> ConfusionCounts:
    """What counts the predictions of a run."""
    kind = SweptCounts if spec.method.task == "weak" else ConfusionCounts
    return kind(len(spec.dataset.classes))


class SweptCounts(ConfusionCounts):
    """Confusion counts of pseudo-masks at each of `THRESHOLDS`, of which the best is kept.

    The threshold is chosen by the mIoU on the very images that are counted, as is usual for masks
    that are made for training: it is no threshold for other images.

    A result of one image is (number, cells, counts) as everywhere, but with cells (ground truth,
    best class, number of thresholds that its confidence reaches).
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count one batch of confidences at the size of their label maps."""
        for sample in data_samples:
            truth = sample["gt_sem_seg"]["data"].squeeze().cpu().numpy().astype(np.int64).ravel()
            maps = sample["seg_logits"]["data"][1:].flatten(1)
            highest, guess = (each.cpu().numpy() for each in maps.max(0))
            reached = np.searchsorted(
                np.array(THRESHOLDS, np.float32), highest.astype(np.float32), "right"
            )
            reached[highest <= 0] = 0  # the background at any threshold
            counted = truth < self.num_classes
            joint = truth * self.num_classes + guess.astype(np.int64) + 1
            cells, counts = np.unique(
                (joint * (len(THRESHOLDS) + 1) + reached)[counted], return_counts=True
            )
            self.results.append((int(sample["sample_idx"]), cells, counts))

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Metrics at the best threshold; ``details`` has it, and the mIoU at all of them."""
        results = sorted(results, key=lambda image: image[0])
        size = self.num_classes**2 * (len(THRESHOLDS) + 1)
        joint = np.zeros(size, np.int64)
        for _, cells, counts in results:
            joint[cells] += counts
        cells = np.flatnonzero(joint)
        curve = []
        for place, threshold in enumerate(THRESHOLDS):
            matrix = self._at(place, cells, joint[cells])
            curve.append([threshold, summarise(matrix.reshape(self.num_classes, -1))[0]["miou"]])
        best = int(np.argmax([miou for _, miou in curve]))
        self.images = [(number, *self._sparse(best, *image)) for number, *image in results]
        self.details = {"threshold": THRESHOLDS[best], "miou_by_threshold": curve}
        matrix = self._at(best, cells, joint[cells]).reshape(self.num_classes, -1)
        return summarise(matrix)[0]

    def _at(self, place: int, cells: Any, counts: Any) -> np.ndarray[Any, Any]:
        """Joint cells as a flat confusion matrix at one threshold, (C·C,)."""
        pair, reached = np.divmod(cells, len(THRESHOLDS) + 1)
        truth, guess = np.divmod(pair, self.num_classes)
        index = truth * self.num_classes + np.where(reached > place, guess, 0)
        return np.bincount(index, counts, self.num_classes**2).astype(np.int64)

    def _sparse(self, place: int, cells: Any, counts: Any) -> tuple[Any, Any]:
        flat = self._at(place, cells, counts)
        found = np.flatnonzero(flat)
        return found, flat[found]
