"""The reference: ProtoSeg's training step as its paper writes it down, one class after the other.

Algorithm 1 in plain torch: a boolean mask for each class, three Sinkhorn-Knopp steps on its pixels,
argmax, one-hot, sums, the momentum update. Nothing of it comes from `protoseg.core`; it is what a
reader of the paper would write, neither slowed down nor tuned. The authors' released code does more
for each class: it divides in place, one sum at a time, and draws a hard Gumbel sample for each
pixel; `released` is its form.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.models import PrototypeHead

IGNORED = -1


def sinkhorn(similarities: Tensor, kappa: float = 0.05, steps: int = 3) -> Tensor:
    """Eq. 8-10 for one class: similarities (n, K) -> L with columns that sum to 1, (n, K)."""
    plan = torch.exp(similarities / kappa).t()
    num_prototypes, num_pixels = plan.shape
    plan = plan / plan.sum()
    for _ in range(steps):
        plan = plan / plan.sum(dim=1, keepdim=True) / num_prototypes
        plan = plan / plan.sum(dim=0, keepdim=True) / num_pixels
    return (plan * num_pixels).t()


def released(similarities: Tensor, kappa: float = 0.05, steps: int = 3) -> tuple[Tensor, Tensor]:
    """The same for one class as the released code does it: argmax of L, and a Gumbel sample of it.

    Returns:
        The prototype of each pixel, (n,), and one-hot the one that it updates, (n, K).
    """
    plan = torch.exp(similarities / kappa).t()
    num_prototypes, num_pixels = plan.shape
    plan /= plan.sum()
    for _ in range(steps):
        plan /= plan.sum(dim=1, keepdim=True)
        plan /= num_prototypes
        plan /= plan.sum(dim=0, keepdim=True)
        plan /= num_pixels
    plan *= num_pixels
    plan = plan.t()
    return plan.argmax(1), F.gumbel_softmax(plan, tau=0.5, hard=True)


def assign_released(own: Tensor, labels: Tensor, num_classes: int, kappa: float = 0.05) -> Tensor:
    """`assign_pixels` with the steps of `released`; its samples are drawn and dropped."""
    chosen = torch.full_like(labels, IGNORED)
    for c in range(num_classes):
        mask = labels == c
        pixels = own[mask]
        if len(pixels):
            chosen[mask] = released(pixels, kappa)[0]
    return chosen


def assign_pixels(own: Tensor, labels: Tensor, num_classes: int, kappa: float = 0.05) -> Tensor:
    """The prototype, 0 to K - 1, of each pixel, class after class.

    Args:
        own: similarities of each pixel to the prototypes of its own class, (N, K).
        labels: class of each pixel, (N,); `IGNORED` for none.
    """
    chosen = torch.full_like(labels, IGNORED)
    for c in range(num_classes):
        mask = labels == c
        pixels = own[mask]
        if len(pixels):
            chosen[mask] = sinkhorn(pixels, kappa).argmax(1)
    return chosen


def cluster_and_update(
    similarities: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    momentum: float = 0.999,
    kappa: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Algorithm 1: assign the pixels of each class, then move its prototypes (Eq. 14).

    Args:
        similarities: (N, C·K).
        embeddings: (N, D), unit vectors.
        labels: (N,), `IGNORED` for none.
        prototypes: (C, K, D).

    Returns:
        The column ``c·K + k`` of each pixel, (N,), and the new prototypes, (C, K, D).
    """
    num_classes, num_prototypes, _ = prototypes.shape
    per_class = similarities.unflatten(1, (num_classes, num_prototypes))
    target = torch.full_like(labels, IGNORED)
    after = prototypes.clone()
    for c in range(num_classes):
        mask = labels == c
        own = per_class[mask, c]
        if not len(own):
            continue
        chosen = sinkhorn(own, kappa).argmax(1)
        target[mask] = c * num_prototypes + chosen
        one_hot = F.one_hot(chosen, num_prototypes).to(embeddings.dtype)
        sums = one_hot.t() @ embeddings[mask]
        counts = one_hot.sum(0)
        means = F.normalize(sums, dim=-1)
        moved = F.normalize(momentum * prototypes[c] + (1 - momentum) * means, dim=-1)
        after[c] = torch.where((counts > 0)[:, None], moved, prototypes[c])
    return target, after


class LoopHead(PrototypeHead):
    """`PrototypeHead` whose training step is the textbook's; cosine distance, all pixels."""

    def losses(
        self, features: Tensor, batch_data_samples: list[Any]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As the class above it, each term by its own equation."""
        embeddings = self.embed_features(features)
        pixels = embeddings.flatten(0, 2)
        labels = self.labels(batch_data_samples, embeddings.shape[1:3])
        bank = self.bank
        similarities = pixels @ bank.prototypes.flatten(0, 1).t()
        scores = similarities.unflatten(1, (bank.num_classes, bank.num_prototypes)).amax(2)
        with torch.no_grad():
            target, after = cluster_and_update(
                similarities, pixels, labels, bank.prototypes, bank.momentum, bank.kappa
            )
            bank.prototypes = after
        contrast = F.cross_entropy(similarities / self.temperature, target, ignore_index=IGNORED)
        inside = target != IGNORED
        assigned = similarities[inside].gather(1, target[inside][:, None])
        compactness = (1 - assigned).square().mean()
        score_map = scores.unflatten(0, embeddings.shape[:3]).permute(0, 3, 1, 2)
        losses: dict[str, Tensor] = self.head.loss_by_feat(score_map, batch_data_samples)
        losses["loss_ppc"] = self.ppc_weight * contrast
        losses["loss_ppd"] = self.ppd_weight * compactness
        return losses, score_map
