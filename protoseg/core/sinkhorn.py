"""Clustering within classes: Sinkhorn-Knopp on the transport polytope (Eq. 8-10).

Every pixel belongs to one class and only meets the K prototypes of that class, so a ragged batch
of C transport problems is one (N, K) matrix, sorted by class: all classes are solved at once. Row
sums of L run over the pixels of a class (`protoseg.core.segments`); column sums run over K.

L is ``diag(u) Q diag(v)`` with ``Q = exp(PᵀX / κ)``. Where the similarities have a bound, Q is made
once and each step only makes u and v anew, in float32 if no product of the three can leave its
range, else in float64. Without a bound, or for a κ too small even for that,
every step is taken on logarithms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from protoseg.core.collective import all_max, all_sum
from protoseg.core.segments import Segments, is_inside, sort_by_segment, weighted_sum

RANGES = ((torch.float32, 40.0), (torch.float64, 300.0))
"""Type -> the widest range of exponents in Q: u and v undo it, so products reach as far again, and
the rest of the type's range is left for the number of pixels."""


def own_similarities(similarities: Tensor, labels: Tensor, num_prototypes: int) -> Tensor:
    """The similarities of each pixel to the prototypes of its own class.

    Args:
        similarities: (N, C·K).
        labels: (N,), ground-truth class; an ignored pixel gets the row of class 0.

    Returns:
        (N, K).
    """
    num_classes = similarities.shape[1] // num_prototypes
    rows = torch.arange(len(labels), device=labels.device)
    inside = torch.where(is_inside(labels, num_classes), labels, 0)
    # Each pixel's similarities to one class are K neighbours in memory: rows of another view.
    classes = similarities.reshape(-1, num_prototypes)
    return classes.index_select(0, rows * num_classes + inside)


@torch.no_grad()
def assign(
    similarities: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    kappa: float = 0.05,
    iterations: int = 3,
    pooled: bool = True,
    bound: float | None = None,
    gumbel: bool = False,
) -> tuple[Tensor, Tensor]:
    """The prototype of each pixel among those of its class; arguments as of `sinkhorn`.

    Args:
        gumbel: the second answer is a sample that takes the probabilities of L as logits (released
            code) instead of the first.

    Returns:
        Two (N,) tensors of 0 to K - 1: the argmax of L (Eq. 8), and what the pixel is to update.
        They mean nothing for ignored pixels.
    """
    steps: dict[str, Any] = {"kappa": kappa, "iterations": iterations, "pooled": pooled}
    plan, order = _plan(similarities, labels, num_classes, bound, **steps, normalised=gumbel)

    def best(preferences: Tensor) -> Tensor:
        # max() with its indices is several times faster on a CPU than argmax(), and the same.
        chosen = preferences.max(1).indices
        return chosen if order is None else torch.empty_like(chosen).index_copy_(0, order, chosen)

    target = best(plan)
    if not gumbel:
        return target, target
    return target, best(plan - torch.empty_like(plan).exponential_().log_())


@torch.no_grad()
def sinkhorn(
    similarities: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    kappa: float = 0.05,
    iterations: int = 3,
    pooled: bool = True,
    bound: float | None = None,
) -> Tensor:
    """Soft assignment of pixels to the prototypes of their class (Eq. 10).

    Each iteration brings the rows (prototypes) of a class to equal sums, then the columns (pixels).

    Args:
        similarities: of each pixel to the prototypes of its own class, (N, K).
        labels: class of each pixel, (N,); outside ``[0, num_classes)`` means ignored.
        kappa: κ, the weight of the entropy (Eq. 9).
        iterations: Sinkhorn-Knopp steps.
        pooled: in a distributed run, take the row sums over the pixels of all processes.
        bound: the similarities are known to lie within ``[-bound, bound]``: 1 for cosines.

    Returns:
        (N, K) float32: the columns of L, scaled to sum to 1 for each pixel; 0 for ignored ones.
    """
    steps: dict[str, Any] = {"kappa": kappa, "iterations": iterations, "pooled": pooled}
    plan, order = _plan(similarities, labels, num_classes, bound, **steps)
    if order is not None:
        # index_copy, not an indexed assignment: that one may wait for a GPU.
        plan = torch.empty_like(plan).index_copy_(0, order, plan)
    return torch.where(is_inside(labels, num_classes)[:, None], plan, 0)


def _plan(
    similarities: Tensor, labels: Tensor, num_classes: int, bound: float | None, **steps: Any
) -> tuple[Tensor, Tensor | None]:
    """The plan, and the order of its rows; None where it is the batch's: one class needs none."""
    if num_classes == 1 and (dtype := range_type(steps["kappa"], bound)) is not None:
        return transport_one(similarities.to(dtype), is_inside(labels, 1), **steps), None
    pixels = sort_by_segment(labels, num_classes)
    rows = similarities.index_select(0, pixels.order)
    return transport(rows, pixels, **steps, bound=bound), pixels.order


@torch.no_grad()
def transport(
    similarities: Tensor,
    pixels: Segments,
    *,
    kappa: float,
    iterations: int,
    pooled: bool = True,
    bound: float | None = None,
    normalised: bool = True,
) -> Tensor:
    """`sinkhorn` for pixels that are sorted by class already; rows of ignored ones mean nothing.

    Args:
        similarities: (N, K), in sorted order; their memory is used up.
        pixels: the pixels sorted by class.
        normalised: False leaves out the last scaling of the columns, which moves no argmax.

    Returns:
        (N, K) float32.
    """
    dtype = range_type(kappa, bound)
    if dtype is None:
        return _logarithmic(similarities.float(), pixels, kappa, iterations, pooled)
    return _scaled(similarities.to(dtype), pixels, kappa, iterations, pooled, normalised)


def range_type(kappa: float, bound: float | None) -> torch.dtype | None:
    """The type in which no product of u, Q and v leaves its range; None where there is none."""
    spread = torch.inf if bound is None else 2 * bound / kappa
    return next((dtype for dtype, limit in RANGES if spread <= limit), None)


def transport_one(
    similarities: Tensor,
    inside: Tensor,
    *,
    kappa: float,
    iterations: int,
    pooled: bool = True,
    normalised: bool = True,
) -> Tensor:
    """`transport` for a single class, whose pixels need no sorting.

    Args:
        similarities: (N, K) of `range_type`, in any order.
        inside: (N,) bool, whether a pixel belongs to the class; the rows of others mean nothing.

    Returns:
        (N, K) float32.
    """
    kernel = similarities.mul(1 / kappa).exp_()
    columns = weights = inside.to(kernel.dtype)
    share = weights.sum(0, keepdim=True) / kernel.shape[1]
    if pooled:
        share = all_sum(share)
    rows = share
    for step in range(iterations):
        sums = weighted_sum(kernel, columns)
        rows = share / (all_sum(sums) if pooled else sums)
        if normalised or step < iterations - 1:
            columns = weights / torch.mv(kernel, rows)
    kernel.mul_(rows)
    return (kernel.mul_(columns[:, None]) if normalised else kernel).float()


def _scaled(
    similarities: Tensor,
    pixels: Segments,
    kappa: float,
    iterations: int,
    pooled: bool,
    normalised: bool,
) -> Tensor:
    """The plan by scaling vectors."""
    # In place, and one other matrix for all steps: on a CPU a new one costs more in page faults
    # than what is done with it.
    kernel = similarities.mul_(1 / kappa).exp_()
    plan = torch.empty_like(kernel)
    # A prototype's share of the pixels; with another mass u and v would drift apart step by step.
    share = pixels.counts[:, None].to(kernel.dtype) / kernel.shape[1]
    if pooled:
        share = all_sum(share)
    outside = share.new_ones(1, kernel.shape[1])
    columns: Tensor | None = None
    for step in range(iterations):
        sums = pixels.sums(kernel, columns)
        if pooled:
            sums = all_sum(sums)
        rows = torch.cat([share / sums, outside])
        torch.index_select(rows, 0, pixels.segment, out=plan)
        plan.mul_(kernel)
        if normalised or step < iterations - 1:
            columns = plan.sum(1).reciprocal_()
    if normalised and columns is not None:
        plan.mul_(columns[:, None])
    return plan.float()


def _logarithmic(
    similarities: Tensor, pixels: Segments, kappa: float, iterations: int, pooled: bool
) -> Tensor:
    """The plan by steps on logarithms, which overflow for no κ and no similarity."""
    log_plan = similarities / kappa
    for _ in range(iterations):
        log_plan = log_plan - _segment_logsumexp(log_plan, pixels, pooled)[pixels.segment]
        log_plan = log_plan - torch.logsumexp(log_plan, dim=1, keepdim=True)
    return log_plan.exp()


def _segment_logsumexp(values: Tensor, pixels: Segments, pooled: bool) -> Tensor:
    """log sum exp of ``values`` (N, K) over the rows of each segment, (S + 1, K)."""
    shape = (len(pixels.offsets) - 1, values.shape[1])
    index = pixels.segment[:, None].expand_as(values)
    lowest = torch.finfo(values.dtype).min
    highest = values.new_full(shape, lowest).scatter_reduce_(0, index, values, "amax")
    if pooled:
        highest = all_max(highest)
    total = pixels.sums((values - highest.index_select(0, pixels.segment)).exp())
    if pooled:
        total = all_sum(total)
    total = torch.cat([total, total.new_ones(1, shape[1])])
    # An empty segment has sum 0; nobody reads its value, but it must not raise or be NaN.
    return highest + total.clamp_min(torch.finfo(values.dtype).tiny).log()
