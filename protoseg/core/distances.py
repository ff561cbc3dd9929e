"""The distance measures <i, p> of ProtoSeg (Eq. 3-5 and Table 5d), as similarities ``-<i, p>``."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

Distance = Literal["cosine", "euclidean", "huber"]
DISTANCES: tuple[str, ...] = get_args(Distance)

BLOCK = {"cpu": 2**20, "gpu": 2**24}
"""Numbers worked on at once: on a CPU what its cache holds, on a GPU what keeps it busy."""
TINY = 1e-12
"""Norms below it count as this (`torch.nn.functional.normalize`)."""


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
    if distance != "cosine":
        return vectors
    unit: Tensor = _Unit.apply(vectors)
    return unit


class _Unit(torch.autograd.Function):
    """``x / |x|``, contiguous. Keeps x and its norms alone for the gradient ``(g - y (g·y)) / |x|``
    and takes it block by block: `F.normalize` keeps its output too and makes four matrices of its
    size on the way back, which are more than the head of a few classes has besides."""

    @staticmethod
    def forward(context: Any, vectors: Tensor) -> Tensor:
        unit = vectors.clone(memory_format=torch.contiguous_format)
        norm = torch.linalg.vector_norm(unit, dim=-1, keepdim=True)
        context.save_for_backward(vectors, norm)
        return unit.div_(norm.clamp_min(TINY))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        vectors, norm = context.saved_tensors
        gradient = gradients[0].new_empty(vectors.shape)
        for out, g, x, length in zip(
            *map(_blocks, (gradient, gradients[0], vectors, norm.expand_as(vectors))), strict=True
        ):
            length = length[..., :1].clamp_min(TINY)
            # A copy in the order of the others: a map with its channels last by a permutation is
            # slow to read beside them, and now is read once.
            y = x.clone(memory_format=torch.contiguous_format).div_(length)
            # Shorter vectors are divided by a constant: nothing of their gradient is projected out.
            along = torch.mul(g, y, out=out).sum(-1, keepdim=True) * (length > TINY)
            torch.sub(g, y.mul_(along), out=out).div_(length)
        return gradient


def _blocks(tensor: Tensor) -> list[Tensor]:
    """Views of at most about `BLOCK` numbers that make up (N, D) or (B, H, ..., D)."""
    if tensor.dim() <= 2:
        return list(tensor.split(block_rows(tensor.shape[-1], tensor.device)))
    rows = block_rows(tensor[0, 0].numel(), tensor.device)
    return [piece for part in tensor.unbind(0) for piece in part.split(rows)]


def block_rows(columns: int, device: torch.device) -> int:
    """How many rows are worked on at once where a whole matrix would take memory for nothing."""
    return max(1, BLOCK["cpu" if device.type == "cpu" else "gpu"] // max(1, columns))


def class_scores(similarities: Tensor, num_prototypes: int) -> Tensor:
    """``-s_{i,c} = max_k -<i, p_{c,k}>`` (Eq. 6).

    Args:
        similarities: (N, C·K).
        num_prototypes: K.

    Returns:
        (N, C), the logits of the softmax of Eq. 6.
    """
    return similarities.unflatten(1, (-1, num_prototypes)).amax(2)
