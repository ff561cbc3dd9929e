"""Pixel contrast across images (ContrastiveSeg): anchors, samples and ``L_NCE``.

Anchors are pixels of the batch. They are compared with samples: the anchors of all processes and
the embeddings in memory (`protoseg.core.memory_bank`). Only anchors receive gradients; a sample is
a constant, whether it comes from the memory or from the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.losses import IGNORED
from protoseg.core.segments import is_inside, sort_by_segment

NOTHING = -1e30
"""The logit of a sample that is left out; an infinity would make gradients of NaN."""
BLOCK = 2**24
"""Products of anchors and samples worked on at once; the matrix of all may be very large."""


@dataclass(frozen=True)
class Chosen:
    """Which samples each anchor is compared with: first P positives, then negatives."""

    columns: Tensor
    """(A, M) int64, numbers of samples."""
    counts: Tensor
    """(A, M) bool, whether the sample in this place counts."""
    products: Tensor
    """(A, M), ``i · j`` of anchor and sample, without a gradient."""
    positives: int
    """P, how many columns are for positives."""


@torch.no_grad()
def choose_anchors(
    labels: Tensor, hard: Tensor, num_classes: int, count: int, random_keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Pick anchors: classes evenly, and of a class half among its hard pixels, half of the others.

    The pixels of a class stand in a row, a hard one and another in turns, each kind in the order
    of its lots; where one kind is used up the other goes on. The first of all classes are taken,
    then the second, and so on until there are ``count``.

    Args:
        labels: (N,); outside ``[0, C)`` means ignored.
        hard: (N,) bool, e.g. whether the pixel is classified wrongly.
        num_classes: C.
        count: A; all pixels where there are fewer.
        lots: (N,) random numbers in [0, 1).

    Returns:
        Numbers of pixels, (A,), and the label of each, `IGNORED` where pixels have run out.
    """
    inside = is_inside(labels, num_classes)
    kind = torch.where(inside, 2 * labels + ~hard, IGNORED)
    shuffled = random_keys.argsort()
    kinds = sort_by_segment(kind.index_select(0, shuffled), 2 * num_classes)
    order = shuffled.index_select(0, kinds.order)
    rank = torch.arange(len(labels), device=labels.device) - kinds.offsets[kinds.segment]
    of_other = F.pad(kinds.counts.view(-1, 2).flip(1).flatten(), (0, 1))[kinds.segment]
    # Before the j-th hard pixel stand j others, before the j-th other j + 1 hard ones, if there.
    turn = rank + torch.minimum(rank + kinds.segment % 2, of_other)
    turn = turn.double() + random_keys[order]  # among equals, by lot
    turn = torch.where(kinds.segment < 2 * num_classes, turn, torch.inf)
    first = turn.topk(min(count, len(labels)), largest=False)
    pixel = order[first.indices]
    return pixel, torch.where(first.values.isfinite(), labels[pixel], IGNORED)


@torch.no_grad()
def choose_samples(
    anchors: Tensor,
    labels: Tensor,
    samples: Tensor,
    sample_labels: Tensor,
    itself: Tensor,
    num_classes: int,
    *,
    positives: int,
    negatives: int,
    hard: bool,
    random_keys: Tensor,
    most: int | None = None,
) -> Chosen:
    """Choose positives (of the anchor's class) and negatives (of other classes) of each anchor.

    ``hard``: half of them are the hardest, positives with the lowest and negatives with the highest
    cosine. The other half, or all, are drawn by lot: positives among the samples of the class,
    negatives among all samples, of which those of the anchor's class drop out. What is drawn and
    is one of the hardest already counts once; an anchor is no sample of itself.

    Args:
        anchors: unit vectors, (A, D).
        labels: (A,), `IGNORED` for an anchor that counts for nothing.
        samples: unit vectors, (S, D).
        sample_labels: (S,), `IGNORED` for an empty place.
        itself: (A,), which sample the anchor itself is.
        num_classes: C.
        positives, negatives: how many of each at most.
        lots: (S,) random numbers in [0, 1); the lowest are drawn.
        most: no class has more samples than that; where it is known, positives are looked for
            among so many instead of all.
    """
    size = len(samples)
    sizes = min(most or size, size), size
    hardest = [
        min(n // 2, s) if hard else 0 for n, s in zip((positives, negatives), sizes, strict=True)
    ]
    by_lot = [
        min(n - n // 2 if hard else n, s)
        for n, s in zip((positives, negatives), sizes, strict=True)
    ]
    order = torch.where(sample_labels < 0, 1.0, random_keys).argsort()
    groups = sort_by_segment(sample_labels.index_select(0, order), num_classes)
    grouped = order.index_select(0, groups.order)
    turn = torch.arange(sizes[0], device=labels.device)
    of_class = grouped[(groups.offsets[:-2, None] + turn).clamp_max(size - 1)]
    in_class = turn < groups.counts[:, None]
    pool = order[: by_lot[1]]
    pool_labels = sample_labels[pool]
    rows: list[tuple[Tensor, ...]] = []
    step = max(1, BLOCK // max(1, size))
    for block, own, me in zip(
        *(tensor.split(step) for tensor in (anchors, labels, itself)), strict=True
    ):
        products = block @ samples.t()
        same = of_class[own.clamp_min(0)]
        is_same = in_class[own.clamp_min(0)] & (same != me[:, None])
        of_same = products.gather(1, same)
        in_pool = (pool_labels != own[:, None]) & (pool_labels >= 0)
        of_pool = products[:, pool]
        other = (sample_labels != own[:, None]) & (sample_labels >= 0)
        far = of_same.masked_fill(~is_same, torch.inf).topk(hardest[0], largest=False)
        near = products.masked_fill_(~other, -torch.inf).topk(hardest[1])
        # The samples of a class stand in the order of their lots: the first are the drawn ones.
        drawn = slice(by_lot[0])
        is_drawn, of_drawn = is_same[:, drawn], of_same[:, drawn]
        if hardest[0]:
            is_drawn = is_drawn & (of_drawn > far.values.amax(1, keepdim=True))
        if hardest[1]:
            in_pool = in_pool & (of_pool < near.values.amin(1, keepdim=True))
        parts = (
            (same.gather(1, far.indices), far.values.isfinite(), far.values),
            (same[:, drawn], is_drawn, of_drawn),
            (near.indices, near.values.isfinite(), near.values),
            (pool.expand(len(block), -1), in_pool, of_pool),
        )
        columns, counts, values = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        rows.append((columns, counts & (own >= 0)[:, None], values))
    columns, counts, products = (torch.cat(each) for each in zip(*rows, strict=True))
    return Chosen(columns, counts, products, hardest[0] + by_lot[0])


def contrast_loss(anchors: Tensor, samples: Tensor, chosen: Chosen, temperature: float) -> Tensor:
    """``L_NCE``, the mean over anchors of the mean over their positives j of

    ``-log[exp(i·j/τ) / (exp(i·j/τ) + Σ_n exp(i·n/τ))]``.

    Anchors without a positive count for nothing; 0 where none has one. In a distributed run the
    mean is over the anchors of all processes, as in `protoseg.core.losses`.

    Args:
        anchors: (A, D), with a gradient.
        samples: (S, D), constants.
        chosen: of `choose_samples`.
        temperature: τ.
    """
    logits = torch.where(chosen.counts, _Products.apply(anchors, samples, chosen), 0) / temperature
    logits = torch.where(chosen.counts, logits, NOTHING)
    positive, negative = logits[:, : chosen.positives], logits[:, chosen.positives :]
    counts = chosen.counts[:, : chosen.positives]
    # -log[e^s / (e^s + e^n)] = log(1 + e^(n - s)).
    total = torch.logsumexp(negative, 1, keepdim=True)
    each = F.softplus(torch.where(counts, total - positive, 0)) * counts
    number = counts.sum(1)
    losses = each.sum(1) / number.clamp_min(1)
    return losses.sum() * world_size() / all_sum((number > 0).sum()).clamp_min(1)


class _Products(torch.autograd.Function):
    """The products ``i · j`` that were chosen, whose gradient reads the chosen samples alone.

    Kept as a matrix of all anchors and all samples they would be the largest thing in memory.
    """

    @staticmethod
    def forward(context: Any, anchors: Tensor, samples: Tensor, chosen: Chosen) -> Tensor:
        context.save_for_backward(samples, chosen.columns)
        context.dtype = anchors.dtype
        return chosen.products.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        samples, columns = context.saved_tensors
        found = F.embedding_bag(columns, samples, per_sample_weights=gradients[0], mode="sum")
        return found.to(context.dtype), None, None
