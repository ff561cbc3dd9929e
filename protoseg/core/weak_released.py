"""Pixel-to-prototype contrast as the authors' released code computes it.

Each function replaces one of `protoseg.core.weak_supervision`; docs/methods.md lists the switches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.losses import MASKED_LOGIT
from protoseg.core.segments import is_inside, sort_by_segment
from protoseg.core.weak_supervision import Prototypes, View, compare_with_prototypes

FIRST, NUMBER = 3, 10
"""The negatives of a pixel are the 4th to 13th most similar prototypes."""
SKIPPED = 0.1
"""Share of the hardest pixels of a class that is left out."""


@torch.no_grad()
def mine_by_rank(view: View, prototypes: Prototypes) -> Tensor:
    """Choose the 4th to 13th most similar prototypes, whether or not one is the pixel's own.

    Of 21 prototypes these are the second half of the hardest 60%. The random draw of the paper is
    computed there and not used.

    Args:
        view: embeddings and labels.
        prototypes: P.

    Returns:
        (N, C) bool.
    """
    similarities = view.embeddings.float() @ prototypes.vectors.T.float()
    similarities = similarities.masked_fill(~prototypes.exists, -torch.inf)
    order = similarities.argsort(dim=1, descending=True, stable=True)[:, FIRST : FIRST + NUMBER]
    chosen = torch.zeros_like(similarities, dtype=torch.bool).scatter(1, order, True)
    return chosen & prototypes.exists


@torch.no_grad()
def sample_harder_pixels(view: View, prototypes: Prototypes, random_keys: Tensor) -> Tensor:
    """Sample pixels of each class: half at random, and half after the hardest tenth.

    Of n pixels of a class, sorted by ``v·p_y`` from the lowest, the n // 2 that follow the first
    n // 10 are taken, and n // 2 are drawn from all n. A pixel can be sampled twice.

    Args:
        view: embeddings and labels.
        prototypes: P.
        random_keys: (N,) random numbers in [0, 1); the lowest are drawn.

    Returns:
        Weight of each pixel: 0, 1 or 2, (N,) float.
    """
    own = (view.embeddings.float() * prototypes.vectors[view.labels.clamp_min(0)].float()).sum(1)
    number = len(prototypes.exists)
    return _select_ranks(own, view.labels, number, SKIPPED) + _select_ranks(
        random_keys, view.labels, number, 0.0
    )


def _select_ranks(keys: Tensor, labels: Tensor, classes: int, skipped: float) -> Tensor:
    """Return 1 for the n // 2 lowest keys of each class after the first ``skipped · n``, (N,)."""
    order = keys.argsort(stable=True)
    groups = sort_by_segment(labels[order], classes)
    rank = torch.arange(len(keys), device=keys.device) - groups.offsets[groups.segment]
    counts = torch.cat([groups.counts, groups.counts.new_zeros(1)])[groups.segment]
    first = (counts * skipped).floor().long()
    taken = (rank >= first) & (rank < first + counts // 2) & is_inside(groups.segment, classes)
    return torch.zeros(len(keys), device=keys.device).index_put_(
        (order[groups.order],), taken.float()
    )


def compute_contrast_by_class(
    embeddings: Tensor,
    labels: Tensor,
    prototypes: Prototypes,
    temperature: float,
    *,
    negatives: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the mean over classes of the mean over pixels of ``F(v; y; P)``.

    A class with fewer than two pixels adds nothing to the sum, but counts in the divisor. If the
    own prototype of a pixel is among its negatives, it is in the denominator of F twice.

    Args:
        embeddings: (N, D).
        labels: (N,).
        prototypes: P.
        temperature: τ.
        negatives: (N, C) bool, negative prototypes of each pixel; None for all other classes.
        weights: (N,), weight of each pixel; None for 1.
    """
    logits, column, own, counts = compare_with_prototypes(
        embeddings, labels, prototypes, temperature
    )
    allowed = prototypes.exists.expand_as(logits)
    allowed = allowed.scatter(1, column, False) if negatives is None else allowed & negatives
    rest = torch.where(allowed, logits, MASKED_LOGIT)
    each = torch.logsumexp(torch.cat([own, rest], 1), 1) - own[:, 0]
    weight = counts.to(each.dtype) if weights is None else counts * weights
    number = len(prototypes.exists)
    # The pixels of all processes decide about a class; each process adds its share.
    pixels = all_sum(_sum_by_class(counts.to(each.dtype), column, number))
    divisor = all_sum(_sum_by_class(weight, column, number))
    sums = _sum_by_class(torch.where(counts, each, 0) * weight, column, number)
    means = torch.where(pixels >= 2, sums, 0) / divisor.clamp_min(1)
    return means.sum() * world_size() / (pixels > 0).sum().clamp_min(1)


def _sum_by_class(values: Tensor, column: Tensor, number: int) -> Tensor:
    """Sum values (N,) by class (N, 1); (C,)."""
    return values.new_zeros(number).scatter_add(0, column[:, 0], values)
