"""Sums over the pixels of each class, by sorting the rows of a ragged batch by class.

The pixels of a class are scattered over a batch. One integer sort makes them contiguous. A sum over
a class then reads contiguous rows once, without a loop over classes, without padding, and without
waiting for the device to report the class sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 256
"""Rows that are added sequentially; longer runs are sums of such sums. A sequential float32 sum
over a million pixels has an error of several percent, and on a GPU one thread would compute it."""


@dataclass(frozen=True)
class Segments:
    """The rows of a batch sorted by segment: S segments, then the rows that belong to none.

    All tensors are int64.
    """

    order: Tensor
    """(N,), row index at each sorted position; rows of a segment keep their order."""
    segment: Tensor
    """(N,), segment of each sorted position, ascending; S for rows without a segment."""
    offsets: Tensor
    """(S + 2,), first position of each segment, first position of the remaining rows, and N."""
    levels: tuple[Tensor, ...]
    """First positions of the sums at each level: rows to chunks, chunks to larger chunks while
    there are many, and finally chunks to segments, (S + 1,)."""

    @property
    def counts(self) -> Tensor:
        """Rows of each segment, (S,) int64."""
        return self.offsets[1:-1] - self.offsets[:-2]

    def sum_sorted_rows(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum rows in sorted order over each segment.

        Args:
            values: (N, D) float, rows in sorted order.
            weights: (N,), factor of each row; None means 1.

        Returns:
            (S, D); 0 for an empty segment.
        """
        return self._sum_levels(values, self._positions, weights)

    def sum_rows(self, rows: Tensor) -> Tensor:
        """Sum rows (N, D) in batch order over each segment, (S, D)."""
        return self._sum_levels(rows, self.order, None)

    @property
    def _positions(self) -> Tensor:
        return torch.arange(len(self.order), device=self.order.device)

    def _sum_levels(self, values: Tensor, index: Tensor, weights: Tensor | None) -> Tensor:
        if not len(index):
            return values.new_zeros(len(self.offsets) - 2, values.shape[1])
        # embedding_bag sums contiguous rows in order and in parallel; its result is deterministic.
        for starts in self.levels:
            values = F.embedding_bag(index, values, starts, mode="sum", per_sample_weights=weights)
            index, weights = torch.arange(len(values), device=index.device), None
        return values[:-1]


def sum_weighted_rows(values: Tensor, weights: Tensor) -> Tensor:
    """Sum rows (N, D) times weights (N,), with the precision of `Segments`; (D,)."""
    index = torch.arange(len(values), device=values.device)
    if not len(index):
        return values.new_zeros(values.shape[1])
    # A matrix product would add a million small numbers sequentially.
    parts = F.embedding_bag(index, values, index[::CHUNK], mode="sum", per_sample_weights=weights)
    return parts.sum(0)


def is_inside(labels: Tensor, number: int) -> Tensor:
    """Return whether each label is in ``range(number)``, a bool tensor of the same shape."""
    return (labels >= 0) & (labels < number)


def sort_by_segment(segment: Tensor, num_segments: int) -> Segments:
    """Sort rows by segment.

    Args:
        segment: (N,) int64; values outside ``[0, S)`` are sorted to the end.
        num_segments: S.
    """
    key = torch.where(is_inside(segment, num_segments), segment, num_segments)
    # Sorting 16-bit keys takes a third of the time.
    short = torch.int16 if num_segments <= torch.iinfo(torch.int16).max else torch.int32
    sorted_segments, order = torch.sort(key.to(short), stable=True)
    sorted_segments = sorted_segments.long()
    borders = torch.arange(num_segments + 2, device=segment.device)
    offsets = torch.searchsorted(sorted_segments, borders)
    levels, firsts, length = [], offsets[:-1], len(sorted_segments)
    while True:
        steps = torch.arange(0, length, CHUNK, device=segment.device)
        starts = torch.sort(torch.cat([firsts, steps])).values
        levels.append(starts)
        # If several chunks start at one position, all but the last are empty. It does not matter
        # which segment they belong to.
        firsts, length = torch.searchsorted(starts, firsts), len(starts)
        if len(sorted_segments) <= CHUNK ** (len(levels) + 1):
            return Segments(order, sorted_segments, offsets, (*levels, firsts))
