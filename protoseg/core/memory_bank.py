"""The memory bank of pixel contrast: per class a queue of pixels and one of regions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from protoseg.core.collective import all_gather
from protoseg.core.distances import normalise_vectors
from protoseg.core.losses import IGNORED
from protoseg.core.segments import is_inside, sort_by_segment


class ContrastMemory(nn.Module):
    """Embeddings of past batches; the oldest are overwritten first (ContrastiveSeg).

    Each image adds, for each of its classes, up to V random pixels and one region. A region is the
    L2-normalised mean of all pixels of the class. In a distributed run every process pushes the
    entries of all processes in rank order, so that each memory equals that of one process with the
    whole batch. The size is constant: ``4 · C · (Q_pixel + Q_region) · D`` bytes. The buffers carry
    no gradient.

    Buffers:
        pixels: (C, Q_pixel, D) float32.
        regions: (C, Q_region, D) float32.
        pixels_seen, regions_seen: (C,) int64, number of entries pushed so far. The next entry is
            written to slot ``seen % Q``.

    Args:
        num_classes: C.
        channels: D.
        pixel_queue: Q_pixel; 0 disables the queue.
        region_queue: Q_region; 0 disables the queue.
        pixels_per_image: V.
    """

    pixels: Tensor
    regions: Tensor
    pixels_seen: Tensor
    regions_seen: Tensor

    def __init__(
        self,
        num_classes: int,
        channels: int,
        *,
        pixel_queue: int,
        region_queue: int,
        pixels_per_image: int = 10,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pixels_per_image = pixels_per_image
        self.register_buffer("pixels", torch.zeros(num_classes, pixel_queue, channels))
        self.register_buffer("regions", torch.zeros(num_classes, region_queue, channels))
        self.register_buffer("pixels_seen", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("regions_seen", torch.zeros(num_classes, dtype=torch.long))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model, but stay float32 if the model is converted to half precision."""
        float32_queues = self.pixels, self.regions
        super()._apply(fn, recurse)
        if self.pixels.dtype in (torch.float16, torch.bfloat16):
            self.pixels, self.regions = (q.to(self.pixels.device) for q in float32_queues)
        return self

    @property
    def slots_per_class(self) -> int:
        """Q_pixel + Q_region."""
        return self.pixels.shape[1] + self.regions.shape[1]

    def collect_samples(self, *extra: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Copy all slots of both queues, with the class of each slot, `IGNORED` if it is empty.

        Args:
            extra: further rows (n, D) and their classes (n,), appended after the slots.

        Returns:
            (S, D) and (S,), with S = C·(Q_pixel + Q_region) + n.
        """
        rows, labels = [], []
        for queue, seen in ((self.pixels, self.pixels_seen), (self.regions, self.regions_seen)):
            is_filled = torch.arange(queue.shape[1], device=queue.device) < seen[:, None]
            classes = torch.arange(self.num_classes, device=queue.device)[:, None]
            rows.append(queue.flatten(0, 1))
            labels.append(torch.where(is_filled, classes, IGNORED).flatten())
        return (
            torch.cat([*rows, *(extra_rows for extra_rows, _ in extra)]),
            torch.cat([*labels, *(extra_labels for _, extra_labels in extra)]),
        )

    @torch.no_grad()
    def push_batch(
        self, embeddings: Tensor, labels: Tensor, images: int, random_keys: Tensor
    ) -> None:
        """Add the pixels and regions of a batch to the queues.

        Args:
            embeddings: unit vectors, ordered by image, (N, D).
            labels: (N,); values outside ``[0, C)`` are ignored.
            images: B, a divisor of N; the same in every process.
            random_keys: (N,) random numbers; per image and class the V lowest are chosen.
        """
        if not len(labels):
            return
        shape = images, self.num_classes
        rows = embeddings.detach().float()
        image = torch.arange(len(labels), device=labels.device) // (len(labels) // images)
        inside = is_inside(labels, self.num_classes)
        group = torch.where(inside, image * self.num_classes + labels, IGNORED)
        shuffled = random_keys.argsort()
        groups = sort_by_segment(group.index_select(0, shuffled), images * self.num_classes)
        groups = dataclasses.replace(groups, order=shuffled.index_select(0, groups.order))

        if self.pixels.shape[1]:
            turn = torch.arange(self.pixels_per_image, device=labels.device)
            position = (groups.offsets[:-2, None] + turn).clamp_max(len(labels) - 1)
            drawn = rows.index_select(0, groups.order[position].flatten())
            drawn = drawn.view(*shape, self.pixels_per_image, -1)
            exists = (turn < groups.counts[:, None]).view(*shape, -1)
            _write_entries(self.pixels, self.pixels_seen, _gather_by_class(drawn),
                           _gather_by_class(exists))  # fmt: skip
        if self.regions.shape[1]:
            means = normalise_vectors(groups.sum_rows(rows), "cosine").view(*shape, 1, -1)
            exists = (groups.counts > 0).view(*shape, 1)
            _write_entries(self.regions, self.regions_seen, _gather_by_class(means),
                           _gather_by_class(exists))  # fmt: skip


def _gather_by_class(entries: Tensor) -> Tensor:
    """Collect (B, C, V, ...) of all P processes as (C, P·B·V, ...), in rank order."""
    gathered = all_gather(entries).flatten(0, 1)
    return gathered.transpose(0, 1).flatten(1, 2)


def _write_entries(queue: Tensor, seen: Tensor, entries: Tensor, exists: Tensor) -> None:
    """Write the existing entries into the queue of each class, in place.

    If a class has more than Q entries, the last Q remain. Each slot is written exactly once, slots
    without a new entry with their old content. The result does not depend on the write order.

    Args:
        queue: (C, Q, D).
        seen: (C,), increased by the number of entries.
        entries: (C, E, D).
        exists: (C, E) bool.
    """
    num_classes, size, _ = queue.shape
    number = exists.sum(1)
    compact = torch.sort(exists.logical_not().to(torch.int8), dim=1, stable=True).indices
    turn = torch.arange(min(size, exists.shape[1]), device=queue.device)
    skipped = (number - size).clamp_min(0)[:, None]
    entry = compact.gather(1, (skipped + turn).clamp_max(exists.shape[1] - 1))
    first = torch.arange(num_classes, device=queue.device)[:, None]
    slot = (first * size + (seen[:, None] + skipped + turn) % size).flatten()
    is_new = (turn < number[:, None] - skipped).flatten()[:, None]
    flat = queue.view(num_classes * size, -1)
    new = entries.flatten(0, 1).index_select(0, (first * exists.shape[1] + entry).flatten())
    flat.index_copy_(0, slot, torch.where(is_new, new, flat.index_select(0, slot)))
    seen += number
