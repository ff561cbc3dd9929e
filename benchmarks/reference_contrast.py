"""The reference of pixel contrast, with loops over classes, anchors and images.

Plain torch, written from the description of the method, independently of `protoseg.core`.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -1


def choose_anchors(labels: Tensor, hard: Tensor, count: int, random_keys: Tensor) -> Tensor:
    """Alternate hard and easy pixels within each class, then alternate between classes; (A,)."""
    rows, turns = [], []
    for c in labels.unique().tolist():
        if c == IGNORED:
            continue
        groups = []
        for is_member in (hard, ~hard):
            own = ((labels == c) & is_member).nonzero()[:, 0]
            groups.append(own[random_keys[own].argsort()])
        shorter = min(map(len, groups))
        row = torch.stack([group[:shorter] for group in groups], 1).flatten()
        row = torch.cat([row, groups[0][shorter:], groups[1][shorter:]])[:count]
        rows.append(row)
        turns.append(torch.arange(len(row), device=labels.device) + random_keys[row].double())
    return torch.cat(rows)[torch.cat(turns).argsort()[:count]]


def compute_loss(
    anchors: Tensor,
    labels: Tensor,
    samples: Tensor,
    sample_labels: Tensor,
    anchor_samples: Tensor,
    random_keys: Tensor,
    positives: int,
    negatives: int,
    temperature: float,
) -> Tensor:
    """Compute ``L_NCE`` with half hard and half random samples, one anchor at a time."""
    order = random_keys.argsort()
    order = order[sample_labels[order] != IGNORED]
    pool = order[: negatives - negatives // 2]
    drawn = {
        c: order[sample_labels[order] == c][: positives - positives // 2]
        for c in labels.unique().tolist()
    }
    losses = []
    for anchor, label, own_sample in zip(
        anchors, labels.tolist(), anchor_samples.tolist(), strict=True
    ):
        products = samples @ anchor
        same = (sample_labels == label).nonzero()[:, 0]
        same = same[same != own_sample]
        other = ((sample_labels != label) & (sample_labels != IGNORED)).nonzero()[:, 0]
        far = same[products[same].argsort()[: positives // 2]]
        near = other[products[other].argsort(descending=True)[: negatives // 2]]
        positive = torch.cat([far, drawn[label][drawn[label] != own_sample]]).unique()
        negative = torch.cat([near, pool[sample_labels[pool] != label]]).unique()
        if not len(positive):
            continue
        logits = products / temperature
        rest = logits[negative].exp().sum()
        own = logits[positive].exp()
        losses.append(-(own / (own + rest)).log().mean())
    return torch.stack(losses).mean()


class Queues:
    """A queue of pixels and one of regions per class, written entry by entry."""

    def __init__(self, num_classes: int, pixels: Tensor, regions: Tensor, seen: list[Tensor]):
        self.num_classes = num_classes
        self.queues = [pixels.clone(), regions.clone()]
        self.seen = [each.tolist() for each in seen]

    def push_batch(
        self, embeddings: Tensor, labels: Tensor, images: int, random_keys: Tensor, per_image: int
    ) -> None:
        """Add a batch like `protoseg.core.memory_bank.ContrastMemory.push_batch`."""
        for rows, image_labels, image_keys in zip(
            *(each.chunk(images) for each in (embeddings, labels, random_keys)), strict=True
        ):
            for c in range(self.num_classes):
                mask = image_labels == c
                own = rows[mask]
                if not len(own):
                    continue
                drawn = own[image_keys[mask].argsort()[:per_image]]
                region = torch.nn.functional.normalize(own.mean(0), dim=0)
                for index, new in enumerate((drawn, region[None])):
                    queue, seen = self.queues[index], self.seen[index]
                    for row in new:
                        queue[c, seen[c] % queue.shape[1]] = row
                        seen[c] += 1
