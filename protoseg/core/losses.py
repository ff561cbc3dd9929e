"""The losses of ProtoSeg on pixels and prototypes (Eq. 11 and 12).

Each loss is a mean over the pixels that are not ignored, and 0 if all pixels are ignored. Half
precision inputs are converted to float32, because a sum over a batch would overflow.

In a distributed run the mean is over the pixels of all processes, unless ``pooled`` is false. Each
process returns its share times the number of processes. DDP averages gradients over processes, so
the result equals that of one process with the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.distances import Distance, choose_block_rows

IGNORED = -1
"""Target of an ignored pixel."""
MASKED_LOGIT = -1e30
"""Logit of an excluded sample or prototype; with an infinite value gradients would be NaN."""


def compute_prototype_losses(
    similarities: Tensor,
    target: Tensor,
    num_prototypes: int,
    temperature: float,
    distance: Distance = "cosine",
    *,
    pooled: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the class scores and both prototype losses from one similarity matrix.

    - Class scores ``-s_{i,c} = max_k -<i, p_{c,k}>`` (Eq. 6).
    - ``L_PPC`` (Eq. 11): cross-entropy of ``softmax(i·p / τ)`` over all C·K prototypes.
    - ``L_PPD = (1 - i·p_{c_i,k_i})²`` (Eq. 12), the squared difference to the best possible
      similarity. That is 1 for the cosine and 0 for the other distances, which gives ``<i, p>²``.

    All three share one gradient computation. The backward pass allocates one matrix of the size of
    the similarities; separate operations would allocate five.

    Args:
        similarities: (N, C·K).
        target: column of the assigned prototype, (N,), or `IGNORED`.
        num_prototypes: K.
        temperature: τ.
        distance: the distance of the similarities.
        pooled: whether the means are over the pixels of all processes, or of this one.

    Returns:
        Class scores (N, C), and L_PPC and L_PPD as scalars.
    """
    best = 1.0 if distance == "cosine" else 0.0
    rows = choose_block_rows(similarities.shape[1], similarities.device)
    outputs: tuple[Tensor, Tensor, Tensor] = _ScoresAndSums.apply(
        to_float32(similarities), target, num_prototypes, temperature, best, rows
    )
    scores, contrast, compactness = outputs
    return (
        scores,
        _mean_over_valid(contrast, target, pooled=pooled),
        _mean_over_valid(compactness, target, pooled=pooled),
    )


class _ScoresAndSums(torch.autograd.Function):
    """Class scores and the pixel sums of L_PPC and L_PPD, with one shared gradient."""

    @staticmethod
    def forward(
        context: Any,
        similarities: Tensor,
        target: Tensor,
        num_prototypes: int,
        temperature: float,
        best: float,
        rows: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        per_class = similarities.unflatten(1, (-1, num_prototypes))
        scores, winner = per_class.max(2)
        # Small integers: with a small K, int64 indices would need more memory than similarities.
        winner = winner.to(torch.uint8 if num_prototypes <= 256 else torch.int16)
        is_valid = target != IGNORED
        assigned = similarities.gather(1, torch.where(is_valid, target, 0)[:, None]).squeeze(1)
        blocks = similarities.split(rows)
        log_sums = torch.cat([torch.logsumexp(block / temperature, 1) for block in blocks])
        context.save_for_backward(similarities, target, winner, log_sums, assigned)
        context.constants = num_prototypes, temperature, best, rows
        contrast = ((log_sums - assigned / temperature) * is_valid).sum()
        return scores, contrast, ((best - assigned).square() * is_valid).sum()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        score_gradient, contrast_gradient, compactness_gradient = gradients
        similarities, target, winner, log_sums, assigned = context.saved_tensors
        num_prototypes, temperature, best, rows = context.constants
        is_valid = target != IGNORED
        weight = is_valid * (contrast_gradient / temperature)
        gradient = torch.empty_like(similarities)
        tensors = similarities, gradient, log_sums, weight, winner, score_gradient
        for block, out, block_sums, block_weight, block_winner, block_scores in zip(
            *(tensor.split(rows) for tensor in tensors), strict=True
        ):
            torch.mul(block, 1 / temperature, out=out)
            out.sub_(block_sums[:, None]).exp_().mul_(block_weight[:, None])
            per_class = out.unflatten(1, (-1, num_prototypes))
            per_class.scatter_add_(2, block_winner.long()[..., None], block_scores[..., None])
        column = torch.where(is_valid, target, 0)[:, None]
        pull = is_valid * (-2 * (best - assigned) * compactness_gradient) - weight
        return gradient.scatter_add_(1, column, pull[:, None]), None, None, None, None, None


def _mean_over_valid(total: Tensor, target: Tensor, *, pooled: bool = True) -> Tensor:
    """Divide a pixel sum by the number of valid pixels in all processes, or in this one."""
    valid = (target != IGNORED).sum()
    if pooled and world_size() > 1:
        total, valid = total * world_size(), all_sum(valid)
    return total / valid.clamp_min(1)


def to_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; keep wider types."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float))
