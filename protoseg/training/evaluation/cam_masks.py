"""Confusion counts of a CAM network's pseudo-masks, at all background thresholds in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protoseg.config.schema import RunSpec
from protoseg.training.evaluation.confusion import ConfusionCounts, summarise_matrix

THRESHOLDS = tuple(number / 50 for number in range(50))
"""Background thresholds, 0 to 0.98."""


def build_counter(spec: RunSpec) -> ConfusionCounts:
    """Build the confusion counter for a run's task."""
    counter_class = ThresholdCounts if spec.method.task == "weak" else ConfusionCounts
    return counter_class(len(spec.dataset.classes))


class ThresholdCounts(ConfusionCounts):
    """Confusion counts of pseudo-masks at each of `THRESHOLDS`; the best threshold is kept.

    The threshold maximises the mIoU on the same images that are counted, as is usual for masks that
    are used for training. It is not tuned for other images.

    The result of an image is (image number, cells, counts). Each cell is a combination of ground
    truth, best class, and the number of thresholds that the confidence reaches.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count a batch of confidence maps, resized to the label maps."""
        for sample in data_samples:
            truth = sample["gt_sem_seg"]["data"].squeeze().cpu().numpy().astype(np.int64).ravel()
            maps = sample["seg_logits"]["data"][1:].flatten(1)
            highest, guess = (each.cpu().numpy() for each in maps.max(0))
            reached = np.searchsorted(
                np.array(THRESHOLDS, np.float32), highest.astype(np.float32), "right"
            )
            reached[highest <= 0] = 0  # background at every threshold
            counted = truth < self.num_classes
            joint = truth * self.num_classes + guess.astype(np.int64) + 1
            cells, counts = np.unique(
                (joint * (len(THRESHOLDS) + 1) + reached)[counted], return_counts=True
            )
            self.results.append((int(sample["sample_idx"]), cells, counts))

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Metrics at the best threshold; sets ``details`` to it and the mIoU at each threshold."""
        results = sorted(results, key=lambda image: image[0])
        size = self.num_classes**2 * (len(THRESHOLDS) + 1)
        joint = np.zeros(size, np.int64)
        for _, cells, counts in results:
            joint[cells] += counts
        cells = np.flatnonzero(joint)
        curve = []
        for index, threshold in enumerate(THRESHOLDS):
            matrix = self._count_at(index, cells, joint[cells]).reshape(self.num_classes, -1)
            curve.append([threshold, summarise_matrix(matrix)[0]["miou"]])
        best = int(np.argmax([miou for _, miou in curve]))
        self.images = [(number, *self._count_sparse_at(best, *image)) for number, *image in results]
        self.details = {"threshold": THRESHOLDS[best], "miou_by_threshold": curve}
        matrix = self._count_at(best, cells, joint[cells]).reshape(self.num_classes, -1)
        return summarise_matrix(matrix)[0]

    def _count_at(self, threshold: int, cells: Any, counts: Any) -> np.ndarray[Any, Any]:
        """The flat confusion matrix (C·C,) at the threshold with a given index."""
        pair, reached = np.divmod(cells, len(THRESHOLDS) + 1)
        truth, guess = np.divmod(pair, self.num_classes)
        index = truth * self.num_classes + np.where(reached > threshold, guess, 0)
        return np.bincount(index, counts, self.num_classes**2).astype(np.int64)

    def _count_sparse_at(self, threshold: int, cells: Any, counts: Any) -> tuple[Any, Any]:
        """The nonzero cells of the confusion matrix at a threshold, and their counts."""
        flat = self._count_at(threshold, cells, counts)
        nonzero = np.flatnonzero(flat)
        return nonzero, flat[nonzero]
