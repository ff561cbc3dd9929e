"""Rows of scores of a sliding window equal mmseg's ``slide_inference``, read in any bands."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor

from protoseg.inference.score_rows import FlippedRows, ResizedRows, WholeRows, WindowRows

CLASSES = 4


def encode(window: Tensor) -> Tensor:
    """Scores that depend on the position in the window, so that overlaps matter."""
    height, width = window.shape[1:]
    rows = torch.linspace(0, 1, height)[:, None]
    columns = torch.linspace(1, 3, width)
    base = window.float().mean(0) / 255
    return torch.stack([base * (c + 1) + rows * columns / (c + 1) for c in range(CLASSES)])


def slide(pixels: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """The scores by mmseg, (C, H, W)."""
    segmentor = SimpleNamespace(
        test_cfg=SimpleNamespace(crop_size=window, stride=stride),
        out_channels=CLASSES,
        encode_decode=lambda crop, _: encode(crop[0])[None],
    )
    inputs: Any = pixels.float()[None]
    return EncoderDecoder.slide_inference(segmentor, inputs, [{}])[0]


def read_all(rows: Any, step: int) -> Tensor:
    bands = [
        rows.read_rows(first, min(first + step, rows.height))
        for first in range(0, rows.height, step)
    ]
    return torch.cat(bands, 1)


@pytest.mark.parametrize("step", [1, 7, 100])
@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((50, 61), (20, 24), (13, 16)),
        ((50, 61), (20, 24), (20, 24)),
        ((10, 61), (20, 24), (5, 1)),  # lower than a window
        ((20, 24), (20, 24), (13, 16)),  # one window
        ((64, 12), (16, 16), (3, 16)),
    ],
)
def test_windows_equal_mmseg(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], step: int
) -> None:
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    expected = slide(pixels, window, stride)
    result = read_all(WindowRows(pixels, encode, window, stride), step)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(50, 61), (131, 47), (17, 90), (1, 1), (50, 30), (23, 61)])
@pytest.mark.parametrize("step", [1, 9, 200])
def test_resized_bands_equal_the_resized_map(
    size: tuple[int, int], step: int, align_corners: bool
) -> None:
    pixels = torch.randint(0, 256, (3, 50, 61), dtype=torch.uint8)
    whole = slide(pixels, (20, 24), (13, 16))
    expected = F.interpolate(whole[None], size, mode="bilinear", align_corners=align_corners)[0]
    for source in (WindowRows(pixels, encode, (20, 24), (13, 16)), WholeRows(whole)):
        rows = ResizedRows(source, size, align_corners=align_corners)
        torch.testing.assert_close(read_all(rows, step), expected, atol=2e-5, rtol=0)


def test_rows_of_the_same_size_are_not_rounded() -> None:
    scores = torch.randn(CLASSES, 9, 7)
    rows = ResizedRows(WholeRows(scores), (9, 7), align_corners=False)
    assert torch.equal(read_all(rows, 2), scores)


def test_the_buffers_hold_few_rows() -> None:
    pixels = torch.zeros((3, 4000, 8), dtype=torch.uint8)
    rows = WindowRows(pixels, encode, (32, 8), (16, 8))
    for first in range(0, 4000, 10):
        rows.read_rows(first, first + 10)
        assert rows._sums is not None
        assert rows._sums.shape[1] <= 2 * 32 + 10


def test_mirrored_rows_are_mirrored_back() -> None:
    scores = torch.randn(CLASSES, 5, 6)
    assert torch.equal(read_all(FlippedRows(WholeRows(scores)), 2), scores.flip(2))
