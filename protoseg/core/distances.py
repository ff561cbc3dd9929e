"""Similarities of pixels and prototypes: cosine, Euclidean and Huber (Eq. 3-5, Table 5d)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

Distance = Literal["cosine", "euclidean", "huber"]
DISTANCES: tuple[str, ...] = get_args(Distance)

BLOCK = {"cpu": 2**20, "gpu": 2**24}
"""Elements per block: about the cache size on a CPU, enough work for all cores on a GPU."""
TINY = 1e-12
"""Smaller norms are replaced by this value, as in `torch.nn.functional.normalize`."""


def compute_similarities(
    embeddings: Tensor, prototypes: Tensor, distance: Distance, huber_delta: float = 0.1
) -> Tensor:
    """Compute the similarity ``-<i, p>`` of every pixel to every prototype.

    - ``cosine``: ``i · p``; both inputs must be L2-normalised (Eq. 5).
    - ``euclidean`` ("Standard" in Table 5d): ``-||i - p||``.
    - ``huber`` ("Huberized"): ``-δ (sqrt(1 + ||i - p||² / δ²) - 1)``, the pseudo-Huber norm. The
      form and δ are assumptions, because our copy of the paper does not contain them.

    Args:
        embeddings: pixels, (N, D).
        prototypes: (C, K, D).
        distance: name of the distance.
        huber_delta: δ, in the units of the embedding.

    Returns:
        (N, C·K), at least float32, also under autocast. Column ``c·K + k`` is prototype k of
        class c.

    Raises:
        ValueError: the distance is unknown.
    """
    # Half precision creates ties between pixels and loses short distances to rounding.
    dtype = torch.promote_types(
        torch.promote_types(embeddings.dtype, prototypes.dtype), torch.float
    )
    embeddings, flat = embeddings.to(dtype), prototypes.flatten(0, 1).to(dtype)
    with torch.autocast(embeddings.device.type, enabled=False):
        products = embeddings @ flat.t()
    if distance == "cosine":
        return products
    squared = embeddings.square().sum(1, keepdim=True) + flat.square().sum(1) - 2 * products
    # Rounding can make a squared distance negative, and sqrt has no gradient at zero.
    squared = squared.clamp_min(1e-12)
    if distance == "euclidean":
        return -squared.sqrt()
    if distance == "huber":
        # δ (sqrt(1 + x) - 1) = δ x / (sqrt(1 + x) + 1) has no cancellation for small x.
        return -squared / huber_delta / (torch.sqrt(1 + squared / huber_delta**2) + 1)
    raise ValueError(f"distance: unknown '{distance}'; known: {', '.join(DISTANCES)}")


def normalise_vectors(vectors: Tensor, distance: Distance) -> Tensor:
    """L2-normalise the last axis for the cosine distance; return other vectors unchanged."""
    if distance != "cosine":
        return vectors
    unit: Tensor = _Unit.apply(vectors)
    return unit


class _Unit(torch.autograd.Function):
    """``x / |x|`` as a contiguous tensor, with the gradient ``(g - y (g·y)) / |x|``, y = x / |x|.

    Only x and its norms are saved, and the gradient is computed block by block. `F.normalize` also
    saves its output and allocates four matrices of that size in the backward pass. With few classes
    that is more memory than the rest of the head needs.
    """

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
            *map(_split_blocks, (gradient, gradients[0], vectors, norm.expand_as(vectors))),
            strict=True,
        ):
            length = length[..., :1].clamp_min(TINY)
            # x may be a permuted view with channels last, which is slow to read next to contiguous
            # tensors. The copy reads it only once.
            y = x.clone(memory_format=torch.contiguous_format).div_(length)
            # Vectors shorter than TINY are divided by a constant, so nothing is projected out.
            along = torch.mul(g, y, out=out).sum(-1, keepdim=True) * (length > TINY)
            torch.sub(g, y.mul_(along), out=out).div_(length)
        return gradient


def _split_blocks(tensor: Tensor) -> list[Tensor]:
    """Split (N, D) or (B, H, ..., D) into views of about `BLOCK` elements."""
    if tensor.dim() <= 2:
        return list(tensor.split(choose_block_rows(tensor.shape[-1], tensor.device)))
    rows = choose_block_rows(tensor[0, 0].numel(), tensor.device)
    return [piece for part in tensor.unbind(0) for piece in part.split(rows)]


def choose_block_rows(columns: int, device: torch.device) -> int:
    """Return the number of rows to process at once so that temporary memory stays small."""
    return max(1, BLOCK["cpu" if device.type == "cpu" else "gpu"] // max(1, columns))


def compute_class_scores(similarities: Tensor, num_prototypes: int) -> Tensor:
    """Compute ``-s_{i,c} = max_k -<i, p_{c,k}>`` (Eq. 6).

    Args:
        similarities: (N, C·K).
        num_prototypes: K.

    Returns:
        (N, C), the logits of the softmax of Eq. 6.
    """
    return similarities.unflatten(1, (-1, num_prototypes)).amax(2)
