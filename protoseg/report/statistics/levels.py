"""Computes the metrics of each level of a tree of classes from confusion counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg.config.hierarchy.table_trees import MISTAKE_DISTANCE, name_level_metric
from protoseg.config.hierarchy.tree import Hierarchy
from protoseg.report.metrics import AVERAGED
from protoseg.report.statistics.counts import ConfusionCounts, Integers


def compute_levels(counts: ConfusionCounts, tree: Hierarchy) -> dict[str, Any]:
    """Compute the metrics of the levels from 2, and the mean tree distance of a mistake.

    On a level, ground truth and prediction of each pixel are replaced by the group of their class.
    The metrics follow the rules of those of classes: a group without pixels in ground truth and
    prediction has no IoU, and one that is only predicted has an IoU of 0.

    Args:
        counts: of C classes.
        tree: of the same classes.

    Returns:
        The part `protoseg.report.metrics.LEVEL_PART` of a record: ``miou@2``, ... in percent;
        ``mistake_distance`` in edges, None without a wrong pixel; and level -> names of the groups
        that its mIoU averages.
    """
    size = counts.num_classes
    cells = np.zeros(size**2, np.int64)
    np.add.at(cells, counts.cell, counts.pixels)
    matrix = cells.reshape(size, size)
    levels: dict[str, Any] = {MISTAKE_DISTANCE: _average_distance(matrix, tree)}
    averaged: dict[int, list[str]] = {}
    for level in range(2, tree.num_levels + 1):
        names = tree.level_names[level - 1]
        merged = merge_matrix(matrix, tree.ancestors[level - 1], len(names))
        values, has_iou = _summarise(merged)
        levels |= {name_level_metric(key, level): value for key, value in values.items()}
        averaged[level] = [name for name, has in zip(names, has_iou, strict=True) if has]
    return {**levels, AVERAGED: averaged}


def merge_matrix(matrix: Integers, ancestors: tuple[int, ...], size: int) -> Integers:
    """Add the rows and columns of a confusion matrix of classes that belong to one group.

    Args:
        matrix: (C, C), rows are ground truth.
        ancestors: number of the group of each class, (C,).
        size: number of groups, G.

    Returns:
        (G, G), rows are ground truth.
    """
    merged = np.zeros((size, size), np.int64)
    np.add.at(merged, np.ix_(ancestors, ancestors), matrix)
    return merged


def _average_distance(matrix: Integers, tree: Hierarchy) -> float | None:
    """Mean ψ of true and predicted class over the wrong pixels; it is 0 for the right ones."""
    wrong = int(matrix.sum() - np.trace(matrix))
    return float((matrix * np.array(tree.distances)).sum() / wrong) if wrong else None


def _summarise(matrix: Integers) -> tuple[dict[str, float], NDArray[np.bool_]]:
    """The metrics of a confusion matrix in percent, 0 without pixels; and which rows have an IoU.

    IoU is intersection over union, Acc is recall.
    """
    hit, truth = np.diag(matrix).astype(np.float64), matrix.sum(1).astype(np.float64)
    union = truth + matrix.sum(0) - hit
    iou = np.divide(100 * hit, union, out=np.zeros_like(hit), where=union > 0)
    acc = np.divide(100 * hit, truth, out=np.zeros_like(hit), where=truth > 0)

    def average(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float:
        return float(values[chosen].mean()) if chosen.any() else 0.0

    metrics = {
        "miou": average(iou, union > 0),
        "miou_present": average(iou, truth > 0),
        "macc": average(acc, truth > 0),
        "aacc": float(100 * hit.sum() / max(truth.sum(), 1.0)),
    }
    return metrics, union > 0
