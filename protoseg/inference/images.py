"""The image that a network predicts: read from a file, PIL or numpy, and resized."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageOps
from torch import Tensor

from protoseg.datasets.readers.photographs import read_photograph
from protoseg.errors import DataError, UsageError
from protoseg.training.failures import is_out_of_memory
from protoseg.training.layer_errors import describe_shape_error
from protoseg.training.machine.determinism import describe_refusal

PIL_MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr")
"""Modes of 8 bits. Pillow would cut off the values of others."""

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray
"""An image: a path, a PIL image, or an array (H, W, 3) uint8 in the order red, green, blue."""


def load_image(image: ImageInput) -> np.ndarray:
    """Load an image with the reader of training and evaluation.

    Args:
        image: a path; a PIL image; or an array (H, W, 3) uint8 in the order red, green, blue.

    Returns:
        (H, W, 3) uint8 in the order blue, green, red, upright.

    Raises:
        DataError: the file cannot be read.
        UsageError: another type, shape or value type.
    """
    if isinstance(image, str | os.PathLike):
        return read_photograph(Path(image))
    if isinstance(image, Image.Image):
        if image.mode not in PIL_MODES:
            raise UsageError(
                f"image: the PIL mode {image.mode} has no 8 bits per channel. Convert it to RGB."
            )
        image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise UsageError(
            f"image: a {type(image).__name__} is no image. Use a path, a PIL image, or an array "
            "(H, W, 3) uint8 in the order red, green, blue."
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UsageError(
            f"image: an array {image.shape} {image.dtype} is no image. Use (H, W, 3) uint8 in the "
            "order red, green, blue, with values from 0 to 255."
        )
    # A copy: the caller may change the array before all of the prediction is computed.
    return np.array(image[..., ::-1], order="C")


def resize_image(image: np.ndarray, size: tuple[int, ...], factor: float = 1.0) -> np.ndarray:
    """Resize an image as the evaluation of a run does, at the same aspect ratio.

    Args:
        image: (H, W, 3) uint8.
        size: ``evaluation.scale``, (width, height); empty for no resize.
        factor: of the size, for test-time augmentation.

    Returns:
        (h, w, 3) uint8.

    Raises:
        DataError: a side would have no pixel.
    """
    if size:
        rule: dict[str, Any] = {"scale": tuple(max(1, round(side * factor)) for side in size)}
    elif factor != 1:
        rule = {"scale_factor": factor}
    else:
        return image
    transform = TRANSFORMS.build({"type": "Resize", "keep_ratio": True, **rule})
    try:
        resized: np.ndarray = transform({"img": image})["img"]
    except cv2.error as error:
        height, width = image.shape[:2]
        raise DataError(
            f"an image of {width}×{height} pixels cannot be resized by {rule}: a side would have "
            "no pixel. Use a larger scale, or another image."
        ) from error
    return resized


def make_input(image: np.ndarray, *, is_flipped: bool = False) -> Tensor:
    """The network's input before normalisation, (3, h, w) uint8, blue first.

    Args:
        image: (h, w, 3) uint8.
        is_flipped: mirror it horizontally.
    """
    return view_input(image, is_flipped=is_flipped).contiguous()


def view_input(image: np.ndarray, *, is_flipped: bool = False) -> Tensor:
    """As `make_input`, as a view of the image where possible: a large one is held once only."""
    pixels = image[:, ::-1] if is_flipped else image
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


@contextlib.contextmanager
def explain_errors(images: Sequence[np.ndarray]) -> Iterator[None]:
    """Turn errors about the memory or the size of images, and refused kernels, into a sentence.

    Args:
        images: (H, W, 3) each, of one size.

    Raises:
        DataError: an image needs more memory than there is, or is too small for a layer.
        UsageError: an operation has no deterministic kernel.
    """
    try:
        yield
    except (RuntimeError, ValueError, MemoryError, cv2.error) as error:
        if refusal := describe_refusal(error):
            raise UsageError(refusal) from error
        height, width = images[0].shape[:2]
        if problem := describe_shape_error(error):
            raise DataError(f"an image of {width}×{height} pixels: {problem}") from error
        if not is_out_of_memory(error):
            raise
        number = len(images)
        subject = "an image" if number == 1 else f"{number} images"
        advice = "by a sliding window (mode slide)" if number == 1 else "them one by one"
        raise DataError(
            f"{subject} of {width}×{height} pixels: more memory is needed than there is. Predict "
            f"{advice}, or with fewer --jobs."
        ) from error
