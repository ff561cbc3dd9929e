"""Class scores of a large image in bands of rows, so that C × H × W numbers are never held.

The scores of a sliding window equal those of mmseg's ``slide_inference``: the same windows are
added in the same order. Where the network sees another size than the image has, the resize of
bands rounds in another order than that of the whole map, which changes the last bits only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Encode = Callable[[Tensor], Tensor]
"""Raw pixels of a window, (3, h, w) uint8 -> its class scores, (C, h, w)."""


class ScoreRows(Protocol):
    """Rows of class scores, read from top to bottom."""

    height: int
    width: int

    def read_rows(self, first: int, last: int) -> Tensor:
        """The scores of the rows from ``first`` to before ``last``, (C, rows, W).

        ``first`` never decreases: earlier rows are forgotten.
        """
        ...


class WholeRows:
    """Rows of a score map that is in memory, (C, h, w)."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores
        self.height, self.width = scores.shape[1:]

    def read_rows(self, first: int, last: int) -> Tensor:
        """See `ScoreRows.read_rows`."""
        return self.scores[:, first:last]


class WindowRows:
    """Rows of the scores of a sliding window, averaged where windows overlap.

    Args:
        pixels: (3, h, w) uint8.
        encode: computes the scores of one window.
        window: (height, width).
        stride: (height, width).
    """

    def __init__(
        self, pixels: Tensor, encode: Encode, window: Sequence[int], stride: Sequence[int]
    ) -> None:
        self.pixels = pixels
        self.encode = encode
        self.window, self.stride = window, stride
        self.height, self.width = pixels.shape[1:]
        self._tops = _list_starts(self.height, window[0], stride[0])
        self._lefts = _list_starts(self.width, window[1], stride[1])
        self._next = 0
        """Index of the next row of windows."""
        self._first = 0
        """The row of the image at which the buffers begin."""
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None

    def read_rows(self, first: int, last: int) -> Tensor:
        """See `ScoreRows.read_rows`."""
        self._forget_rows(first)
        # Rows are complete once the next windows begin below them.
        while self._next < len(self._tops) and self._tops[self._next] < last:
            self._add_windows(self._tops[self._next])
            self._next += 1
        assert self._sums is not None
        assert self._counts is not None
        part = slice(first - self._first, last - self._first)
        return self._sums[:, part] / self._counts[:, part]

    def _forget_rows(self, first: int) -> None:
        if self._next < len(self._tops):
            first = min(first, self._tops[self._next])  # windows still add to these rows
        if self._sums is None or self._counts is None or first <= self._first:
            return
        # Copies, so that the memory of the old buffers is freed.
        self._sums = self._sums[:, first - self._first :].clone()
        self._counts = self._counts[:, first - self._first :].clone()
        self._first = first

    def _add_windows(self, top: int) -> None:
        bottom = min(top + self.window[0], self.height)
        for left in self._lefts:
            right = min(left + self.window[1], self.width)
            scores = self.encode(self.pixels[:, top:bottom, left:right])
            self._extend(bottom, scores)
            assert self._sums is not None
            assert self._counts is not None
            rows = slice(top - self._first, bottom - self._first)
            self._sums[:, rows, left:right] += scores
            self._counts[:, rows, left:right] += 1

    def _extend(self, bottom: int, scores: Tensor) -> None:
        """Enlarge the buffers to the rows before ``bottom``."""
        old_sums, old_counts = self._sums, self._counts
        size = bottom - self._first
        if old_sums is not None and old_sums.shape[1] >= size:
            return
        self._sums = scores.new_zeros(scores.shape[0], size, self.width)
        self._counts = scores.new_zeros(1, size, self.width)
        if old_sums is not None and old_counts is not None:
            self._sums[:, : old_sums.shape[1]] = old_sums
            self._counts[:, : old_counts.shape[1]] = old_counts


class FlippedRows:
    """Rows of the scores of a mirrored image, mirrored back.

    Args:
        rows: scores of the mirrored image.
        classes: (C,) int64, the number of each class in a mirror image; None if none is exchanged.
    """

    def __init__(self, rows: ScoreRows, classes: Tensor | None = None) -> None:
        self.rows, self.classes = rows, classes
        self.height, self.width = rows.height, rows.width

    def read_rows(self, first: int, last: int) -> Tensor:
        """See `ScoreRows.read_rows`."""
        scores = self.rows.read_rows(first, last).flip(2)
        return scores if self.classes is None else scores[self.classes]


class ResizedRows:
    """Rows of scores, resized bilinearly to the original image, as mmseg does.

    Args:
        rows: scores at the size of the network's input.
        size: (height, width) of the image.
        align_corners: see ``torch.nn.functional.interpolate``.
    """

    def __init__(self, rows: ScoreRows, size: Sequence[int], *, align_corners: bool) -> None:
        self.rows = rows
        self.height, self.width = size
        self.align_corners = align_corners

    def read_rows(self, first: int, last: int) -> Tensor:
        """See `ScoreRows.read_rows`."""
        if (self.height, self.width) == (self.rows.height, self.rows.width):
            return self.rows.read_rows(first, last)
        position = self._find_positions(first, last)
        upper = position.long().clamp_max(self.rows.height - 1)
        lower = (upper + 1).clamp_max(self.rows.height - 1)
        start = int(upper[0])
        band = self.rows.read_rows(start, int(lower[-1]) + 1)
        weight = (position - upper)[:, None].to(band)
        wide = F.interpolate(
            band[None],
            (band.shape[1], self.width),
            mode="bilinear",
            align_corners=self.align_corners,
        )[0]
        above, below = wide[:, upper - start], wide[:, lower - start]
        return above.mul_(1 - weight).add_(below.mul_(weight))

    def _find_positions(self, first: int, last: int) -> Tensor:
        """The row of the source at each row, a fraction of which is the weight of the next row."""
        rows = torch.arange(first, last, dtype=torch.float32)
        if self.align_corners:
            return rows * (float(self.rows.height - 1) / max(1, self.height - 1))
        scale = float(self.rows.height) / self.height
        return ((rows + 0.5) * scale - 0.5).clamp_min(0)


def _list_starts(side: int, window: int, stride: int) -> list[int]:
    """The first pixel of each window along a side, as in mmseg's ``slide_inference``."""
    number = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(index * stride + window, side) - window, 0) for index in range(number)]
