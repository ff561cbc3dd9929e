"""The losses of ProtoSeg on pixels and prototypes (Eq. 7, 11, 12); Eq. 13 is their weighted sum.

All are means over the pixels that are not ignored, and 0 where every pixel is; taken in float32
where the input is half precision, whose sum over a batch would overflow.

In a distributed run the mean is over the pixels of all processes: each one's value is its share
times the number of processes, so that the mean over the processes, which is what DDP makes of their
gradients, is that of one process with the whole batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.distances import Distance

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


def pixel_prototype_contrast(similarities: Tensor, target: Tensor, temperature: float) -> Tensor:
    """``L_PPC``: softmax over all C·K prototypes of ``i·p / τ``, at the assigned one (Eq. 11).

    Args:
        similarities: (N, C·K).
        target: column of the assigned prototype, (N,), or `IGNORED`.
        temperature: τ.
    """
    logits = _wide(similarities) / temperature
    return _mean(F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum"), target)


def pixel_prototype_distance(
    similarities: Tensor, target: Tensor, distance: Distance = "cosine"
) -> Tensor:
    """``L_PPD = (1 - i·p_{c_i,k_i})²`` (Eq. 12).

    For the un-normalised distances, whose smallest value is 0 and not -1, it is ``<i, p>²``: in
    each case the squared excess over the best value that the distance can take.

    Args:
        similarities: (N, C·K).
        target: column of the assigned prototype, (N,), or `IGNORED`.
    """
    counts = target != IGNORED
    assigned = _wide(similarities).gather(1, torch.where(counts, target, 0)[:, None]).squeeze(1)
    best = 1.0 if distance == "cosine" else 0.0
    return _mean(((best - assigned).square() * counts).sum(), target)


def _mean(total: Tensor, target: Tensor) -> Tensor:
    if world_size() > 1:
        total = total * world_size()
    return total / all_sum((target != IGNORED).sum()).clamp_min(1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float))
