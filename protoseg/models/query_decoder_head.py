"""Pixel-query through a transformer: mmseg's Segmenter decoder with K queries a class."""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads import SegmenterMaskTransformerHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor

from protoseg.models.wrapped_head import WrappedHead


@MODELS.register_module()
class QueryDecoderHead(WrappedHead):
    """mmseg's Segmenter head, whose queries and pixels meet in transformer layers before Eq. 2.

    Its cosines go through its own LayerNorm over all queries, which learns their scale, in place of
    a temperature. With K = 1 it is mmseg's head.

    Args:
        decode_head: config of a ``SegmenterMaskTransformerHead``.
        num_prototypes: K, queries a class; the best of them counts.
        wrapping: ``init_cfg``, see `WrappedHead`.

    Raises:
        ValueError: another decode head, or pixel contrast, for which it has no features to give.
    """

    def __init__(
        self, decode_head: dict[str, Any], num_prototypes: int = 1, **wrapping: Any
    ) -> None:
        if num_prototypes < 1:
            raise ValueError(f"num_prototypes: {num_prototypes} is out of range; at least 1")
        if wrapping.get("contrast"):
            raise ValueError(
                "contrast: Segmenter's decoder returns masks and no features of pixels to "
                "contrast; use another method, or contrast=none"
            )
        self._queries = num_prototypes
        super().__init__(decode_head, **wrapping)
        self.num_prototypes = num_prototypes

    def _build(self, config: dict[str, Any]) -> BaseDecodeHead:
        kind = MODELS.get(config["type"])
        if kind is not SegmenterMaskTransformerHead:
            raise ValueError(
                f"decode_head: {config['type']} has no queries to decode; use "
                "SegmenterMaskTransformerHead (decoder=segmenter), or another method"
            )
        config["num_classes"] *= self._queries
        config.setdefault("out_channels", config["num_classes"])
        head: BaseDecodeHead = MODELS.build(config)
        self.feature_channels = config["num_classes"]
        return head

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.head.num_classes) // self._queries

    def classify(self, features: Tensor) -> Tensor:
        """Class scores, (B, C, H, W), from the scores of all queries, (B, C·K, H, W)."""
        if self._queries == 1:
            return features
        return features.unflatten(1, (self.num_classes, self._queries)).amax(2)
