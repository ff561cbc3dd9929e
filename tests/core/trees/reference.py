"""Float64 reference of the losses on trees: one pixel, one node and one path at a time.

Written from the formulas of the papers, independently of `protoseg.core.trees`. A node is the path
that leads to it, so no table is shared with the package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Path = tuple[str, ...]
IGNORED = -1


def list_nodes(paths: Sequence[Path]) -> list[Path]:
    """List the nodes in the order of the channels: classes first, then each higher level."""
    height = len(paths[0])
    nodes: list[Path] = []
    for length in range(height, 0, -1):
        for path in paths:
            if path[:length] not in nodes:
                nodes.append(path[:length])
    return nodes


def is_above(one: Path, other: Path) -> bool:
    """Whether a node is on the path to another, or is it."""
    return other[: len(one)] == one


def sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value)) if value >= 0 else value - math.log1p(math.exp(value))


def compute_tree_loss(
    logits: np.ndarray,
    labels: np.ndarray,
    paths: Sequence[Path],
    tree_loss: str,
    gamma: float = 2.0,
) -> float:
    """Compute L_TM, L_FTM or the sigmoid cross-entropy: a mean over the valid pixels."""
    nodes, height = list_nodes(paths), len(paths[0])
    total, valid = 0.0, 0
    for b, y, x in np.ndindex(labels.shape):
        if labels[b, y, x] == IGNORED:
            continue
        valid += 1
        path = paths[labels[b, y, x]]
        for length in range(1, height + 1):
            of_level = [v for v in nodes if len(v) == length]
            level = 0.0
            for node in of_level:
                positive = is_above(node, path)
                if tree_loss == "sigmoid":
                    related = [node]
                elif positive:
                    related = [u for u in nodes if is_above(u, node)]
                else:
                    related = [u for u in nodes if is_above(node, u)]
                values = [float(logits[b, nodes.index(u), y, x]) for u in related]
                decisive = min(values) if positive else max(values)
                # log s, or log(1 - s), and the score that the focal factor lowers.
                log = log_sigmoid(decisive if positive else -decisive)
                wrong = sigmoid(-decisive if positive else decisive)
                level -= log * (wrong**gamma if tree_loss == "focal_tree_min" else 1)
            total += level / len(of_level)
    return total / valid if valid else 0.0


def count_edges(one: Path, other: Path) -> int:
    """Count the edges between two classes: up to their first common node or the root, and down."""
    shared = 0
    while shared < len(one) and one[shared] == other[shared]:
        shared += 1
    return len(one) - shared + len(other) - shared


def score_path(logits: np.ndarray, paths: Sequence[Path], rule: str) -> np.ndarray:
    """Score each class of a pixel: ``path``, ``leaf`` or ``softmax``, (C,).

    Args:
        logits: (|V|,).
    """
    nodes = list_nodes(paths)
    if rule == "softmax":
        shifted = np.exp(logits - logits.max())
        values = shifted / shifted.sum()
    else:
        values = np.array([sigmoid(float(value)) for value in logits])
    scores = []
    for path in paths:
        on_path = [path] if rule == "leaf" else [path[:n] for n in range(1, len(path) + 1)]
        scores.append(sum(values[nodes.index(node)] for node in on_path))
    return np.array(scores)


def compute_triplets(
    rows: np.ndarray,
    labels: np.ndarray,
    paths: Sequence[Path],
    *,
    margin: float = 0.1,
    tree_margin: float = 1.0,
    max_triplets: int = 200,
) -> float:
    """Compute L_TT from the first pixels of each sort."""
    losses = []
    for c, path in enumerate(paths):
        anchors, positives, negatives = [], [], []
        for index, label in enumerate(labels):
            if label == IGNORED:
                continue
            edges = count_edges(path, paths[label])
            if label == c:
                anchors.append(index)
            elif edges == 2:
                positives.append(index)
            else:
                negatives.append(index)
        of_class = []
        for i, p, n in list(zip(anchors, positives, negatives, strict=False))[:max_triplets]:
            near, far = (count_edges(path, paths[labels[j]]) for j in (p, n))
            m = margin + tree_margin * (far - near) / (2 * len(path))
            of_class.append(max((1 - rows[i] @ rows[p]) - (1 - rows[i] @ rows[n]) + m, 0))
        if of_class:
            losses.append(sum(of_class) / len(of_class))
    return float(sum(losses) / len(losses)) if losses else 0.0


def compute_region_loss(scores: np.ndarray, labels: np.ndarray, paths: Sequence[Path]) -> float:
    """Compute the region loss: a sum over nodes, a mean over images."""
    total = 0.0
    for b in range(len(labels)):
        for v, node in enumerate(list_nodes(paths)):
            truth, score = np.zeros(labels[b].shape), np.zeros(labels[b].shape)
            for y, x in np.ndindex(labels[b].shape):
                if labels[b, y, x] != IGNORED:
                    truth[y, x] = is_above(node, paths[labels[b, y, x]])
                    score[y, x] = scores[b, v, y, x]
            true_regions = _list_regions(_pool(truth))
            score_regions = _list_regions(np.maximum(_pool(score), 1e-6))
            total += _bound_mutual_information(true_regions, score_regions)
    return total / len(labels)


def _pool(values: np.ndarray) -> np.ndarray:
    """Maxima of 3×3 windows around every third pixel."""
    height, width = values.shape
    rows = [
        [
            max(
                values[r, c]
                for r in range(max(y - 1, 0), min(y + 2, height))
                for c in range(max(x - 1, 0), min(x + 2, width))
            )
            for x in range(0, width, 3)
        ]
        for y in range(0, height, 3)
    ]
    return np.array(rows)


def _list_regions(values: np.ndarray) -> np.ndarray:
    """One column of 9 values for each 3×3 region, each row with mean 0."""
    height, width = values.shape
    regions = [
        values[y : y + 3, x : x + 3].ravel() for y in range(height - 2) for x in range(width - 2)
    ]
    table = np.array(regions).T
    return table - table.mean(1, keepdims=True)


def _bound_mutual_information(truth: np.ndarray, scores: np.ndarray) -> float:
    ridge = 5e-4 * np.eye(9)
    inverse = np.linalg.inv(scores @ scores.T + ridge)
    remaining = truth @ truth.T - truth @ scores.T @ inverse @ scores @ truth.T
    sign, log = np.linalg.slogdet(remaining + ridge)
    assert sign > 0
    return 0.5 * float(log) / 9
