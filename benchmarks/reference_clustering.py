"""The reference of the clustering: Algorithm 1 of ProtoSeg with a loop over classes.

Plain torch: a boolean mask per class, three Sinkhorn-Knopp steps on its pixels, argmax, one-hot,
sums and momentum update. It is written from the paper, independently of `protoseg.core`, and
neither slowed down nor tuned. The authors' released code does more per class: separate in-place
divisions, and a hard Gumbel sample per pixel. `assign_class_released` has this form.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.models import PrototypeHead

IGNORED = -1


def run_sinkhorn(similarities: Tensor, kappa: float = 0.05, steps: int = 3) -> Tensor:
    """Solve Eq. 8-10 for one class: similarities (n, K) -> L with columns that sum to 1, (n, K)."""
    plan = torch.exp(similarities / kappa).t()
    num_prototypes, num_pixels = plan.shape
    plan = plan / plan.sum()
    for _ in range(steps):
        plan = plan / plan.sum(dim=1, keepdim=True) / num_prototypes
        plan = plan / plan.sum(dim=0, keepdim=True) / num_pixels
    return (plan * num_pixels).t()


def assign_class_released(
    similarities: Tensor, kappa: float = 0.05, steps: int = 3
) -> tuple[Tensor, Tensor]:
    """Assign the pixels of one class like the released code.

    Returns:
        The argmax of L, (n,), and a one-hot Gumbel sample, (n, K).
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
    """Run `assign_pixels` with `assign_class_released`; its Gumbel samples are not used."""
    chosen = torch.full_like(labels, IGNORED)
    for c in range(num_classes):
        mask = labels == c
        pixels = own[mask]
        if len(pixels):
            chosen[mask] = assign_class_released(pixels, kappa)[0]
    return chosen


def assign_pixels(own: Tensor, labels: Tensor, num_classes: int, kappa: float = 0.05) -> Tensor:
    """Assign each pixel to a prototype, 0 to K - 1, with a loop over classes.

    Args:
        own: similarities of each pixel to the prototypes of its class, (N, K).
        labels: class of each pixel, (N,), or `IGNORED`.
        num_classes: C.
        kappa: κ of Eq. 9.
    """
    chosen = torch.full_like(labels, IGNORED)
    for c in range(num_classes):
        mask = labels == c
        pixels = own[mask]
        if len(pixels):
            chosen[mask] = run_sinkhorn(pixels, kappa).argmax(1)
    return chosen


def assign_and_update(
    similarities: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    momentum: float = 0.999,
    kappa: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Run Algorithm 1: assign the pixels of each class, then update its prototypes (Eq. 14).

    Args:
        similarities: (N, C·K).
        embeddings: (N, D), unit vectors.
        labels: (N,), or `IGNORED`.
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
        chosen = run_sinkhorn(own, kappa).argmax(1)
        target[mask] = c * num_prototypes + chosen
        one_hot = F.one_hot(chosen, num_prototypes).to(embeddings.dtype)
        sums = one_hot.t() @ embeddings[mask]
        counts = one_hot.sum(0)
        means = F.normalize(sums, dim=-1)
        moved = F.normalize(momentum * prototypes[c] + (1 - momentum) * means, dim=-1)
        after[c] = torch.where((counts > 0)[:, None], moved, prototypes[c])
    return target, after


class LoopHead(PrototypeHead):
    """`PrototypeHead` with the reference training step; cosine distance, all pixels update."""

    def losses(
        self, features: Tensor, batch_data_samples: list[Any]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute each loss with separate torch operations."""
        embeddings = self.embed_features(features)
        pixels = embeddings.flatten(0, 2)
        labels = self.labels(batch_data_samples, embeddings.shape[1:3])
        bank = self.bank
        similarities = pixels @ bank.prototypes.flatten(0, 1).t()
        scores = similarities.unflatten(1, (bank.num_classes, bank.num_prototypes)).amax(2)
        with torch.no_grad():
            target, after = assign_and_update(
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
