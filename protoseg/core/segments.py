"""A ragged batch sorted by class: sums over the pixels of a class become sums over neighbours.

The pixels of a class lie anywhere in a batch. One integer sort brings them together; after it a sum
over a class is a sum over a run of rows, which is read once, in order, without a loop over classes,
without waiting for the device to say how large they are, and without padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 256
"""Rows added up one after the other; longer runs are sums of such sums. In float32 one sum over a
million pixels would be off by percents, and on a GPU one thread would do it."""


@dataclass(frozen=True)
class Segments:
    """The rows of a batch sorted by segment.

    S segments, and behind them a rest of rows that belong to none. All tensors are int64.
    """

    order: Tensor
    """(N,), the row that stands at each place after sorting; rows of a segment keep their order."""
    segment: Tensor
    """(N,), the segment of each place, ascending; S for the rest."""
    offsets: Tensor
    """(S + 2,), the first place of each segment and of the rest, then N."""
    levels: tuple[Tensor, ...]
    """First places of what is summed up, level by level: rows to chunks, chunks to chunks of those
    while there are many, and at last chunks to segments, (S + 1,)."""

    @property
    def counts(self) -> Tensor:
        """Rows of each segment, (S,) int64."""
        return self.offsets[1:-1] - self.offsets[:-2]

    def sums(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum over the rows of each segment.

        Args:
            values: (N, D) float, its rows in sorted order.
            weights: (N,), what each row is multiplied with; 1 without it.

        Returns:
            (S, D), 0 for a segment without rows.
        """
        return self._sums(values, self._places, weights)

    def sums_of(self, rows: Tensor) -> Tensor:
        """Sum over the rows of each segment, as `sums`, of (N, D) ``rows`` in the batch's order."""
        return self._sums(rows, self.order, None)

    @property
    def _places(self) -> Tensor:
        return torch.arange(len(self.order), device=self.order.device)

    def _sums(self, values: Tensor, index: Tensor, weights: Tensor | None) -> Tensor:
        if not len(index):
            return values.new_zeros(len(self.offsets) - 2, values.shape[1])
        # embedding_bag is torch's sum over runs of rows: parallel, in order, the same bits always.
        for starts in self.levels:
            values = F.embedding_bag(index, values, starts, mode="sum", per_sample_weights=weights)
            index, weights = torch.arange(len(values), device=index.device), None
        return values[:-1]


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Sum over the rows of ``values`` (N, D), each times its weight (N,); exact as `Segments`."""
    index = torch.arange(len(values), device=values.device)
    if not len(index):
        return values.new_zeros(values.shape[1])
    # Not a product of matrices, which adds up a million small numbers one by one.
    parts = F.embedding_bag(index, values, index[::CHUNK], mode="sum", per_sample_weights=weights)
    return parts.sum(0)


def is_inside(labels: Tensor, number: int) -> Tensor:
    """Whether each label is one of ``range(number)``."""
    return (labels >= 0) & (labels < number)


def sort_by_segment(segment: Tensor, num_segments: int) -> Segments:
    """Sort rows by segment.

    Args:
        segment: (N,) int64; everything outside ``[0, S)`` goes to the end.
        num_segments: S.
    """
    key = torch.where(is_inside(segment, num_segments), segment, num_segments)
    # A short key is sorted in a third of the time.
    short = torch.int16 if num_segments <= torch.iinfo(torch.int16).max else torch.int32
    placed, order = torch.sort(key.to(short), stable=True)
    placed = placed.long()
    borders = torch.arange(num_segments + 2, device=segment.device)
    offsets = torch.searchsorted(placed, borders)
    levels, firsts, length = [], offsets[:-1], len(placed)
    while True:
        steps = torch.arange(0, length, CHUNK, device=segment.device)
        starts = torch.sort(torch.cat([firsts, steps])).values
        levels.append(starts)
        # Of several chunks at one place all but the last are empty: whose they are is no matter.
        firsts, length = torch.searchsorted(starts, firsts), len(starts)
        if len(placed) <= CHUNK ** (len(levels) + 1):
            return Segments(order, placed, offsets, (*levels, firsts))
