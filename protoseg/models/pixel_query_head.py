"""The parametric pixel-query head: learned queries and cosine scores (Eq. 2)."""

from __future__ import annotations

from typing import Any

from mmseg.registry import MODELS
from torch import Tensor

from protoseg.core.pixel_queries import QueryClassifier
from protoseg.models.layers import rows_to_map
from protoseg.models.wrapped_head import WrappedHead


@MODELS.register_module()
class PixelQueryHead(WrappedHead):
    """Classify each pixel by its nearest query; queries are learned parameters.

    Args:
        decode_head: config of the wrapped mmseg decode head.
        num_prototypes: K, queries per class; the score is the maximum over K.
        temperature, learnable_temperature: see `protoseg.core.pixel_queries.QueryClassifier`.
        wrapping: ``contrast`` and ``init_cfg``, see `WrappedHead`.
    """

    def __init__(
        self,
        decode_head: dict[str, Any],
        num_prototypes: int = 1,
        temperature: float = 1.0,
        learnable_temperature: bool = False,
        **wrapping: Any,
    ) -> None:
        super().__init__(decode_head, **wrapping)
        self.num_prototypes = num_prototypes
        self.temperature = temperature
        self.learnable_temperature = learnable_temperature
        self.classifier = QueryClassifier(
            self.num_classes,
            num_prototypes,
            self.feature_channels,
            temperature,
            learnable_temperature,
        )

    def init_weights(self) -> None:
        """Initialise the decode head like mmseg, and draw new queries."""
        super().init_weights()
        self.classifier.reset_parameters()

    def classify(self, features: Tensor) -> Tensor:
        """Compute the logits of Eq. 2, (B, C, H, W)."""
        pixels = features.permute(0, 2, 3, 1)
        return rows_to_map(self.classifier(pixels.flatten(0, 2)), pixels)
