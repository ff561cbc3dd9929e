"""Pixel contrast as the authors' code of ContrastiveSeg computes it: anchors and ``L_NCE``.

Anchors are drawn evenly over the (image, class) pairs of the batch. With a memory they are compared
with every entry of it and with nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.losses import IGNORED
from protoseg.core.segments import is_inside, sort_by_segment

BLOCK = 2**24
"""Products of anchors and entries computed at once."""


@torch.no_grad()
def choose_pair_anchors(
    labels: Tensor,
    hard: Tensor,
    images: int,
    num_classes: int,
    count: int,
    max_views: int,
    random_keys: Tensor,
) -> tuple[Tensor, Tensor]:
    """Choose anchors evenly over (image, class) pairs.

    A pair takes part if it has more than ``max_views`` pixels. Each of the P pairs gives V =
    min(A // P, ``max_views``) anchors, V // 2 of them hard and the rest easy; where one sort has
    fewer pixels, the other fills up. In a distributed run P is that of each process.

    Args:
        labels: ordered by image, (N,); values outside ``[0, C)`` are ignored.
        hard: (N,) bool, for example whether the pixel is classified wrongly.
        images: B, a divisor of N.
        num_classes: C.
        count: A, the largest number of anchors.
        max_views: the largest number of anchors of a pair.
        random_keys: (N,) random numbers in [0, 1); within a sort the lowest are chosen.

    Returns:
        Pixel indices, (A,), and their labels, `IGNORED` for surplus entries.
    """
    device = labels.device
    image = torch.arange(len(labels), device=device) // max(1, len(labels) // images)
    pairs = images * num_classes
    inside = is_inside(labels, num_classes)
    pair = torch.where(inside, image * num_classes + labels, IGNORED)
    group = torch.where(inside, 2 * pair + ~hard, IGNORED)
    shuffled = random_keys.argsort()
    groups = sort_by_segment(group.index_select(0, shuffled), 2 * pairs)
    order = shuffled.index_select(0, groups.order)
    rank = torch.arange(len(labels), device=device) - groups.offsets[groups.segment]
    counts = groups.counts.view(pairs, 2)
    takes_part = counts.sum(1) > max_views
    views = (count // takes_part.sum().clamp_min(1)).clamp_max(max_views)
    # Half of the views (rounded down) are hard, the rest easy, unless one sort is too small.
    hard_views = torch.minimum(views // 2, counts[:, 0])
    from_easy = torch.minimum(views - hard_views, counts[:, 1])
    from_hard = views - from_easy
    quota = torch.stack([from_hard, from_easy], 1) * takes_part[:, None]
    quota = torch.cat([quota.flatten(), quota.new_zeros(1)])
    chosen = rank < quota[groups.segment]
    # A fixed number of rows: the chosen first, in their order.
    first = torch.sort((~chosen).to(torch.int8), stable=True).indices[: min(count, len(labels))]
    pixel = order[first]
    return pixel, torch.where(chosen[first], labels[pixel], IGNORED)


def compute_memory_contrast(
    anchors: Tensor,
    labels: Tensor,
    entries: Sequence[tuple[Tensor, Tensor]],
    temperature: float,
) -> Tensor:
    """Compute ``L_NCE`` of anchors against all samples, which are constants.

    The mean over anchors of the mean over their positives j, all samples of their class, of
    ``-log[exp(i·j/τ) / (exp(i·j/τ) + Σ_n exp(i·n/τ))]`` with all samples of other classes as
    negatives. Anchors without a positive are ignored; the loss is 0 if no anchor has one. In a
    distributed run the mean is over the anchors of all processes.

    Products are computed in blocks, and the gradient with them: neither pass stores a matrix of all
    anchors and samples.

    Args:
        anchors: (A, D), with a gradient.
        labels: (A,), `IGNORED` for unused anchors.
        entries: parts of the samples: rows (S, D) and labels (S,), `IGNORED` for empty ones. They
            are not copied.
        temperature: τ.
    """
    each, number = _MemoryContrast.apply(anchors, labels, entries, temperature)
    return each.sum() * world_size() / all_sum((number > 0).sum()).clamp_min(1)


class _MemoryContrast(torch.autograd.Function):
    """The loss of each anchor, (A,), and its number of positives, (A,)."""

    @staticmethod
    def forward(
        context: Any,
        anchors: Tensor,
        labels: Tensor,
        entries: Sequence[tuple[Tensor, Tensor]],
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        step = max(1, BLOCK // max(1, len(anchors)))
        blocks = [
            block
            for rows, row_labels in entries
            for block in zip(rows.split(step), row_labels.split(step), strict=True)
            if len(rows)
        ]
        # First pass: log Σ_n exp(i·n/τ) of each anchor, and Σ_n softmax(i·n/τ) n for its gradient.
        highest = anchors.new_full((len(anchors), 1), -torch.inf)
        total = anchors.new_zeros(len(anchors), 1)
        pull = torch.zeros_like(anchors)
        for block, block_labels in blocks:
            logits = anchors @ block.t() / temperature
            is_other = (block_labels != labels[:, None]) & (block_labels >= 0)
            logits.masked_fill_(~is_other, -torch.inf)
            new = torch.maximum(highest, logits.amax(1, keepdim=True))
            shift = torch.where(new.isfinite(), new, 0)
            rescale = torch.where(highest.isfinite(), (highest - shift).exp(), 0)
            weights = logits.sub_(shift).exp_()
            total = total * rescale + weights.sum(1, keepdim=True)
            pull = pull * rescale + weights @ block
            highest = new
        negative = highest + total.log()  # -inf without a negative
        pull = torch.where(total > 0, pull / total, 0)
        # Second pass: softplus(log Σ_n - i·j/τ) of each positive j.
        terms, number = anchors.new_zeros(len(anchors)), labels.new_zeros(len(anchors))
        push, share = torch.zeros_like(anchors), anchors.new_zeros(len(anchors))
        for block, block_labels in blocks:
            is_same = (block_labels == labels[:, None]) & (labels >= 0)[:, None]
            gap = torch.where(is_same, negative - anchors @ block.t() / temperature, -torch.inf)
            terms += torch.nn.functional.softplus(gap).sum(1)
            slope = torch.sigmoid(gap)
            push += slope @ block
            share += slope.sum(1)
            number += is_same.sum(1)
        divisor = number.clamp_min(1)
        gradient = (share[:, None] * pull - push) / (temperature * divisor[:, None])
        context.save_for_backward(gradient)
        context.mark_non_differentiable(number)
        return terms / divisor, number

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = context.saved_tensors
        return gradients[0][:, None] * gradient, None, None, None
