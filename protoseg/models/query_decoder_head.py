"""The pixel-query transformer head: mmseg's Segmenter decoder with K queries per class."""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads import SegmenterMaskTransformerHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor

from protoseg.models.wrapped_head import WrappedHead


@MODELS.register_module()
class QueryDecoderHead(WrappedHead):
    """mmseg's Segmenter head: queries and pixels attend to each other before Eq. 2 is applied.

    The head applies LayerNorm to the cosines of all queries. The norm learns their scale and
    replaces the temperature. With K = 1 this is mmseg's head.

    Args:
        decode_head: config of a ``SegmenterMaskTransformerHead``.
        num_prototypes: K, queries per class; the score is the maximum over K.
        wrapping: ``init_cfg``, see `WrappedHead`.

    Raises:
        ValueError: the decode head is another one, K is out of range, or ``contrast`` is set, which
            needs pixel features that Segmenter does not return.
    """

    def __init__(
        self, decode_head: dict[str, Any], num_prototypes: int = 1, **wrapping: Any
    ) -> None:
        if num_prototypes < 1:
            raise ValueError(f"num_prototypes: {num_prototypes} is out of range; at least 1")
        if wrapping.get("contrast"):
            raise ValueError(
                "contrast: Segmenter's decoder returns masks, but pixel contrast needs pixel "
                "features; use another method, or contrast=none"
            )
        self._num_queries = num_prototypes
        super().__init__(decode_head, **wrapping)
        self.num_prototypes = num_prototypes

    def _build(self, config: dict[str, Any]) -> BaseDecodeHead:
        head_class = MODELS.get(config["type"])
        if head_class is not SegmenterMaskTransformerHead:
            raise ValueError(
                f"decode_head: {config['type']} has no queries; use "
                "SegmenterMaskTransformerHead (decoder=segmenter), or another method"
            )
        config["num_classes"] *= self._num_queries
        config.setdefault("out_channels", config["num_classes"])
        head: BaseDecodeHead = MODELS.build(config)
        self.feature_channels = config["num_classes"]
        return head

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.head.num_classes) // self._num_queries

    def classify(self, features: Tensor) -> Tensor:
        """Compute class scores, (B, C, H, W), from query scores, (B, C·K, H, W)."""
        if self._num_queries == 1:
            return features
        return features.unflatten(1, (self.num_classes, self._num_queries)).amax(2)
