"""The distance measures <i, p> of ProtoSeg (Eq. 3-5 and Table 5d), as similarities ``-<i, p>``."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["cosine", "euclidean", "huber"]
DISTANCES: tuple[str, ...] = get_args(Distance)


def similarity(
    embeddings: Tensor, prototypes: Tensor, distance: Distance, huber_delta: float = 0.1
) -> Tensor:
    """Similarity ``-<i, p>`` of every pixel to every prototype.

    - ``cosine``: ``i · p``; both are taken as L2-normalised already (Eq. 5).
    - ``euclidean`` ("Standard", Table 5d): ``-||i - p||``.
    - ``huber`` ("Huberized"): ``-δ (sqrt(1 + ||i - p||² / δ²) - 1)``, the pseudo-Huber norm. Form
      and δ are assumptions: the copy of the paper at hand lost them.

    Args:
        embeddings: pixels, (N, D).
        prototypes: (C, K, D).
        huber_delta: δ, in the units of the embedding.

    Returns:
        (N, C·K), at least float32, also under autocast; column ``c·K + k`` is prototype k
        of class c.
    """
    # Half precision would tie pixels that are not tied, and drown short distances in rounding.
    dtype = torch.promote_types(
        torch.promote_types(embeddings.dtype, prototypes.dtype), torch.float
    )
    embeddings, flat = embeddings.to(dtype), prototypes.flatten(0, 1).to(dtype)
    with torch.autocast(embeddings.device.type, enabled=False):
        products = embeddings @ flat.t()
    if distance == "cosine":
        return products
    squared = embeddings.square().sum(1, keepdim=True) + flat.square().sum(1) - 2 * products
    # Rounding can push a squared distance below zero, and sqrt has no gradient at zero.
    squared = squared.clamp_min(1e-12)
    if distance == "euclidean":
        return -squared.sqrt()
    if distance == "huber":
        # δ (sqrt(1 + x) - 1) = δ x / (sqrt(1 + x) + 1), which cancels nothing for a small x.
        return -squared / huber_delta / (torch.sqrt(1 + squared / huber_delta**2) + 1)
    raise ValueError(f"distance: unknown '{distance}'; known: {', '.join(DISTANCES)}")


def normalise(vectors: Tensor, distance: Distance) -> Tensor:
    """L2-normalise the last axis where the distance is defined on unit vectors (cosine)."""
    return F.normalize(vectors, dim=-1) if distance == "cosine" else vectors


def class_scores(similarities: Tensor, num_prototypes: int) -> Tensor:
    """``-s_{i,c} = max_k -<i, p_{c,k}>`` (Eq. 6).

    Args:
        similarities: (N, C·K).
        num_prototypes: K.

    Returns:
        (N, C), the logits of the softmax of Eq. 6.
    """
    return similarities.unflatten(1, (-1, num_prototypes)).amax(2)
