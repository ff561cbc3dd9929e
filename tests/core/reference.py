"""Float64 reference of ProtoSeg: one class, one prototype and one pixel at a time.

Written from the equations of the paper, independently of `protoseg.core`. It is slow on purpose:
nothing is vectorised over classes or shared with the package.
"""

import numpy as np
from scipy.special import logsumexp

IGNORED = -1


def find_pixels(labels, c):
    """Return the indices of the pixels of class c."""
    return np.flatnonzero(np.asarray(labels) == c)


def solve_sinkhorn_of_class(similarities, kappa, iterations):
    """Solve Eq. 9-10 for the (n, K) similarities of one class.

    Each step scales prototypes, then pixels. Returns the columns of L scaled to sum to 1, (n, K).
    """
    n, k = similarities.shape
    log_l = np.asarray(similarities, dtype=np.float64) / kappa
    for _ in range(iterations):
        log_l = log_l - logsumexp(log_l, axis=0, keepdims=True) - np.log(k)  # a prototype: 1 / K
        log_l = log_l - logsumexp(log_l, axis=1, keepdims=True) - np.log(n)  # a pixel: 1 / N_c
    return np.exp(log_l + np.log(n))


def solve_sinkhorn(similarities, labels, num_classes, kappa, iterations):
    """Solve each class separately, (N, K); rows of ignored pixels are 0."""
    plan = np.zeros(np.shape(similarities), dtype=np.float64)
    for c in range(num_classes):
        own = find_pixels(labels, c)
        if len(own):
            plan[own] = solve_sinkhorn_of_class(similarities[own], kappa, iterations)
    return plan


def compute_margins(plan):
    """Return the difference of each pixel's two best prototypes; 1 if K = 1."""
    if plan.shape[1] == 1:
        return np.ones(len(plan))
    best = np.sort(plan, axis=1)
    return best[:, -1] - best[:, -2]


def compute_similarities(embeddings, prototypes, distance, delta=0.1):
    """Compute ``-<i, p>`` for each pixel and each prototype, (N, C·K)."""
    embeddings, prototypes = np.float64(embeddings), np.float64(prototypes)
    num_classes, k, _ = prototypes.shape
    table = np.zeros((len(embeddings), num_classes * k))
    for i, pixel in enumerate(embeddings):
        for c in range(num_classes):
            for j in range(k):
                gap = np.sqrt(np.sum((pixel - prototypes[c, j]) ** 2))
                table[i, c * k + j] = {
                    "cosine": np.sum(pixel * prototypes[c, j]),
                    "euclidean": -gap,
                    "huber": -delta * (np.sqrt(1 + (gap / delta) ** 2) - 1),
                }[distance]
    return table


def compute_class_scores(table, num_prototypes):
    """Compute Eq. 6, ``-s_{i,c}``: the similarity to the nearest prototype of the class."""
    num_classes = table.shape[1] // num_prototypes
    return np.array(
        [
            [max(row[c * num_prototypes : (c + 1) * num_prototypes]) for c in range(num_classes)]
            for row in table
        ]
    )


def compute_negative_log_softmax(logits, at):
    """Compute ``-log softmax(logits)[at]``."""
    return float(logsumexp(np.float64(logits)) - np.float64(logits[at]))


def compute_mean(values):
    """Return the mean of a list, 0 if it is empty."""
    return float(np.mean(values)) if len(values) else 0.0


def compute_cross_entropy(scores, labels):
    """Compute Eq. 7."""
    return compute_mean(
        [
            compute_negative_log_softmax(row, label)
            for row, label in zip(scores, labels, strict=True)
            if label != IGNORED
        ]
    )


def compute_contrast(table, target, temperature):
    """Compute Eq. 11."""
    return compute_mean(
        [
            compute_negative_log_softmax(np.float64(row) / temperature, at)
            for row, at in zip(table, target, strict=True)
            if at != IGNORED
        ]
    )


def compute_distance_loss(table, target, distance):
    """Compute Eq. 12: the squared difference to the smallest value of the distance."""
    best = 1.0 if distance == "cosine" else 0.0
    return compute_mean(
        [
            (best - np.float64(row[at])) ** 2
            for row, at in zip(table, target, strict=True)
            if at != IGNORED
        ]
    )


def normalise(vector):
    """Scale a vector to length 1."""
    return vector / np.sqrt(np.sum(vector**2))


def update_prototypes(prototypes, embeddings, target, momentum, distance):
    """Apply Eq. 14 to each prototype; prototypes without a pixel are unchanged."""
    num_classes, k, _ = prototypes.shape
    after, embeddings = np.float64(prototypes), np.float64(embeddings)
    for c in range(num_classes):
        for j in range(k):
            own = find_pixels(target, c * k + j)
            if not len(own):
                continue
            mean = np.sum(embeddings[own], axis=0) / len(own)
            if distance == "cosine":
                after[c, j] = normalise(momentum * after[c, j] + (1 - momentum) * normalise(mean))
            else:
                after[c, j] = momentum * after[c, j] + (1 - momentum) * mean
    return after


def assign_pixels(table, labels, num_classes, num_prototypes, kappa, iterations):
    """Solve Eq. 8-10: the column ``c·K + k`` of each pixel, and the margin of this choice."""
    column = np.full(len(table), IGNORED)
    margins = np.ones(len(table))
    for c in range(num_classes):
        own = find_pixels(labels, c)
        if not len(own):
            continue
        block = table[own, c * num_prototypes : (c + 1) * num_prototypes]
        plan = solve_sinkhorn_of_class(block, kappa, iterations)
        column[own] = c * num_prototypes + np.argmax(plan, axis=1)
        margins[own] = compute_margins(plan)
    return column, margins
