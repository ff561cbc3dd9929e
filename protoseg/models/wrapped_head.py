"""Any mmseg decode head without its classifier: the feature extractor under every method."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from protoseg.core.losses import IGNORED
from protoseg.models.pixel_contrast import PixelContrast

USE_ANOTHER = (
    "use a head that ends in a classifier, such as FCNHead, PSPHead, DepthwiseSeparableASPPHead, "
    "SegformerHead or UPerHead"
)


class WrappedHead(BaseModule):
    """An mmseg decode head whose 1×1 classifier ``conv_seg`` is taken out.

    Subclasses `classify` what `features` returns, and say in `losses` how that is learned where the
    decode head's own losses are not all; `loss` and `predict` have the signatures that mmseg's
    ``EncoderDecoder`` calls.

    Args:
        decode_head: config of an mmseg decode head (FCN, PSP, ASPP, SegFormer, UPerNet, ...), as
            it would stand in ``model.decode_head``.
        contrast: arguments of `protoseg.models.pixel_contrast.PixelContrast`, whose loss is added;
            None: no such loss.

    Raises:
        ValueError: the head has no ``conv_seg`` to replace (SegmenterMaskTransformerHead,
            MaskFormerHead and others classify in another way), or refines the scores of a head
            before it (OCRHead).
    """

    training_only = ("contrast",)
    """Parts that are thrown away after training: no parameters of the network."""

    def __init__(
        self,
        decode_head: dict[str, Any],
        *,
        contrast: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.head: BaseDecodeHead = self._build(copy.deepcopy(dict(decode_head)))
        self.contrast = (
            PixelContrast(self.feature_channels, self.num_classes, **contrast) if contrast else None
        )

    def _build(self, config: dict[str, Any]) -> BaseDecodeHead:
        """The decode head without its classifier; sets ``feature_channels``."""
        # Asked before it is built: some heads can only be built where mmdet or mmcv's ops are.
        kind = MODELS.get(config["type"]) if isinstance(config.get("type"), str) else None
        if kind is not None and not issubclass(kind, BaseDecodeHead):
            raise _without_classifier(config)
        if kind is not None and issubclass(kind, BaseCascadeDecodeHead):
            raise ValueError(
                f"decode_head: {config['type']} refines the scores of a head before it, so it can "
                f"not stand alone; {USE_ANOTHER}"
            )
        if config.get("num_classes") == 2:
            # mmseg would suggest one output channel; here every class has a score.
            config.setdefault("out_channels", 2)
        head: BaseDecodeHead = MODELS.build(config)
        classifier = getattr(head, "conv_seg", None)
        if not isinstance(classifier, nn.Conv2d):
            raise _without_classifier(config)
        self.feature_channels: int = classifier.in_channels
        head.conv_seg = nn.Identity()
        # Its init_cfg names the classifier that is gone.
        if isinstance(head.init_cfg, dict) and "override" in head.init_cfg:
            head.init_cfg = None
        return head

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.head.num_classes)

    @property
    def out_channels(self) -> int:
        """Channels of the logits, as mmseg's segmentors ask for them."""
        return self.num_classes

    @property
    def ignore_index(self) -> int:
        """Label that counts for nothing."""
        return int(self.head.ignore_index)

    @property
    def align_corners(self) -> bool:
        """How mmseg resizes the logits."""
        return bool(self.head.align_corners)

    @property
    def threshold(self) -> None:
        """mmseg's threshold of a binary head; there is a score for every class here."""
        return None

    def features(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The decoder's last feature map, after its dropout, (B, D, H, W)."""
        features = self.head(inputs)
        if not isinstance(features, Tensor) or features.shape[1] != self.feature_channels:
            raise ValueError(
                f"decode_head: {type(self.head).__name__} does not return one feature map of "
                f"{self.feature_channels} channels, so its classifier can not be replaced"
            )
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Class scores, (B, C, H, W), from `features`."""
        raise NotImplementedError

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Class scores, (B, C, H, W)."""
        return self.classify(self.features(inputs))

    def losses(
        self, features: Tensor, batch_data_samples: list[Any]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What the classification learns by, and its class scores, (B, C, H, W).

        Here the decode head's own losses on the class scores.
        """
        scores = self.classify(features)
        losses: dict[str, Tensor] = self.head.loss_by_feat(scores, batch_data_samples)
        return losses, scores

    def loss(
        self, inputs: tuple[Tensor, ...], batch_data_samples: list[Any], train_cfg: Any
    ) -> dict[str, Tensor]:
        """`losses`, and that of pixel contrast where there is one."""
        features = self.features(inputs)
        losses, scores = self.losses(features, batch_data_samples)
        if self.contrast is not None:
            labels = self.labels(batch_data_samples, features.shape[2:])
            losses["loss_contrast"] = self.contrast(features, labels, scores)
        return losses

    def labels(self, batch_data_samples: list[Any], size: Sequence[int]) -> Tensor:
        """Ground truth by nearest neighbour at ``size`` (h, w), (B·h·w,); `IGNORED` for none."""
        truth = self.head._stack_batch_gt(batch_data_samples)
        small = F.interpolate(truth.float(), size=tuple(size), mode="nearest")
        labels = small.flatten().long()
        return torch.where(labels == self.ignore_index, IGNORED, labels)

    def predict(
        self, inputs: tuple[Tensor, ...], batch_img_metas: list[dict[str, Any]], test_cfg: Any
    ) -> Tensor:
        """Class scores at the size of the input images, (B, C, H, W)."""
        logits: Tensor = self.head.predict_by_feat(self.forward(inputs), batch_img_metas)
        return logits


def _without_classifier(config: dict[str, Any]) -> ValueError:
    return ValueError(
        f"decode_head: {config.get('type')} has no classifier 'conv_seg' to replace; {USE_ANOTHER}"
    )
