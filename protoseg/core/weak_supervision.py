"""Weak supervision by pixel-to-prototype contrast: from class activation maps to its losses.

Class 0 is the background, of which an image-level label says nothing. The maps and everything that
is made of them (labels, prototypes, choices) are constants; gradients reach embeddings alone.

In a distributed run prototypes are those of the whole batch, and means are over the pixels of all
processes; negatives are drawn and pixels sampled by each process among its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.collective import all_sum, gather, world_size
from protoseg.core.losses import IGNORED
from protoseg.core.segments import is_inside, sort_by_segment

NOTHING = -1e30
"""The logit of a prototype that is left out; an infinity would make gradients of NaN."""


@dataclass(frozen=True)
class View:
    """The pixels of one view of a batch. Two views that are set against each other share a grid."""

    embeddings: Tensor
    """v, unit vectors, (N, D)."""
    confidences: Tensor
    """m, (N, C) in [0, 1], 0 where a pixel is ignored."""
    labels: Tensor
    """y, (N,), `IGNORED` for pixels that count for nothing."""


@dataclass(frozen=True)
class Prototypes:
    """One prototype a class."""

    vectors: Tensor
    """p, (C, D)."""
    exists: Tensor
    """(C,) bool, whether the batch has a pixel of the class with any confidence."""


def classification_loss(scores: Tensor, present: Tensor) -> Tensor:
    """``L_cls``: multi-label soft margin, the mean binary cross-entropy over images and classes.

    Args:
        scores: logits of the classes but the background, (B, C - 1).
        present: image-level labels, (B, C - 1) bool.
    """
    return F.binary_cross_entropy_with_logits(scores.float(), present.float())


@torch.no_grad()
def normalise_maps(activations: Tensor, present: Tensor) -> Tensor:
    """Class activation maps in [0, 1]: ReLU, divided by the maximum of the class in the image.

    Args:
        activations: (B, C - 1, H, W).
        present: image-level labels, (B, C - 1) bool; the map of any other class is 0.

    Returns:
        (B, C - 1, H, W); 0 where a class has no positive activation.
    """
    maps = torch.where(present[:, :, None, None], activations.float().relu(), 0)
    highest = maps.amax((2, 3), keepdim=True)
    return maps / torch.where(highest > 0, highest, 1)


@torch.no_grad()
def with_background(maps: Tensor) -> Tensor:
    """Confidences of all classes, (B, C, H, W): the background has ``1 - max_c m_c``.

    An assumption: no source at hand says how sure a pixel of the background is.
    """
    return torch.cat([1 - maps.amax(1, keepdim=True), maps], 1)


@torch.no_grad()
def pseudo_labels(maps: Tensor, threshold: float) -> Tensor:
    """The class with the highest map, or the background where none reaches the threshold.

    Args:
        maps: (B, C - 1, H, W) of `normalise_maps`.
        threshold: in [0, 1]; where no map is above 0 it is the background in any case.

    Returns:
        (B, H, W) int64 in [0, C).
    """
    highest, label = maps.max(1)
    return torch.where((highest > 0) & (highest >= threshold), label + 1, 0)


@torch.no_grad()
def estimate_prototypes(
    embeddings: Tensor, confidences: Tensor, top: int, random_keys: Tensor, *, unit: bool = True
) -> Prototypes:
    """``p_c = Σ m_{c,i} v_i / Σ m_{c,i}`` over the K pixels most confident of class c.

    The pixels are those of the whole batch; among equally confident ones the lots decide.

    Args:
        embeddings: (N, D).
        confidences: (N, C).
        top: K.
        lots: (N,) random numbers in [0, 1).
        unit: divide each prototype by its length.
    """
    shuffled = random_keys.argsort()
    values, places = confidences[shuffled].T.sort(dim=1, descending=True, stable=True)
    values, chosen = values[:, :top], embeddings.detach()[shuffled[places[:, :top]]]
    if world_size() > 1:
        values = gather(values).movedim(0, 1).flatten(1, 2)
        chosen = gather(chosen).movedim(0, 1).flatten(1, 2)
        values, places = values.sort(dim=1, descending=True, stable=True)
        values, places = values[:, :top], places[:, :top, None].expand(-1, -1, chosen.shape[2])
        chosen = chosen.gather(1, places)
    total = values.sum(1)
    exists = total > 0
    vectors = (values[..., None] * chosen).sum(1) / torch.where(exists, total, 1)[:, None]
    return Prototypes(F.normalize(vectors, dim=1) if unit else vectors, exists)


def contrast(
    embeddings: Tensor,
    labels: Tensor,
    prototypes: Prototypes,
    temperature: float,
    *,
    negatives: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """The mean over pixels of ``F(v; y; P) = -log softmax over P of (v·p / τ), at p_y``.

    Pixels that are ignored, or whose class has no prototype, count for nothing; 0 without any.

    Args:
        embeddings: (N, D).
        labels: (N,).
        prototypes: P.
        temperature: τ.
        negatives: (N, C) bool, prototypes a pixel is set against; all others without it.
        weights: (N,), how often each pixel counts; once without it.
    """
    logits = embeddings.float() @ prototypes.vectors.T.float() / temperature
    column = labels.clamp_min(0)[:, None]
    allowed = prototypes.exists.expand_as(logits)
    if negatives is not None:
        allowed = (allowed & negatives).scatter(1, column, True)
    counts = (labels != IGNORED) & prototypes.exists[column.squeeze(1)]
    each = (
        torch.logsumexp(torch.where(allowed, logits, NOTHING), 1) - logits.gather(1, column)[:, 0]
    )
    weight = counts.to(each.dtype) if weights is None else counts * weights
    total = (torch.where(counts, each, 0) * weight).sum() * world_size()
    return total / all_sum(weight.sum()).clamp_min(1)


@torch.no_grad()
def mine_prototypes(
    view: View,
    prototypes: Prototypes,
    random_keys: Tensor,
    *,
    hardest: float = 0.6,
    drawn: float = 0.5,
) -> Tensor:
    """Semi-hard negatives of each pixel: of the hardest prototypes, some drawn by lot.

    Of n negative prototypes the h = round(``hardest`` · n) with the highest ``v·p`` are kept, and
    round(``drawn`` · h) of them drawn; at least one each, halves rounded up.

    Args:
        view: its embeddings and labels.
        prototypes: P.
        lots: (N, C) random numbers in [0, 1); the lowest are drawn.

    Returns:
        (N, C) bool.
    """
    similarities = view.embeddings.float() @ prototypes.vectors.T.float()
    negative = prototypes.exists.expand_as(similarities)
    negative = negative.scatter(1, view.labels.clamp_min(0)[:, None], False)
    number = negative.sum(1, keepdim=True).double()
    kept = (number * hardest + 0.5).floor().clamp_min(1)
    hard = negative & (_ranks(torch.where(negative, -similarities, torch.inf)) < kept)
    taken = (kept * drawn + 0.5).floor().clamp_min(1)
    return hard & (_ranks(torch.where(hard, random_keys, torch.inf)) < taken)


def _ranks(values: Tensor) -> Tensor:
    """The place of each value in its row from the smallest, (N, C)."""
    return values.argsort(dim=1, stable=True).argsort(dim=1)


@torch.no_grad()
def sample_pixels(view: View, prototypes: Prototypes, random_keys: Tensor) -> Tensor:
    """Hard pixel sampling: of each class half drawn by lot, half the farthest from their prototype.

    Of n pixels of a class the n // 2 with the lowest ``v·p_y`` are taken, and n - n // 2 drawn from
    all n, so that a pixel may count twice (as in the authors' code).

    Args:
        view: its embeddings and labels.
        prototypes: P.
        lots: (N,) random numbers in [0, 1); the lowest are drawn.

    Returns:
        How often each pixel counts: 0, 1 or 2, (N,) float.
    """
    own = (view.embeddings.float() * prototypes.vectors[view.labels.clamp_min(0)].float()).sum(1)
    half = 0.5  # of the pixels of a class, rounded down
    return _first(own, view.labels, len(prototypes.exists), half) + _first(
        random_keys, view.labels, len(prototypes.exists), 1 - half, up=True
    )


def _first(key: Tensor, labels: Tensor, classes: int, part: float, up: bool = False) -> Tensor:
    """1 for the pixels of each class with the lowest keys, ``part`` of them, (N,) float."""
    order = key.argsort(stable=True)
    groups = sort_by_segment(labels[order], classes)
    rank = torch.arange(len(key), device=key.device) - groups.offsets[groups.segment]
    counts = F.pad(groups.counts, (0, 1))[groups.segment] * part
    taken = rank < (counts.ceil() if up else counts.floor())
    taken &= is_inside(groups.segment, classes)
    return torch.zeros(len(key), device=key.device).index_put_(
        (order[groups.order],), taken.float()
    )


def cross_prototype_loss(view: View, others: Prototypes, temperature: float) -> Tensor:
    """``L_cp``: pixels and labels of one view, prototypes of the other."""
    return contrast(view.embeddings, view.labels, others, temperature)


def cross_cam_loss(view: View, own: Prototypes, other: View, temperature: float) -> Tensor:
    """``L_cc``: pixels and prototypes of one view, labels of the other."""
    return contrast(view.embeddings, other.labels, own, temperature)


def intra_view_loss(
    view: View,
    own: Prototypes,
    temperature: float,
    *,
    negatives: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """``L_intra``: all of one view, with the choices of `mine_prototypes` and `sample_pixels`."""
    return contrast(
        view.embeddings, view.labels, own, temperature, negatives=negatives, weights=weights
    )
