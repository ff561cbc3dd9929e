"""Class scores of images by a network: with mmseg's code, or in bands of rows for large images."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample
from torch import Tensor

from protoseg.config.schema import RunSpec
from protoseg.datasets.labels import flip_classes
from protoseg.inference.images import make_input, resize_image, view_input
from protoseg.inference.score_rows import (
    FlippedRows,
    ResizedRows,
    ScoreRows,
    WholeRows,
    WindowRows,
)
from protoseg.inference.settings import SLIDE, PredictionSettings

SCORE_BYTES = {"cpu": 2**28, "gpu": 2**32}
"""Bytes of class scores, above which an image is predicted in bands of rows."""
BAND_BYTES = 2**25
"""Bytes of the class scores of a band."""


class ScoreNetwork:
    """A network and the rule by which its run resizes images.

    Args:
        module: the mmseg segmentor, in evaluation mode.
        spec: of the run.
        device: of the module.
    """

    def __init__(self, module: Any, spec: RunSpec, device: torch.device) -> None:
        self.module, self.device = module, device
        self.num_classes = len(spec.dataset.classes)
        self.size = spec.evaluation.scale
        self.flip_classes: Tensor | None = None
        """(C,) int64, the number of each class in a mirror image; None if none is exchanged."""
        if spec.dataset.flip_pairs:
            self.flip_classes = torch.tensor(flip_classes(spec.dataset), device=device)

    def is_large(self, images: Sequence[np.ndarray], settings: PredictionSettings) -> bool:
        """Whether the class scores of these images are too large to be held at once.

        Networks whose preprocessor pads images are left to mmseg.
        """
        if self.module.data_preprocessor.test_cfg:
            return False
        numbers = [image.shape[0] * image.shape[1] for image in images]
        scale = max(settings.scales)
        numbers += [_count_pixels(image, self.size, scale) for image in images]
        limit = SCORE_BYTES["cpu" if self.device.type == "cpu" else "gpu"]
        return 4 * self.num_classes * len(images) * max(numbers) > limit

    def run_view(
        self,
        images: Sequence[np.ndarray],
        settings: PredictionSettings,
        scale: float,
        is_flipped: bool,
    ) -> list[Any]:
        """Run one pass of the network with mmseg's code, as in an evaluation.

        Args:
            images: (H, W, 3) uint8 each, blue first; of one size.
            settings: mode and window.
            scale: factor of the size of the network's input.
            is_flipped: whether the network sees the mirrored image.

        Returns:
            mmseg's data samples with ``seg_logits`` (C, H, W) and ``pred_sem_seg`` (1, H, W), both
            of the image itself: mirrored back, with its classes.
        """
        inputs, samples = [], []
        for image in images:
            small = resize_image(image, self.size, scale)
            inputs.append(make_input(small, is_flipped=is_flipped))
            shapes = {"ori_shape": image.shape[:2], "img_shape": small.shape[:2]}
            flip = {"flip": True, "flip_direction": "horizontal"} if is_flipped else {}
            samples.append(SegDataSample(metainfo={**shapes, "pad_shape": small.shape[:2], **flip}))
        self._set_mode(settings)
        results: list[Any] = self.module.test_step({"inputs": inputs, "data_samples": samples})
        if is_flipped and self.flip_classes is not None:
            for sample in results:
                sample.seg_logits.data = sample.seg_logits.data[self.flip_classes]
                sample.pred_sem_seg.data = self.flip_classes[sample.pred_sem_seg.data]
        return results

    def _set_mode(self, settings: PredictionSettings) -> None:
        values: dict[str, Any] = {"mode": settings.mode}
        if settings.mode == SLIDE:
            values |= {"crop_size": settings.window, "stride": settings.stride}
        self.module.test_cfg = ConfigDict(values)

    def iterate_bands(self, image: np.ndarray, settings: PredictionSettings) -> Iterator[Tensor]:
        """Yield bands of rows, from top to bottom: (C, rows, W).

        They are class scores, or the mean probabilities of several passes: the sum in the order of
        `PredictionSettings.views`, divided by their number.

        Args:
            image: (H, W, 3) uint8, blue first.
            settings: how to predict it.
        """
        height, width = image.shape[:2]
        step = max(1, BAND_BYTES // (4 * self.num_classes * width))
        bands = [(first, min(first + step, height)) for first in range(0, height, step)]
        if settings.is_plain:
            rows = self._open_rows(image, settings, *settings.views[0])
            yield from (rows.read_rows(*band) for band in bands)
            return
        if self._is_sum_larger(image, settings):
            yield from self._sum_bands(image, settings, bands)
            return
        total = self._sum_passes(image, settings, bands)
        yield from (total[:, first:last] / len(settings.views) for first, last in bands)

    def _sum_bands(
        self, image: np.ndarray, settings: PredictionSettings, bands: Sequence[tuple[int, int]]
    ) -> Iterator[Tensor]:
        """Mean probabilities band by band: the windows of all passes are open at once."""
        passes = [self._open_rows(image, settings, *view) for view in settings.views]
        for band in bands:
            total = passes[0].read_rows(*band).softmax(0)
            for rows in passes[1:]:
                total += rows.read_rows(*band).softmax(0)
            yield total / len(passes)

    def _sum_passes(
        self, image: np.ndarray, settings: PredictionSettings, bands: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Sum of the probabilities of all passes, (C, H, W): the scores of one are in memory."""
        total: Tensor | None = None
        for view in settings.views:
            rows = self._open_rows(image, settings, *view)
            for first, last in bands:
                part = rows.read_rows(first, last).softmax(0)
                if total is None:
                    total = part.new_zeros(len(part), *image.shape[:2])
                total[:, first:last] += part
            del rows  # its scores, before those of the next pass
        assert total is not None
        return total

    def _is_sum_larger(self, image: np.ndarray, settings: PredictionSettings) -> bool:
        """Whether the sum over the image is larger than the open windows of all passes."""
        if settings.window is None or settings.stride is None:
            return False
        height, width = image.shape[:2]
        rows = settings.window[0] + settings.stride[0]
        ratios = (_find_ratio(image, self.size, scale) for scale, _ in settings.views)
        return sum(rows * width * ratio for ratio in ratios) < height * width

    def _open_rows(
        self, image: np.ndarray, settings: PredictionSettings, scale: float, is_flipped: bool
    ) -> ScoreRows:
        pixels = view_input(resize_image(image, self.size, scale), is_flipped=is_flipped)
        rows: ScoreRows
        if settings.mode == SLIDE:
            assert settings.window is not None
            assert settings.stride is not None
            rows = WindowRows(pixels, self._encode, settings.window, settings.stride)
        else:
            rows = WholeRows(self._encode(pixels))
        if is_flipped:
            rows = FlippedRows(rows, self.flip_classes)
        return ResizedRows(rows, image.shape[:2], align_corners=bool(self.module.align_corners))

    def _encode(self, pixels: Tensor) -> Tensor:
        """Class scores (C, h, w) of raw pixels (3, h, w)."""
        inputs = self.normalise(pixels.contiguous())
        shape = tuple(pixels.shape[1:])
        metas = [{"ori_shape": shape, "img_shape": shape, "pad_shape": shape}]
        scores: Tensor = self.module.encode_decode(inputs, metas)[0]
        return scores

    def normalise(self, pixels: Tensor) -> Tensor:
        """The network's input (1, 3, h, w) float32 of raw pixels (3, h, w)."""
        data = self.module.data_preprocessor({"inputs": [pixels]}, False)
        inputs: Tensor = data["inputs"]
        return inputs


@contextlib.contextmanager
def run_quietly() -> Iterator[None]:
    """Without gradients, and without mmseg's advice about sizes for aligned corners."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When align_corners=True", UserWarning)
        yield


def _count_pixels(image: np.ndarray, size: Sequence[int], factor: float) -> int:
    """The number of pixels of the network's input, at most."""
    height, width = image.shape[:2]
    return int(height * width * _find_ratio(image, size, factor) ** 2)


def _find_ratio(image: np.ndarray, size: Sequence[int], factor: float) -> float:
    """The side of the network's input over that of the image."""
    height, width = image.shape[:2]
    if not size:
        return factor
    return min(max(size) / max(height, width), min(size) / min(height, width)) * factor
