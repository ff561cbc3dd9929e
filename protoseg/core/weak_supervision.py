"""Weak supervision with class activation maps and pixel-to-prototype contrast.

Class 0 is the background; image-level labels do not cover it. Maps and everything computed from
them (labels, prototypes, selections) are constants. Gradients reach the embeddings only.

In a distributed run prototypes and means are over the pixels of all processes. Each process selects
negatives and samples pixels from its own part of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.collective import all_gather, all_sum, world_size
from protoseg.core.losses import IGNORED, MASKED_LOGIT
from protoseg.core.segments import is_inside, sort_by_segment


@dataclass(frozen=True)
class View:
    """The pixels of one view of a batch. Views that are compared have the same grid."""

    embeddings: Tensor
    """v, unit vectors, (N, D)."""
    confidences: Tensor
    """m, (N, C) in [0, 1]; 0 for ignored pixels."""
    labels: Tensor
    """y, (N,), `IGNORED` for ignored pixels."""


@dataclass(frozen=True)
class Prototypes:
    """One prototype per class."""

    vectors: Tensor
    """p, (C, D)."""
    exists: Tensor
    """(C,) bool, whether the batch has a pixel with positive confidence for the class."""


def compute_classification_loss(scores: Tensor, present: Tensor) -> Tensor:
    """Compute ``L_cls``, the mean binary cross-entropy over images and classes.

    Args:
        scores: logits of all classes except the background, (B, C - 1).
        present: image-level labels, (B, C - 1) bool.
    """
    return F.binary_cross_entropy_with_logits(scores.float(), present.float())


@torch.no_grad()
def normalise_maps(activations: Tensor, present: Tensor) -> Tensor:
    """Scale class activation maps to [0, 1]: ReLU, divided by the maximum per image and class.

    Args:
        activations: (B, C - 1, H, W).
        present: image-level labels, (B, C - 1) bool; maps of absent classes are set to 0.

    Returns:
        (B, C - 1, H, W); 0 if a class has no positive activation.
    """
    maps = torch.where(present[:, :, None, None], activations.float().relu(), 0)
    highest = maps.amax((2, 3), keepdim=True)
    return maps / torch.where(highest > 0, highest, 1)


@torch.no_grad()
def add_background(maps: Tensor) -> Tensor:
    """Add the background confidence ``1 - max_c m_c``; (B, C, H, W).

    This formula is an assumption: our sources do not define the confidence of the background.
    """
    return torch.cat([1 - maps.amax(1, keepdim=True), maps], 1)


@torch.no_grad()
def make_pseudo_labels(maps: Tensor, threshold: float) -> Tensor:
    """Choose the class with the highest map, or the background if no map reaches the threshold.

    Args:
        maps: (B, C - 1, H, W) from `normalise_maps`.
        threshold: in [0, 1]; pixels without a positive map are always background.

    Returns:
        (B, H, W) int64 in [0, C).
    """
    highest, label = maps.max(1)
    return torch.where((highest > 0) & (highest >= threshold), label + 1, 0)


@torch.no_grad()
def estimate_prototypes(
    embeddings: Tensor, confidences: Tensor, top: int, random_keys: Tensor, *, unit: bool = True
) -> Prototypes:
    """Compute ``p_c = Σ m_{c,i} v_i / Σ m_{c,i}`` over the K most confident pixels of class c.

    The pixels are those of the whole batch. Ties are broken at random.

    Args:
        embeddings: (N, D).
        confidences: (N, C).
        top: K.
        random_keys: (N,) random numbers in [0, 1).
        unit: whether prototypes are L2-normalised.
    """
    shuffled = random_keys.argsort()
    values, positions = confidences[shuffled].T.sort(dim=1, descending=True, stable=True)
    values, chosen = values[:, :top], embeddings.detach()[shuffled[positions[:, :top]]]
    if world_size() > 1:
        values = all_gather(values).movedim(0, 1).flatten(1, 2)
        chosen = all_gather(chosen).movedim(0, 1).flatten(1, 2)
        values, positions = values.sort(dim=1, descending=True, stable=True)
        columns = positions[:, :top, None].expand(-1, -1, chosen.shape[2])
        values, chosen = values[:, :top], chosen.gather(1, columns)
    total = values.sum(1)
    exists = total > 0
    vectors = (values[..., None] * chosen).sum(1) / torch.where(exists, total, 1)[:, None]
    return Prototypes(F.normalize(vectors, dim=1) if unit else vectors, exists)


def compute_contrast(
    embeddings: Tensor,
    labels: Tensor,
    prototypes: Prototypes,
    temperature: float,
    *,
    negatives: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the mean over pixels of ``F(v; y; P) = -log softmax over P of (v·p / τ), at p_y``.

    Ignored pixels and pixels whose class has no prototype are left out. The loss is 0 if no pixel
    remains.

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
    if negatives is not None:
        allowed = (allowed & negatives).scatter(1, column, True)
    each = torch.logsumexp(torch.where(allowed, logits, MASKED_LOGIT), 1) - own[:, 0]
    weight = counts.to(each.dtype) if weights is None else counts * weights
    total = (torch.where(counts, each, 0) * weight).sum() * world_size()
    return total / all_sum(weight.sum()).clamp_min(1)


def compare_with_prototypes(
    embeddings: Tensor, labels: Tensor, prototypes: Prototypes, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``v·p / τ`` of each pixel and prototype.

    Args:
        embeddings: (N, D).
        labels: (N,).
        prototypes: P.
        temperature: τ.

    Returns:
        The values, (N, C) float32; the column of each pixel's own class, 0 for ignored pixels,
        (N, 1); the values there, (N, 1); whether a pixel has a label whose prototype exists, (N,).
    """
    logits = embeddings.float() @ prototypes.vectors.T.float() / temperature
    column = labels.clamp_min(0)[:, None]
    counts = (labels != IGNORED) & prototypes.exists[column[:, 0]]
    return logits, column, logits.gather(1, column), counts


@torch.no_grad()
def mine_prototypes(
    view: View,
    prototypes: Prototypes,
    random_keys: Tensor,
    *,
    hardest: float = 0.6,
    drawn: float = 0.5,
) -> Tensor:
    """Choose semi-hard negatives of each pixel: a random part of the hardest prototypes.

    Of n negative prototypes the h = round(``hardest`` · n) with the highest ``v·p`` are kept, and
    round(``drawn`` · h) of them are drawn. Both numbers are at least 1; halves are rounded up.

    Args:
        view: embeddings and labels.
        prototypes: P.
        random_keys: (N, C) random numbers in [0, 1); the lowest are drawn.
        hardest: share of negatives that is kept.
        drawn: share of kept negatives that is drawn.

    Returns:
        (N, C) bool.
    """
    similarities = view.embeddings.float() @ prototypes.vectors.T.float()
    negative = prototypes.exists.expand_as(similarities)
    negative = negative.scatter(1, view.labels.clamp_min(0)[:, None], False)
    number = negative.sum(1, keepdim=True).double()
    kept = (number * hardest + 0.5).floor().clamp_min(1)
    hard = negative & (_rank_values(torch.where(negative, -similarities, torch.inf)) < kept)
    taken = (kept * drawn + 0.5).floor().clamp_min(1)
    return hard & (_rank_values(torch.where(hard, random_keys, torch.inf)) < taken)


def _rank_values(values: Tensor) -> Tensor:
    """Compute the rank of each value in its row, 0 for the smallest, (N, C)."""
    return values.argsort(dim=1, stable=True).argsort(dim=1)


@torch.no_grad()
def sample_pixels(view: View, prototypes: Prototypes, random_keys: Tensor) -> Tensor:
    """Sample pixels of each class: half at random, half those farthest from their prototype.

    Of n pixels of a class the n // 2 with the lowest ``v·p_y`` are taken, and n - n // 2 are drawn
    from all n. As in the authors' code, a pixel can be sampled twice.

    Args:
        view: embeddings and labels.
        prototypes: P.
        random_keys: (N,) random numbers in [0, 1); the lowest are drawn.

    Returns:
        Weight of each pixel: 0, 1 or 2, (N,) float.
    """
    own = (view.embeddings.float() * prototypes.vectors[view.labels.clamp_min(0)].float()).sum(1)
    half = 0.5  # of the pixels of a class, rounded down
    return _select_lowest(own, view.labels, len(prototypes.exists), half) + _select_lowest(
        random_keys, view.labels, len(prototypes.exists), 1 - half, up=True
    )


def _select_lowest(
    key: Tensor, labels: Tensor, classes: int, part: float, up: bool = False
) -> Tensor:
    """Return 1 for the share ``part`` of each class with the lowest keys, else 0; (N,) float."""
    order = key.argsort(stable=True)
    groups = sort_by_segment(labels[order], classes)
    rank = torch.arange(len(key), device=key.device) - groups.offsets[groups.segment]
    counts = F.pad(groups.counts, (0, 1))[groups.segment] * part
    taken = rank < (counts.ceil() if up else counts.floor())
    taken &= is_inside(groups.segment, classes)
    return torch.zeros(len(key), device=key.device).index_put_(
        (order[groups.order],), taken.float()
    )


def compute_cross_prototype_loss(view: View, others: Prototypes, temperature: float) -> Tensor:
    """Compute ``L_cp``: pixels and labels of one view, prototypes of the other."""
    return compute_contrast(view.embeddings, view.labels, others, temperature)


def compute_cross_cam_loss(view: View, own: Prototypes, other: View, temperature: float) -> Tensor:
    """Compute ``L_cc``: pixels and prototypes of one view, labels of the other."""
    return compute_contrast(view.embeddings, other.labels, own, temperature)


def compute_intra_view_loss(
    view: View,
    own: Prototypes,
    temperature: float,
    *,
    negatives: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute ``L_intra`` of one view.

    Args:
        view: pixels and labels.
        own: prototypes of the view.
        temperature: τ.
        negatives: the result of `mine_prototypes`.
        weights: the result of `sample_pixels`.
    """
    return compute_contrast(
        view.embeddings, view.labels, own, temperature, negatives=negatives, weights=weights
    )
