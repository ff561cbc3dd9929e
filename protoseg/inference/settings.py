"""How images are predicted: whole or by a sliding window, and test-time augmentation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from protoseg.config.schema import EvaluationSpec
from protoseg.errors import UsageError

WHOLE, SLIDE = "whole", "slide"
TTA_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The scales of test-time augmentation, those of mmseg's recipes; each also flipped."""


@dataclass(frozen=True)
class PredictionSettings:
    """How an image becomes class scores; the defaults of a run are those of its evaluation.

    Raises:
        UsageError: a value is out of range, or ``slide`` has no window.
    """

    mode: str = WHOLE
    """``whole``: the network sees the whole image. ``slide``: windows, averaged where they
    overlap."""
    window: tuple[int, int] | None = None
    """(height, width) of the sliding window, in pixels of the resized image."""
    stride: tuple[int, int] | None = None
    """(height, width) of its steps."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of the size of the network's input; probabilities are averaged over them."""
    flip: bool = False
    """Also average over the horizontally flipped image."""

    def __post_init__(self) -> None:
        if self.mode not in (WHOLE, SLIDE):
            raise UsageError(f"mode: unknown '{self.mode}'. Use {WHOLE} or {SLIDE}.")
        if self.mode == WHOLE:
            # They have no meaning, so they must not distinguish two settings.
            object.__setattr__(self, "window", None)
            object.__setattr__(self, "stride", None)
            self._check_scales()
            return
        if self.window is None:
            raise UsageError(
                "mode: slide needs a window. Name its height and width with --window, "
                "e.g. --window 512x512."
            )
        # As usual: steps of two thirds of the window.
        stride = self.stride or tuple(max(1, side * 2 // 3) for side in self.window)
        object.__setattr__(self, "stride", stride)
        if min(*self.window, *stride) < 1:
            raise UsageError("window and stride: each side has at least one pixel.")
        if any(step > side for step, side in zip(stride, self.window, strict=True)):
            raise UsageError(
                f"stride: {stride} is larger than the window {self.window}, so pixels between "
                "windows would have no score. Use steps of at most the window."
            )
        self._check_scales()

    def _check_scales(self) -> None:
        if not self.scales or any(not 0 < scale < math.inf for scale in self.scales):
            raise UsageError(
                f"scales: {list(self.scales)} is out of range. Name positive numbers, "
                "e.g. 0.75,1,1.25."
            )

    @property
    def views(self) -> list[tuple[float, bool]]:
        """(scale, is flipped) of each pass through the network."""
        return [(scale, flip) for scale in self.scales for flip in (False, True)[: 1 + self.flip]]

    @property
    def is_plain(self) -> bool:
        """Whether there is one pass of the image at its usual size, as in an evaluation."""
        return self.views == [(1.0, False)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def read_evaluation_settings(evaluation: EvaluationSpec) -> PredictionSettings:
    """The settings of a run's evaluation."""
    if evaluation.mode == WHOLE:
        return PredictionSettings()
    height, width = evaluation.crop_size
    rows, columns = evaluation.stride
    return PredictionSettings(SLIDE, (height, width), (rows, columns))


def change_settings(
    base: PredictionSettings,
    *,
    mode: str | None = None,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    scales: tuple[float, ...] | None = None,
    flip: bool = False,
) -> PredictionSettings:
    """Change some settings; None keeps the value of ``base``.

    A window without a mode selects ``slide``. Another window takes its own default stride.

    Raises:
        UsageError: window or stride together with the mode ``whole``, or values out of range.
    """
    if mode == WHOLE and (window or stride):
        raise UsageError("window and stride: not used in mode whole. Use mode slide, or omit them.")
    if stride is None and window is None:
        stride = base.stride
    return PredictionSettings(
        mode or (SLIDE if window or stride else base.mode),
        window or base.window,
        stride,
        scales or base.scales,
        flip or base.flip,
    )
