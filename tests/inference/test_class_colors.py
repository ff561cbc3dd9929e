"""The colours of classes, and pictures under them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from training.small import compose, small_spec

from protoseg.config.class_colors import SAFE_COLORS, list_safe_colors
from protoseg.inference.class_colors import blend_colors, choose_colors


def test_published_data_sets_have_their_usual_colors() -> None:
    cityscapes = choose_colors(compose("dataset=cityscapes").dataset)
    assert cityscapes.shape == (19, 3)
    assert cityscapes[0].tolist() == [128, 64, 128]  # road
    assert cityscapes[13].tolist() == [0, 0, 142]  # car


def test_a_palette_comes_first() -> None:
    names = ("a", "b")
    palette = {"a": [1, 2, 3], "b": [[4, 5, 6], [7, 8, 9]], "ignore": [0, 0, 0]}
    dataset = dataclasses.replace(small_spec().dataset, classes=names, palette=palette)
    assert choose_colors(dataset).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("number", [1, 8, 23, 150, 847])
def test_other_classes_have_distinct_colors(number: int) -> None:
    names = tuple(f"class {index}" for index in range(number))
    colors = choose_colors(dataclasses.replace(small_spec().dataset, classes=names))
    assert (colors.shape, colors.dtype) == ((number, 3), np.uint8)
    assert len(np.unique(colors, axis=0)) == number
    if number <= len(SAFE_COLORS):
        assert colors.tolist() == [list(color) for color in SAFE_COLORS[:number]]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_colors_are_blended(alpha: float) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (30, 20, 3), np.uint8)
    labels = random.integers(0, 4, (30, 20))
    colors = np.array(list_safe_colors(4))
    expected = (1 - alpha) * image + alpha * colors[labels]
    assert np.abs(blend_colors(image, labels, colors, alpha) - expected).max() <= 1.5
