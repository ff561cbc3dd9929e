"""Predicts the smallest image of the evaluated split before the training starts.

A layer that cannot compute with a thin image would otherwise end the run after its training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from mmcv import rescale_size

from protoseg.datasets.readers.photographs import read_size
from protoseg.training.builders.components import TrainingComponents

SAFE_SIDE = 64
"""Pixels. A side of this length has two values at stride 32, the coarsest of the backbones here;
images whose sides are all at least as long are not predicted ahead."""


def predict_smallest_image(parts: TrainingComponents, scale: Sequence[int]) -> None:
    """Predict the image with the shortest side, if it is below `SAFE_SIDE`.

    Neither the model nor the state of a random generator changes.

    Args:
        parts: the model and its test loader.
        scale: ``evaluation.scale``, (width, height); empty for no resize.

    Raises:
        DataError: the image cannot be read or resized.
        RuntimeError, ValueError: from the layer that cannot compute with the shape of its input;
            see `protoseg.training.layer_errors`.
    """
    dataset = parts.test_loader.dataset
    number, side = find_smallest_image((image for image, _ in dataset.samples), scale)  # type: ignore[attr-defined]
    if side >= SAFE_SIDE:
        return
    was_training = parts.model.training
    parts.model.eval()
    try:
        with torch.no_grad():
            parts.model.test_step(parts.test_loader.collate_fn([dataset[number]]))
    finally:
        parts.model.train(was_training)


def find_smallest_image(paths: Iterable[Path], scale: Sequence[int]) -> tuple[int, int]:
    """Find the image with the shortest side after the resize of the evaluation.

    Returns:
        Its position in ``paths``, and the length of this side in pixels. An image whose header
        cannot be read is left out: the evaluation names it.
    """
    sides = {}
    for number, path in enumerate(paths):
        if size := read_size(path):
            resized = rescale_size(size, tuple(scale)) if scale else size
            sides[number] = min(resized)
    number = min(sides, key=sides.__getitem__, default=0)
    return number, sides.get(number, SAFE_SIDE)
