"""How well two groupings of the same pixels agree, e.g. prototypes and true looks of a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def normalised_mutual_information(a: ArrayLike, b: ArrayLike) -> float:
    """Mutual information of two groupings over the mean of their entropies, in [0, 1].

    1 says that each grouping follows from the other, 0 that they have nothing in common. Names of
    the groups do not matter. Normalised by the arithmetic mean (Strehl & Ghosh 2002 use the
    geometric one), as scikit-learn does by default; two groupings with one group each agree: 1.

    Args:
        a: group of each pixel, any integer type, any shape; flattened.
        b: the other group of each pixel, same number of pixels.

    Raises:
        ValueError: the sizes differ, or there is no pixel.
    """
    first, second = np.asarray(a).ravel(), np.asarray(b).ravel()
    if first.size != second.size or first.size == 0:
        raise ValueError(f"expected as many pixels in both, found {first.size} and {second.size}")
    _, rows = np.unique(first, return_inverse=True)
    _, columns = np.unique(second, return_inverse=True)
    shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    if shape == (1, 1):
        return 1.0
    joint = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
    entropy_a, entropy_b = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    information = entropy_a + entropy_b - _entropy(joint.ravel())
    # Rounding leaves independent groupings a little below zero, equal ones a little above one.
    return float(np.clip(information / ((entropy_a + entropy_b) / 2), 0.0, 1.0))


def _entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution given by ``counts``."""
    share = counts[counts > 0].astype(np.float64) / counts.sum()
    return float(-(share * np.log(share)).sum())
