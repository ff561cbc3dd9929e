"""The reference for pixel contrast: what a reader of its description would write, with loops.

Anchors and samples one class after the other, the loss one anchor after the other, the queues one
image and one class after the other. Plain torch; nothing of it comes from `protoseg.core`.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -1


def choose_anchors(labels: Tensor, hard: Tensor, count: int, random_keys: Tensor) -> Tensor:
    """Hard pixels and others in turns within a class, then the classes in turns; (A,)."""
    rows, turns = [], []
    for c in labels.unique().tolist():
        if c == IGNORED:
            continue
        kinds = []
        for kind in (hard, ~hard):
            own = ((labels == c) & kind).nonzero()[:, 0]
            kinds.append(own[random_keys[own].argsort()])
        both = min(map(len, kinds))
        row = torch.stack([kind[:both] for kind in kinds], 1).flatten()
        row = torch.cat([row, kinds[0][both:], kinds[1][both:]])[:count]
        rows.append(row)
        turns.append(torch.arange(len(row), device=labels.device) + random_keys[row].double())
    return torch.cat(rows)[torch.cat(turns).argsort()[:count]]


def loss(
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
    """``L_NCE`` with half of the samples by hardness and half by lot, one anchor at a time."""
    order = random_keys.argsort()
    order = order[sample_labels[order] != IGNORED]
    pool = order[: negatives - negatives // 2]
    drawn = {
        c: order[sample_labels[order] == c][: positives - positives // 2]
        for c in labels.unique().tolist()
    }
    losses = []
    for anchor, label, me in zip(anchors, labels.tolist(), anchor_samples.tolist(), strict=True):
        products = samples @ anchor
        same = (sample_labels == label).nonzero()[:, 0]
        same = same[same != me]
        other = ((sample_labels != label) & (sample_labels != IGNORED)).nonzero()[:, 0]
        far = same[products[same].argsort()[: positives // 2]]
        near = other[products[other].argsort(descending=True)[: negatives // 2]]
        positive = torch.cat([far, drawn[label][drawn[label] != me]]).unique()
        negative = torch.cat([near, pool[sample_labels[pool] != label]]).unique()
        if not len(positive):
            continue
        logits = products / temperature
        rest = logits[negative].exp().sum()
        own = logits[positive].exp()
        losses.append(-(own / (own + rest)).log().mean())
    return torch.stack(losses).mean()


class Queues:
    """A queue of pixels and one of regions for each class, written entry by entry."""

    def __init__(self, num_classes: int, pixels: Tensor, regions: Tensor, seen: list[Tensor]):
        self.num_classes = num_classes
        self.queues = [pixels.clone(), regions.clone()]
        self.seen = [each.tolist() for each in seen]

    def push_batch(
        self, embeddings: Tensor, labels: Tensor, images: int, random_keys: Tensor, per_image: int
    ) -> None:
        """As `protoseg.core.memory_bank.ContrastMemory.push_batch`."""
        for rows, of, lot in zip(
            *(each.chunk(images) for each in (embeddings, labels, random_keys)), strict=True
        ):
            for c in range(self.num_classes):
                mask = of == c
                own = rows[mask]
                if not len(own):
                    continue
                drawn = own[lot[mask].argsort()[:per_image]]
                region = torch.nn.functional.normalize(own.mean(0), dim=0)
                for kind, new in enumerate((drawn, region[None])):
                    queue, seen = self.queues[kind], self.seen[kind]
                    for row in new:
                        queue[c, seen[c] % queue.shape[1]] = row
                        seen[c] += 1
