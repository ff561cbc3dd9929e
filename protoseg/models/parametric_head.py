"""The parametric baseline: a learned classifier with K weights per class (Eq. 1; Table 4)."""

from __future__ import annotations

from typing import Any

from mmengine.model import normal_init
from mmseg.registry import MODELS
from torch import Tensor, nn

from protoseg.models.wrapped_head import WrappedHead


@MODELS.register_module()
class ParametricHead(WrappedHead):
    """A decode head with K learned weight vectors per class; the score is the maximum over K.

    With K = 1 it computes the same as the wrapped mmseg head.

    Args:
        decode_head: config of the wrapped mmseg decode head.
        num_prototypes: K.
        wrapping: ``contrast`` and ``init_cfg``, see `WrappedHead`.

    Raises:
        ValueError: K is out of range, or the decode head has no classifier.
    """

    def __init__(
        self, decode_head: dict[str, Any], num_prototypes: int = 1, **wrapping: Any
    ) -> None:
        super().__init__(decode_head, **wrapping)
        if num_prototypes < 1:
            raise ValueError(f"num_prototypes: {num_prototypes} is out of range; at least 1")
        self.num_prototypes = num_prototypes
        self.classifier = nn.Conv2d(self.feature_channels, self.num_classes * num_prototypes, 1)

    def init_weights(self) -> None:
        """Initialise the classifier like mmseg's ``conv_seg``: normal, std 0.01."""
        super().init_weights()
        normal_init(self.classifier, std=0.01)

    def classify(self, features: Tensor) -> Tensor:
        """Compute class scores ``max_k w_{c,k} · i``, (B, C, H, W)."""
        scores: Tensor = self.classifier(features)
        if self.num_prototypes == 1:
            return scores
        return scores.unflatten(1, (self.num_classes, self.num_prototypes)).amax(2)
