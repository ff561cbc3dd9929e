"""The memory of pixel contrast: a queue of pixels and one of regions a class (ContrastiveSeg)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from protoseg.core.collective import gather
from protoseg.core.distances import normalise
from protoseg.core.losses import IGNORED
from protoseg.core.segments import is_inside, sort_by_segment


class ContrastMemory(nn.Module):
    """Embeddings of past batches, oldest overwritten first; buffers, which hold no gradient.

    Each image hands over, for each of its classes, up to V of its pixels, drawn at random, and one
    region: the L2-normalised mean of all its pixels of the class. Of several processes all push
    what all of them have, in the order of ranks, so that each holds what one process with the
    whole batch would. Sizes never change: ``4 · C · (Q_pixel + Q_region) · D`` bytes.

    Buffers:
        pixels: (C, Q_pixel, D) float32.
        regions: (C, Q_region, D) float32.
        pixels_seen, regions_seen: (C,) int64, how many were ever pushed; slot ``seen % Q`` is next.

    Args:
        num_classes: C.
        channels: D.
        pixel_queue: Q_pixel; 0 keeps none.
        region_queue: Q_region; 0 keeps none.
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
        """Move with the model, but stay float32 in a half-precision one."""
        wide = self.pixels, self.regions
        super()._apply(fn, recurse)
        if self.pixels.dtype in (torch.float16, torch.bfloat16):
            self.pixels, self.regions = (queue.to(self.pixels.device) for queue in wide)
        return self

    @property
    def slots(self) -> int:
        """Q_pixel + Q_region."""
        return self.pixels.shape[1] + self.regions.shape[1]

    def samples(self, *more: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """A copy of every slot of both queues, and the class of each, `IGNORED` where it is empty.

        Args:
            more: further rows (n, D) and their classes (n,), put behind them.

        Returns:
            (S, D) and (S,), S = C·(Q_pixel + Q_region) + n.
        """
        rows, labels = [], []
        for queue, seen in ((self.pixels, self.pixels_seen), (self.regions, self.regions_seen)):
            filled = torch.arange(queue.shape[1], device=queue.device) < seen[:, None]
            classes = torch.arange(self.num_classes, device=queue.device)[:, None]
            rows.append(queue.flatten(0, 1))
            labels.append(torch.where(filled, classes, IGNORED).flatten())
        return (
            torch.cat([*rows, *(each for each, _ in more)]),
            torch.cat([*labels, *(each for _, each in more)]),
        )

    @torch.no_grad()
    def push(self, embeddings: Tensor, labels: Tensor, images: int, random_keys: Tensor) -> None:
        """Put a batch into the queues.

        Args:
            embeddings: unit vectors, image after image, (N, D).
            labels: (N,); outside ``[0, C)`` means ignored.
            images: B, which divides N; the same in every process.
            lots: (N,) random numbers; within an image and a class the V lowest are drawn.
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
            place = (groups.offsets[:-2, None] + turn).clamp_max(len(labels) - 1)
            drawn = rows.index_select(0, groups.order[place].flatten())
            drawn = drawn.view(*shape, self.pixels_per_image, -1)
            there = (turn < groups.counts[:, None]).view(*shape, -1)
            _push(self.pixels, self.pixels_seen, _by_class(drawn), _by_class(there))
        if self.regions.shape[1]:
            means = normalise(groups.sums_of(rows), "cosine").view(*shape, 1, -1)
            there = (groups.counts > 0).view(*shape, 1)
            _push(self.regions, self.regions_seen, _by_class(means), _by_class(there))


def _by_class(entries: Tensor) -> Tensor:
    """(B, C, V, ...) of every process as one (C, P·B·V, ...), in the order of ranks."""
    together = gather(entries).flatten(0, 1)
    return together.transpose(0, 1).flatten(1, 2)


def _push(queue: Tensor, seen: Tensor, entries: Tensor, there: Tensor) -> None:
    """Write entries (C, E, D), where ``there`` (C, E), into the queue (C, Q, D) of every class.

    A step with more than Q entries of a class leaves the last Q. Every row is written once, those
    that get nothing with what they hold: so the order of writing is no matter.
    """
    num_classes, size, _ = queue.shape
    number = there.sum(1)
    compact = torch.sort(there.logical_not().to(torch.int8), dim=1, stable=True).indices
    turn = torch.arange(min(size, there.shape[1]), device=queue.device)
    skipped = (number - size).clamp_min(0)[:, None]
    entry = compact.gather(1, (skipped + turn).clamp_max(there.shape[1] - 1))
    first = torch.arange(num_classes, device=queue.device)[:, None]
    slot = (first * size + (seen[:, None] + skipped + turn) % size).flatten()
    fresh = (turn < number[:, None] - skipped).flatten()[:, None]
    flat = queue.view(num_classes * size, -1)
    new = entries.flatten(0, 1).index_select(0, (first * there.shape[1] + entry).flatten())
    flat.index_copy_(0, slot, torch.where(fresh, new, flat.index_select(0, slot)))
    seen += number
