"""The losses of ProtoSeg on pixels and prototypes (Eq. 7, 11, 12); Eq. 13 is their weighted sum.

All are means over the pixels that are not ignored, and 0 where every pixel is; taken in float32
where the input is half precision, whose sum over a batch would overflow.

In a distributed run the mean is over the pixels of all processes: each one's value is its share
times the number of processes, so that the mean over the processes, which is what DDP makes of their
gradients, is that of one process with the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.distances import Distance, block_rows

IGNORED = -1
"""Target of a pixel that counts for nothing."""


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """``L_CE = -log p(c_i | i)`` (Eq. 7).

    Args:
        scores: class scores ``-s_{i,c}``, (N, C).
        labels: (N,), `IGNORED` for ignored pixels.
    """
    logits = _wide(scores)
    return _mean(F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"), labels)


def prototype_losses(
    similarities: Tensor,
    target: Tensor,
    num_prototypes: int,
    temperature: float,
    distance: Distance = "cosine",
) -> tuple[Tensor, Tensor, Tensor]:
    """The class scores and the two losses on prototypes, from one matrix of similarities.

    - class scores ``-s_{i,c} = max_k -<i, p_{c,k}>`` (Eq. 6);
    - ``L_PPC``: softmax over all C·K prototypes of ``i·p / τ``, at the assigned one (Eq. 11);
    - ``L_PPD = (1 - i·p_{c_i,k_i})²`` (Eq. 12). For the un-normalised distances, whose smallest
      value is 0 and not -1, it is ``<i, p>²``: in each case the squared excess over the best value
      that the distance can take.

    The three share their gradient too: besides the similarities themselves one matrix of their
    size is made, in the backward pass, where a softmax and three selections would make five.

    Args:
        similarities: (N, C·K).
        target: column of the assigned prototype, (N,), or `IGNORED`.
        num_prototypes: K.
        temperature: τ.

    Returns:
        Scores (N, C), and L_PPC and L_PPD as scalars.
    """
    best = 1.0 if distance == "cosine" else 0.0
    rows = block_rows(similarities.shape[1], similarities.device)
    outputs: tuple[Tensor, Tensor, Tensor] = _Outputs.apply(
        _wide(similarities), target, num_prototypes, temperature, best, rows
    )
    scores, contrast, compactness = outputs
    return scores, _mean(contrast, target), _mean(compactness, target)


class _Outputs(torch.autograd.Function):
    """Class scores, and the sums over pixels of L_PPC and L_PPD, with one gradient for all."""

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
        # Kept as bytes: as torch's indices they would outweigh the similarities where K is small.
        winner = winner.to(torch.uint8 if num_prototypes <= 256 else torch.int16)
        counts = target != IGNORED
        assigned = similarities.gather(1, torch.where(counts, target, 0)[:, None]).squeeze(1)
        blocks = similarities.split(rows)
        total = torch.cat([torch.logsumexp(block / temperature, 1) for block in blocks])
        context.save_for_backward(similarities, target, winner, total, assigned)
        context.constants = num_prototypes, temperature, best, rows
        contrast = ((total - assigned / temperature) * counts).sum()
        return scores, contrast, ((best - assigned).square() * counts).sum()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_scores, of_contrast, of_compactness = gradients
        similarities, target, winner, total, assigned = context.saved_tensors
        num_prototypes, temperature, best, rows = context.constants
        counts = target != IGNORED
        weight = counts * (of_contrast / temperature)
        gradient = torch.empty_like(similarities)
        together = similarities, gradient, total, weight, winner, of_scores
        for block, out, of_block, scale, won, of_won in zip(
            *(each.split(rows) for each in together), strict=True
        ):
            torch.mul(block, 1 / temperature, out=out)
            out.sub_(of_block[:, None]).exp_().mul_(scale[:, None])
            per_class = out.unflatten(1, (-1, num_prototypes))
            per_class.scatter_add_(2, won.long()[..., None], of_won[..., None])
        column = torch.where(counts, target, 0)[:, None]
        pull = counts * (-2 * (best - assigned) * of_compactness) - weight
        return gradient.scatter_add_(1, column, pull[:, None]), None, None, None, None, None


def _mean(total: Tensor, target: Tensor) -> Tensor:
    if world_size() > 1:
        total = total * world_size()
    return total / all_sum((target != IGNORED).sum()).clamp_min(1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float))
