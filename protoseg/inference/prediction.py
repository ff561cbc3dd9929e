"""The prediction of one image."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from protoseg.inference.class_colors import blend_colors
from protoseg.inference.settings import PredictionSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND_CLASSES = 20
"""Classes that a legend lists at most: those with the most pixels."""


class Prediction:
    """What a model predicts for one image.

    Attributes:
        labels: (H, W) uint8, or uint16 for more than 256 classes: the class index of each pixel,
            at the size of the image.
        settings: how it was predicted.
    """

    def __init__(
        self,
        model: Any,
        image: np.ndarray,
        settings: PredictionSettings,
        labels: np.ndarray,
        scores: Tensor | None,
    ) -> None:
        self.labels = labels
        self.settings = settings
        self._model, self._image, self._scores = model, image, scores

    def __repr__(self) -> str:
        """The size of the image and the number of predicted classes."""
        height, width = self.labels.shape
        return f"Prediction({width}×{height} pixels, {len(np.unique(self.labels))} classes)"

    @property
    def has_scores(self) -> bool:
        """Whether the class scores are in memory; those of a large image are not."""
        return self._scores is not None

    def release_scores(self) -> None:
        """Free the class scores: `probabilities` predicts the image again if it is read."""
        self._scores = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C classes."""
        names: tuple[str, ...] = self._model.classes
        return names

    @property
    def image(self) -> np.ndarray:
        """The image, (H, W, 3) uint8, red first."""
        return self._image[..., ::-1]

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """(C, H, W) float32: softmax of the class scores, or the mean of it over several views.

        Of a large image they are computed at the first access, which predicts it again.
        """
        if self._scores is not None:
            return self._compute_probabilities(self._scores)
        bands, shape = self.iterate_probabilities()
        result, first = np.empty(shape, np.float32), 0
        for band in bands:
            result[:, first : first + band.shape[1]] = band
            first += band.shape[1]
        return result

    def _compute_probabilities(self, scores: Tensor) -> np.ndarray:
        values = scores.softmax(0) if self.settings.is_plain else scores
        return values.float().cpu().numpy()

    def iterate_probabilities(self) -> tuple[Iterable[np.ndarray], tuple[int, int, int]]:
        """Bands of `probabilities`, (C, rows, W) float32 from top to bottom, and their shape.

        Of a large image only one band is in memory.
        """
        height, width = self.labels.shape
        shape = (len(self.classes), height, width)
        if self._scores is not None:
            return [self._compute_probabilities(self._scores)], shape
        return self._model.iterate_probabilities(self._image, self.settings), shape

    @functools.cached_property
    def embedding(self) -> np.ndarray:
        """(D, h, w) float32: the features that are classified, at the decoder's resolution.

        Of a prototype head with cosine distance they are unit vectors. The network sees the whole
        image, also in mode ``slide``.

        Raises:
            UsageError: the head does not classify pixel features.
        """
        return self._embedding.float().cpu().numpy()

    @functools.cached_property
    def assignments(self) -> np.ndarray:
        """(h, w) int64: the nearest prototype of the predicted class, at the decoder's resolution.

        The value c·K + k is prototype k of class c: ``divmod(assignments, K)`` gives both. K is the
        model's ``num_prototypes``.

        Raises:
            UsageError: the head has no prototypes.
        """
        assigned: Tensor = self._model.assign_prototypes(self._embedding)
        return assigned.cpu().numpy()

    @functools.cached_property
    def _embedding(self) -> Tensor:
        embedding: Tensor = self._model.compute_embedding(self._image)
        return embedding

    def plot(self, alpha: float = 0.6) -> Figure:
        """Draw the image, and the image under the colours of the classes, with a legend.

        Args:
            alpha: weight of the colours, 0 to 1.

        Returns:
            A figure of matplotlib.
        """
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        height, width = self.labels.shape
        side = 4.0
        figure = Figure(
            figsize=(2 * side + 1.8, min(8.0, max(1.8, side * height / width))),
            layout="constrained",
        )
        overlay = blend_colors(self.image, self.labels, self._model.colors, alpha)
        for axes, pixels in zip(figure.subplots(1, 2), (self.image, overlay), strict=True):
            axes.imshow(pixels, interpolation="nearest")
            axes.set_axis_off()
        numbers = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        shown = [c for c in np.argsort(-numbers, kind="stable")[:LEGEND_CLASSES] if numbers[c]]
        handles = [
            Patch(color=self._model.colors[c] / 255, label=self.classes[c]) for c in sorted(shown)
        ]
        figure.legend(handles=handles, loc="outside right center", frameon=False)
        return figure
