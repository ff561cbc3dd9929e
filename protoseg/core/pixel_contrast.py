"""Pixel contrast across images (ContrastiveSeg): anchors, samples and ``L_NCE``.

Anchors are pixels of the batch. Samples are the anchors of all processes and the embeddings in the
memory (`protoseg.core.memory_bank`). Samples are constants, except with ``sample_gradient``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.losses import IGNORED, MASKED_LOGIT
from protoseg.core.segments import is_inside, sort_by_segment

BLOCK = 2**24
"""Products of anchors and samples computed at once; the full matrix can be very large."""


@dataclass(frozen=True)
class ChosenSamples:
    """The samples of each anchor: first P columns of positives, then negatives."""

    columns: Tensor
    """(A, M) int64, indices of samples."""
    counts: Tensor
    """(A, M) bool, whether the sample is used."""
    products: Tensor
    """(A, M), ``i · j`` of anchor and sample, without a gradient."""
    positives: int
    """P."""


@torch.no_grad()
def choose_anchors(
    labels: Tensor, hard: Tensor, num_classes: int, count: int, random_keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose anchors evenly over classes, and evenly over hard and easy pixels of a class.

    The pixels of a class form a list in which hard and easy pixels alternate, each in random order.
    When one sort runs out, the rest of the other follows. Anchors are the first pixels of all
    lists, then the second ones, and so on.

    Args:
        labels: (N,); values outside ``[0, C)`` are ignored.
        hard: (N,) bool, for example whether the pixel is classified wrongly.
        num_classes: C.
        count: A; if there are fewer pixels, all are chosen.
        random_keys: (N,) random numbers in [0, 1).

    Returns:
        Pixel indices, (A,), and their labels, `IGNORED` for surplus entries.
    """
    inside = is_inside(labels, num_classes)
    group = torch.where(inside, 2 * labels + ~hard, IGNORED)
    shuffled = random_keys.argsort()
    groups = sort_by_segment(group.index_select(0, shuffled), 2 * num_classes)
    order = shuffled.index_select(0, groups.order)
    rank = torch.arange(len(labels), device=labels.device) - groups.offsets[groups.segment]
    other_count = F.pad(groups.counts.view(-1, 2).flip(1).flatten(), (0, 1))[groups.segment]
    # The j-th hard pixel follows j easy ones, the j-th easy pixel j + 1 hard ones, if they exist.
    turn = rank + torch.minimum(rank + groups.segment % 2, other_count)
    turn = turn.double() + random_keys[order]  # equal turns are ordered at random
    turn = torch.where(groups.segment < 2 * num_classes, turn, torch.inf)
    first = turn.topk(min(count, len(labels)), largest=False)
    pixel = order[first.indices]
    return pixel, torch.where(first.values.isfinite(), labels[pixel], IGNORED)


@torch.no_grad()
def choose_samples(
    anchors: Tensor,
    labels: Tensor,
    samples: Tensor,
    sample_labels: Tensor,
    anchor_samples: Tensor,
    num_classes: int,
    *,
    positives: int,
    negatives: int,
    hard: bool,
    random_keys: Tensor,
    max_per_class: int | None = None,
) -> ChosenSamples:
    """Choose positives (same class) and negatives (other classes) for each anchor.

    With ``hard``, half of them are the hardest: positives with the lowest and negatives with the
    highest cosine. The other half, or all without ``hard``, are random: positives from the samples
    of the class, negatives from all samples, where those of the anchor's class are dropped. A
    random sample that is also one of the hardest is used once. An anchor is never its own sample.

    Args:
        anchors: unit vectors, (A, D).
        labels: (A,), `IGNORED` for unused anchors.
        samples: unit vectors, (S, D).
        sample_labels: (S,), `IGNORED` for empty slots.
        anchor_samples: (A,), the index of each anchor among the samples.
        num_classes: C.
        positives: maximum number of positives per anchor.
        negatives: maximum number of negatives per anchor.
        hard: whether half of the samples are the hardest ones.
        random_keys: (S,) random numbers in [0, 1); the lowest are chosen.
        max_per_class: upper bound of samples per class, if known; it limits the search for
            positives.
    """
    size = len(samples)
    sizes = min(max_per_class or size, size), size
    hardest = [
        min(n // 2, s) if hard else 0 for n, s in zip((positives, negatives), sizes, strict=True)
    ]
    at_random = [
        min(n - n // 2 if hard else n, s)
        for n, s in zip((positives, negatives), sizes, strict=True)
    ]
    order = torch.where(sample_labels < 0, 1.0, random_keys).argsort()
    groups = sort_by_segment(sample_labels.index_select(0, order), num_classes)
    grouped = order.index_select(0, groups.order)
    turn = torch.arange(sizes[0], device=labels.device)
    of_class = grouped[(groups.offsets[:-2, None] + turn).clamp_max(size - 1)]
    in_class = turn < groups.counts[:, None]
    pool = order[: at_random[1]]
    pool_labels = sample_labels[pool]
    rows: list[tuple[Tensor, ...]] = []
    step = max(1, BLOCK // max(1, size))
    for block, block_labels, own_samples in zip(
        *(tensor.split(step) for tensor in (anchors, labels, anchor_samples)), strict=True
    ):
        products = block @ samples.t()
        same = of_class[block_labels.clamp_min(0)]
        is_same = in_class[block_labels.clamp_min(0)] & (same != own_samples[:, None])
        same_products = products.gather(1, same)
        in_pool = (pool_labels != block_labels[:, None]) & (pool_labels >= 0)
        pool_products = products[:, pool]
        other = (sample_labels != block_labels[:, None]) & (sample_labels >= 0)
        far = same_products.masked_fill(~is_same, torch.inf).topk(hardest[0], largest=False)
        near = products.masked_fill_(~other, -torch.inf).topk(hardest[1])
        # The samples of a class are sorted by random key, so the first ones are a random choice.
        drawn = slice(at_random[0])
        is_drawn, drawn_products = is_same[:, drawn], same_products[:, drawn]
        if hardest[0]:
            is_drawn = is_drawn & (drawn_products > far.values.amax(1, keepdim=True))
        if hardest[1]:
            in_pool = in_pool & (pool_products < near.values.amin(1, keepdim=True))
        parts = (
            (same.gather(1, far.indices), far.values.isfinite(), far.values),
            (same[:, drawn], is_drawn, drawn_products),
            (near.indices, near.values.isfinite(), near.values),
            (pool.expand(len(block), -1), in_pool, pool_products),
        )
        columns, counts, values = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        rows.append((columns, counts & (block_labels >= 0)[:, None], values))
    columns, counts, products = (torch.cat(each) for each in zip(*rows, strict=True))
    return ChosenSamples(columns, counts, products, hardest[0] + at_random[0])


def compute_contrast_loss(
    anchors: Tensor,
    samples: Tensor,
    chosen: ChosenSamples,
    temperature: float,
    *,
    sample_gradient: bool = False,
) -> Tensor:
    """Compute ``L_NCE``, the mean over anchors of the mean over their positives j of

    ``-log[exp(i·j/τ) / (exp(i·j/τ) + Σ_n exp(i·n/τ))]``.

    Anchors without a positive are ignored; the loss is 0 if no anchor has one. In a distributed run
    the mean is over the anchors of all processes, as in `protoseg.core.losses`.

    Args:
        anchors: (A, D), with a gradient.
        samples: (S, D).
        chosen: the result of `choose_samples`.
        temperature: τ.
        sample_gradient: whether samples get a gradient; otherwise they are constants.
    """
    samples = samples if sample_gradient else samples.detach()
    logits = torch.where(chosen.counts, _Products.apply(anchors, samples, chosen), 0) / temperature
    logits = torch.where(chosen.counts, logits, MASKED_LOGIT)
    positive, negative = logits[:, : chosen.positives], logits[:, chosen.positives :]
    counts = chosen.counts[:, : chosen.positives]
    # -log[e^s / (e^s + e^n)] = log(1 + e^(n - s)).
    total = torch.logsumexp(negative, 1, keepdim=True)
    terms = F.softplus(torch.where(counts, total - positive, 0)) * counts
    number = counts.sum(1)
    losses = terms.sum(1) / number.clamp_min(1)
    return losses.sum() * world_size() / all_sum((number > 0).sum()).clamp_min(1)


class _Products(torch.autograd.Function):
    """The products ``i · j`` of the chosen samples, with a gradient that reads only these samples.

    The matrix of all anchors and all samples would be the largest tensor in memory if it was saved.
    """

    @staticmethod
    def forward(context: Any, anchors: Tensor, samples: Tensor, chosen: ChosenSamples) -> Tensor:
        context.save_for_backward(anchors, samples, chosen.columns)
        context.dtype = anchors.dtype
        return chosen.products.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        anchors, samples, columns = context.saved_tensors
        gradient = F.embedding_bag(columns, samples, per_sample_weights=gradients[0], mode="sum")
        of_samples = None
        if context.needs_input_grad[1]:
            weights = samples.new_zeros(len(anchors), len(samples))
            of_samples = weights.scatter_add_(1, columns, gradients[0]).t() @ anchors
        return gradient.to(context.dtype), of_samples, None
