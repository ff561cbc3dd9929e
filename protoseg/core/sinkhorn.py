"""Clustering of pixels within each class by Sinkhorn-Knopp (Eq. 8-10).

A pixel can only be assigned to the K prototypes of its class. The C transport problems of a batch
therefore form one (N, K) matrix sorted by class, and all classes are solved at once. Row sums of L
are sums over the pixels of a class (`protoseg.core.segments`); column sums are sums over K.

L is ``diag(u) Q diag(v)`` with ``Q = exp(PᵀX / κ)``. If the similarities are bounded, Q is computed
once and each step updates u and v. This uses float32 if no product of the three can leave its
range, else float64. Without a bound, or if κ is too small for float64, each step works on
logarithms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from protoseg.core.collective import all_max, all_sum
from protoseg.core.segments import Segments, is_inside, sort_by_segment, sum_weighted_rows

EXPONENT_RANGES = ((torch.float32, 40.0), (torch.float64, 300.0))
"""(type, widest range of exponents in Q). u and v cancel this range, so products can reach twice as
far. The rest of the range of the type is reserved for the number of pixels."""


def select_own_similarities(similarities: Tensor, labels: Tensor, num_prototypes: int) -> Tensor:
    """Select the similarities of each pixel to the prototypes of its class.

    Args:
        similarities: (N, C·K).
        labels: (N,), ground-truth classes; an ignored pixel gets the row of class 0.
        num_prototypes: K.

    Returns:
        (N, K).
    """
    num_classes = similarities.shape[1] // num_prototypes
    rows = torch.arange(len(labels), device=labels.device)
    inside = torch.where(is_inside(labels, num_classes), labels, 0)
    # The K similarities to one class are contiguous in memory, so they are rows of a view.
    classes = similarities.reshape(-1, num_prototypes)
    return classes.index_select(0, rows * num_classes + inside)


@torch.no_grad()
def assign_pixels(
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
    """Assign each pixel to a prototype of its class; other arguments as in `run_sinkhorn`.

    Args:
        gumbel: whether the second result is a Gumbel sample with the probabilities of L as logits,
            as in the released code. Otherwise it equals the first.

    Returns:
        Two (N,) tensors with values in ``[0, K)``: the argmax of L (Eq. 8), and the prototype that
        the pixel updates. The values of ignored pixels are arbitrary.
    """
    steps: dict[str, Any] = {"kappa": kappa, "iterations": iterations, "pooled": pooled}
    plan, order = _solve_plan(similarities, labels, num_classes, bound, **steps, normalised=gumbel)

    def find_best(preferences: Tensor) -> Tensor:
        # On a CPU max() is several times faster than argmax() and returns the same indices.
        chosen = preferences.max(1).indices
        return chosen if order is None else torch.empty_like(chosen).index_copy_(0, order, chosen)

    target = find_best(plan)
    if not gumbel:
        return target, target
    return target, find_best(plan - torch.empty_like(plan).exponential_().log_())


@torch.no_grad()
def run_sinkhorn(
    similarities: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    kappa: float = 0.05,
    iterations: int = 3,
    pooled: bool = True,
    bound: float | None = None,
) -> Tensor:
    """Compute the soft assignment L of pixels to the prototypes of their class (Eq. 10).

    Each iteration scales the rows (prototypes) of a class to equal sums, then the columns (pixels).

    Args:
        similarities: of each pixel to the prototypes of its class, (N, K).
        labels: class of each pixel, (N,); values outside ``[0, num_classes)`` are ignored.
        num_classes: C.
        kappa: κ, the weight of the entropy (Eq. 9).
        iterations: number of Sinkhorn-Knopp steps.
        pooled: whether row sums are over the pixels of all processes of a distributed run.
        bound: the similarities are in ``[-bound, bound]``; 1 for cosines, None if unbounded.

    Returns:
        (N, K) float32: the columns of L, scaled to sum to 1 for each pixel; 0 for ignored pixels.
    """
    steps: dict[str, Any] = {"kappa": kappa, "iterations": iterations, "pooled": pooled}
    plan, order = _solve_plan(similarities, labels, num_classes, bound, **steps)
    if order is not None:
        # index_copy, because an indexed assignment can wait for the GPU.
        plan = torch.empty_like(plan).index_copy_(0, order, plan)
    return torch.where(is_inside(labels, num_classes)[:, None], plan, 0)


def _solve_plan(
    similarities: Tensor, labels: Tensor, num_classes: int, bound: float | None, **steps: Any
) -> tuple[Tensor, Tensor | None]:
    """Return L and the order of its rows; None for batch order, if a single class needs no sort."""
    if num_classes == 1 and (dtype := choose_dtype(steps["kappa"], bound)) is not None:
        return solve_single_class(similarities.to(dtype), is_inside(labels, 1), **steps), None
    pixels = sort_by_segment(labels, num_classes)
    rows = similarities.index_select(0, pixels.order)
    return solve_transport(rows, pixels, **steps, bound=bound), pixels.order


@torch.no_grad()
def solve_transport(
    similarities: Tensor,
    pixels: Segments,
    *,
    kappa: float,
    iterations: int,
    pooled: bool = True,
    bound: float | None = None,
    normalised: bool = True,
) -> Tensor:
    """Run `run_sinkhorn` on pixels that are sorted by class.

    Args:
        similarities: (N, K), in sorted order; their memory is overwritten.
        pixels: the pixels sorted by class.
        normalised: False skips the last column scaling, which does not change the argmax.

    Returns:
        (N, K) float32; the rows of ignored pixels are arbitrary.
    """
    dtype = choose_dtype(kappa, bound)
    if dtype is None:
        return _solve_on_logarithms(similarities.float(), pixels, kappa, iterations, pooled)
    return _solve_by_scaling(similarities.to(dtype), pixels, kappa, iterations, pooled, normalised)


def choose_dtype(kappa: float, bound: float | None) -> torch.dtype | None:
    """Return the smallest type that holds all products of u, Q and v; None if there is none."""
    spread = torch.inf if bound is None else 2 * bound / kappa
    return next((dtype for dtype, limit in EXPONENT_RANGES if spread <= limit), None)


def solve_single_class(
    similarities: Tensor,
    inside: Tensor,
    *,
    kappa: float,
    iterations: int,
    pooled: bool = True,
    normalised: bool = True,
) -> Tensor:
    """Run `solve_transport` on a single class, whose pixels need no sort.

    Args:
        similarities: (N, K) in the type of `choose_dtype`, in any order.
        inside: (N,) bool, whether a pixel belongs to the class.

    Returns:
        (N, K) float32; the rows of ignored pixels are arbitrary.
    """
    kernel = similarities.mul(1 / kappa).exp_()
    columns = weights = inside.to(kernel.dtype)
    share = weights.sum(0, keepdim=True) / kernel.shape[1]
    if pooled:
        share = all_sum(share)
    rows = share
    for step in range(iterations):
        sums = sum_weighted_rows(kernel, columns)
        rows = share / (all_sum(sums) if pooled else sums)
        if normalised or step < iterations - 1:
            columns = weights / torch.mv(kernel, rows)
    kernel.mul_(rows)
    return (kernel.mul_(columns[:, None]) if normalised else kernel).float()


def _solve_by_scaling(
    similarities: Tensor,
    pixels: Segments,
    kappa: float,
    iterations: int,
    pooled: bool,
    normalised: bool,
) -> Tensor:
    """Compute L with scaling vectors u and v."""
    # In place, with one temporary matrix for all steps: on a CPU the page faults of a new matrix
    # take longer than the arithmetic.
    kernel = similarities.mul_(1 / kappa).exp_()
    plan = torch.empty_like(kernel)
    # The number of pixels per prototype. With another total mass u and v diverge over the steps.
    share = pixels.counts[:, None].to(kernel.dtype) / kernel.shape[1]
    if pooled:
        share = all_sum(share)
    outside = share.new_ones(1, kernel.shape[1])
    columns: Tensor | None = None
    for step in range(iterations):
        sums = pixels.sum_sorted_rows(kernel, columns)
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


def _solve_on_logarithms(
    similarities: Tensor, pixels: Segments, kappa: float, iterations: int, pooled: bool
) -> Tensor:
    """Compute L on logarithms, which cannot overflow for any κ or similarity."""
    log_plan = similarities / kappa
    for _ in range(iterations):
        log_plan = log_plan - _segment_logsumexp(log_plan, pixels, pooled)[pixels.segment]
        log_plan = log_plan - torch.logsumexp(log_plan, dim=1, keepdim=True)
    return log_plan.exp()


def _segment_logsumexp(values: Tensor, pixels: Segments, pooled: bool) -> Tensor:
    """Compute log sum exp of ``values`` (N, K) over the rows of each segment, (S + 1, K)."""
    shape = (len(pixels.offsets) - 1, values.shape[1])
    index = pixels.segment[:, None].expand_as(values)
    lowest = torch.finfo(values.dtype).min
    highest = values.new_full(shape, lowest).scatter_reduce_(0, index, values, "amax")
    if pooled:
        highest = all_max(highest)
    total = pixels.sum_sorted_rows((values - highest.index_select(0, pixels.segment)).exp())
    if pooled:
        total = all_sum(total)
    total = torch.cat([total, total.new_ones(1, shape[1])])
    # An empty segment has sum 0. Its value is never read, but must not be NaN.
    return highest + total.clamp_min(torch.finfo(values.dtype).tiny).log()
