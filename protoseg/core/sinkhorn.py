"""Clustering within classes: Sinkhorn-Knopp on the transport polytope (Eq. 8-10).

Every pixel belongs to one class and only meets the K prototypes of that class, so a ragged batch
of C transport problems is one (N, K) matrix with a class label a row: all classes are solved at
once. Row sums of L run over the pixels of a class and are segment sums; column sums run over K.
"""

from __future__ import annotations

import torch
from torch import Tensor

from protoseg.core.collective import all_max, all_sum


def segments(labels: Tensor, num_classes: int) -> Tensor:
    """``labels`` with everything outside ``[0, num_classes)`` sent to a segment of its own, C."""
    return torch.where((labels >= 0) & (labels < num_classes), labels, num_classes)


def own_similarities(similarities: Tensor, labels: Tensor, num_prototypes: int) -> Tensor:
    """The similarities of each pixel to the prototypes of its own class.

    Args:
        similarities: (N, C·K).
        labels: (N,), ground-truth class; an ignored pixel gets the row of class 0.

    Returns:
        (N, K).
    """
    per_class = similarities.unflatten(1, (-1, num_prototypes))
    inside = torch.where((labels >= 0) & (labels < per_class.shape[1]), labels, 0)
    index = inside[:, None, None].expand(-1, 1, num_prototypes)
    return per_class.gather(1, index).squeeze(1)


@torch.no_grad()
def sinkhorn(
    similarities: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    kappa: float = 0.05,
    iterations: int = 3,
    pooled: bool = True,
) -> Tensor:
    """Soft assignment of pixels to the prototypes of their class (Eq. 10).

    ``L = diag(u) exp(PᵀX / κ) diag(v)``; each iteration brings the rows (prototypes) of a class to
    equal sums, then the columns (pixels). It works on logarithms in float32, so that neither a
    small κ nor float16 similarities overflow.

    Args:
        similarities: of each pixel to the prototypes of its own class, (N, K).
        labels: class of each pixel, (N,); outside ``[0, num_classes)`` means ignored.
        kappa: κ, the weight of the entropy (Eq. 9).
        iterations: Sinkhorn-Knopp steps.
        pooled: in a distributed run, take the row sums over the pixels of all processes.

    Returns:
        (N, K) float32: the columns of L, scaled to sum to 1 for each pixel; 0 for ignored ones.
    """
    segment = segments(labels, num_classes)
    log_plan = similarities.float() / kappa
    for _ in range(iterations):
        log_plan = log_plan - _segment_logsumexp(log_plan, segment, num_classes, pooled)[segment]
        log_plan = log_plan - torch.logsumexp(log_plan, dim=1, keepdim=True)
    return log_plan.exp() * (segment < num_classes)[:, None]


def _segment_logsumexp(values: Tensor, segment: Tensor, num_classes: int, pooled: bool) -> Tensor:
    """log sum exp of ``values`` (N, K) over the rows of each segment, (C + 1, K)."""
    shape = (num_classes + 1, values.shape[1])
    index = segment[:, None].expand_as(values)
    lowest = torch.finfo(values.dtype).min
    highest = values.new_full(shape, lowest).scatter_reduce_(0, index, values, "amax")
    if pooled:
        highest = all_max(highest)
    terms = (values - highest[segment]).exp()
    # In float64: beside one large term, a float32 sum would lose a million small ones.
    total = values.new_zeros(shape, dtype=torch.float64).index_add_(0, segment, terms.double())
    if pooled:
        total = all_sum(total)
    # An empty segment has sum 0; nobody reads its value, but it must not raise or be NaN.
    return highest + total.clamp_min(torch.finfo(values.dtype).tiny).log().to(values.dtype)
