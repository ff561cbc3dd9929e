"""Float64 reference of weak pixel-to-prototype contrast as the authors' code computes it.

Loops over pixels and classes. Nothing is imported from `protoseg`.
"""

from __future__ import annotations

import numpy as np

IGNORED = -1


def mine_by_rank(embeddings, prototypes):
    """Return the 4th to 13th most similar prototypes of each pixel as sets of classes."""
    chosen = []
    for pixel in np.float64(embeddings):
        products = [float(np.sum(pixel * p)) for p in np.float64(prototypes)]
        chosen.append(set(sorted(range(len(products)), key=lambda c: -products[c])[3:13]))
    return chosen


def sample_pixels(embeddings, labels, prototypes, random_keys):
    """Return how often each pixel is sampled."""
    times = np.zeros(len(labels))
    for c in sorted(set(labels.tolist()) - {IGNORED}):
        own = np.flatnonzero(labels == c)
        products = np.float64(embeddings)[own] @ np.float64(prototypes)[c]
        n = len(own)
        for position in np.argsort(products, kind="stable")[n // 10 : n // 10 + n // 2]:
            times[own[position]] += 1
        for position in np.argsort(random_keys[own], kind="stable")[: n // 2]:
            times[own[position]] += 1
    return times


def compute_loss(embeddings, labels, prototypes, negatives, times, temperature):
    """Compute the mean over classes of the mean of F over their pixels."""
    total, classes = 0.0, sorted(set(labels.tolist()) - {IGNORED})
    for c in classes:
        own = [n for n in np.flatnonzero(labels == c) if times[n]]
        if (labels == c).sum() < 2:
            continue  # but it stays in the divisor
        values, weights = [], []
        for n in own:
            products = np.float64(prototypes) @ np.float64(embeddings[n]) / temperature
            below = np.exp(products[c]) + sum(np.exp(products[k]) for k in negatives[n])
            values.append(-np.log(np.exp(products[c]) / below))
            weights.append(times[n])
        if weights:
            total += np.average(values, weights=weights)
    return total / len(classes)
