"""The memory bank of pixel contrast: per class a queue of pixels and one of regions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Literal, Self

import torch
from torch import Tensor, nn

from protoseg.core.collective import all_gather
from protoseg.core.distances import normalise_vectors
from protoseg.core.losses import IGNORED
from protoseg.core.memory_bank_slips import (
    Slip,
    draw_from_image,
    subsample_labels,
    write_by_one,
)
from protoseg.core.segments import Segments, is_inside, sort_by_segment

Start = Literal["empty", "random"]


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
            written to slot ``seen % Q``. With the slip ``pointer_by_one`` the next slot itself.

    Args:
        num_classes: C.
        channels: D.
        pixel_queue: Q_pixel; 0 disables the queue.
        region_queue: Q_region; 0 disables the queue.
        pixels_per_image: V.
        start: ``empty``, or ``random`` for random unit vectors that count as entries at once.
        slips: see `protoseg.core.memory_bank_slips`.
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
        start: Start = "empty",
        slips: Collection[Slip] = (),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pixels_per_image = pixels_per_image
        self.start = start
        self.slips = frozenset(slips)
        for name, size in (("pixels", pixel_queue), ("regions", region_queue)):
            queue = torch.zeros(num_classes, size, channels)
            if start == "random":
                queue = normalise_vectors(torch.randn_like(queue), "cosine")
            if "class_zero_absent" in self.slips:
                queue[0] = 0
            self.register_buffer(name, queue)
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
        rows, labels = map(list, zip(*self.list_entries(), strict=True))
        return (
            torch.cat([*rows, *(extra_rows for extra_rows, _ in extra)]),
            torch.cat([*labels, *(extra_labels for _, extra_labels in extra)]),
        )

    def list_entries(self) -> list[tuple[Tensor, Tensor]]:
        """List the rows (C·Q, D) of each queue, as a view, and the class of each slot, (C·Q,)."""
        entries = []
        for queue, seen in ((self.pixels, self.pixels_seen), (self.regions, self.regions_seen)):
            is_filled = torch.arange(queue.shape[1], device=queue.device) < seen[:, None]
            if self.start == "random":
                is_filled = torch.ones_like(is_filled)
            if "class_zero_absent" in self.slips:
                is_filled[0] = True  # zero vectors that count as entries of class 0
            classes = torch.arange(self.num_classes, device=queue.device)[:, None]
            labels = torch.where(is_filled, classes, IGNORED).flatten()
            entries.append((queue.flatten(0, 1), labels))
        return entries

    @torch.no_grad()
    def push_batch(
        self,
        embeddings: Tensor,
        labels: Tensor,
        images: int,
        random_keys: Tensor,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Add the pixels and regions of a batch to the queues.

        Args:
            embeddings: unit vectors, ordered by image, (N, D).
            labels: (N,); values outside ``[0, C)`` are ignored.
            images: B, a divisor of N; the same in every process.
            random_keys: (N,) random numbers; per image and class the V lowest are chosen.
            size: (H, W) of the images; needed for the slip ``labels_at_half_size``.
        """
        if not len(labels):
            return
        if "labels_at_half_size" in self.slips:
            assert size is not None
            labels = subsample_labels(labels, images, size)
        if "class_zero_absent" in self.slips:
            labels = torch.where(labels == 0, IGNORED, labels)
        shape = images, self.num_classes
        rows = embeddings.detach().float()
        image = torch.arange(len(labels), device=labels.device) // (len(labels) // images)
        inside = is_inside(labels, self.num_classes)
        group = torch.where(inside, image * self.num_classes + labels, IGNORED)
        shuffled = random_keys.argsort()
        groups = sort_by_segment(group.index_select(0, shuffled), images * self.num_classes)
        groups = dataclasses.replace(groups, order=shuffled.index_select(0, groups.order))
        if self.pixels.shape[1]:
            self._push_pixels(rows, groups, images, random_keys)
        if self.regions.shape[1]:
            means = normalise_vectors(groups.sum_rows(rows), "cosine").view(*shape, 1, -1)
            exists = (groups.counts > 0).view(*shape, 1)
            _write_entries(self.regions, self.regions_seen, _gather_by_class(means).flatten(1, 2),
                           _gather_by_class(exists).flatten(1, 2))  # fmt: skip

    def _push_pixels(
        self, rows: Tensor, groups: Segments, images: int, random_keys: Tensor
    ) -> None:
        """Add up to V pixels of each class of each image; ``groups`` are (image, class) pairs."""
        shape = images, self.num_classes, self.pixels_per_image
        if "permutation_of_image" in self.slips:
            counts = groups.counts.view(shape[:2])
            pixel, exists = draw_from_image(counts, random_keys.view(images, -1), shape[2])
        else:
            turn = torch.arange(self.pixels_per_image, device=rows.device)
            position = (groups.offsets[:-2, None] + turn).clamp_max(len(rows) - 1)
            pixel = groups.order[position].view(shape)
            exists = (turn < groups.counts[:, None]).view(shape)
        drawn = rows.index_select(0, pixel.flatten()).view(*shape, -1)
        drawn, exists = _gather_by_class(drawn), _gather_by_class(exists)
        if "pointer_by_one" in self.slips:
            write_by_one(self.pixels, self.pixels_seen, drawn, exists)
        else:
            _write_entries(self.pixels, self.pixels_seen, drawn.flatten(1, 2), exists.flatten(1, 2))


def _gather_by_class(entries: Tensor) -> Tensor:
    """Collect (B, C, V, ...) of all P processes as (C, P·B, V, ...), in rank order."""
    gathered = all_gather(entries).flatten(0, 1)
    return gathered.transpose(0, 1)


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
