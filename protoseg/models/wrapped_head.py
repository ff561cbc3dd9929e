"""The base class of all heads: an mmseg decode head without its classifier."""

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
    """An mmseg decode head whose 1×1 classifier ``conv_seg`` is removed.

    A subclass implements `classify`, which turns the result of `features` into class scores. It
    overrides `losses` if it adds to the losses of the decode head. `loss` and `predict` have the
    signatures that mmseg's ``EncoderDecoder`` calls.

    Args:
        decode_head: config of an mmseg decode head (FCN, PSP, ASPP, SegFormer, UPerNet, ...), as
            used for ``model.decode_head``.
        contrast: arguments of `protoseg.models.pixel_contrast.PixelContrast`; None disables it.
        init_cfg: initialisation config of mmengine.

    Raises:
        ValueError: the head has no ``conv_seg`` (SegmenterMaskTransformerHead, MaskFormerHead and
            others), or refines the scores of another head (OCRHead).
    """

    training_only: tuple[str, ...] = ("contrast",)
    """Submodules that are dropped after training and not counted as parameters."""

    def __init__(
        self,
        decode_head: dict[str, Any],
        *,
        contrast: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.head: BaseDecodeHead = self._build(copy.deepcopy(dict(decode_head)))
        self.contrast: PixelContrast | None = None
        if contrast:
            from_backbone = contrast.get("projection_input") == "backbone"
            channels = self._count_input_channels() if from_backbone else self.feature_channels
            self.contrast = PixelContrast(channels, self.num_classes, **contrast)

    def _build(self, config: dict[str, Any]) -> BaseDecodeHead:
        """Build the decode head without its classifier, and set ``feature_channels``."""
        # Checked before the build, because some heads need mmdet or mmcv's ops to be built.
        head_class = MODELS.get(config["type"]) if isinstance(config.get("type"), str) else None
        if head_class is not None and not issubclass(head_class, BaseDecodeHead):
            raise _no_classifier_error(config)
        if head_class is not None and issubclass(head_class, BaseCascadeDecodeHead):
            raise ValueError(
                f"decode_head: {config['type']} refines the scores of another head and cannot be "
                f"used alone; {USE_ANOTHER}"
            )
        if config.get("num_classes") == 2:
            # mmseg's default is one output channel for two classes; here every class has a score.
            config.setdefault("out_channels", 2)
        head: BaseDecodeHead = MODELS.build(config)
        classifier = getattr(head, "conv_seg", None)
        if not isinstance(classifier, nn.Conv2d):
            raise _no_classifier_error(config)
        self.feature_channels: int = classifier.in_channels
        head.conv_seg = nn.Identity()
        # init_cfg refers to the removed classifier.
        if isinstance(head.init_cfg, dict) and "override" in head.init_cfg:
            head.init_cfg = None
        return head

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.head.num_classes)

    @property
    def out_channels(self) -> int:
        """Number of logit channels; read by mmseg's segmentors."""
        return self.num_classes

    @property
    def ignore_index(self) -> int:
        """Label of ignored pixels."""
        return int(self.head.ignore_index)

    @property
    def align_corners(self) -> bool:
        """Whether mmseg aligns corners when it resizes logits."""
        return bool(self.head.align_corners)

    @property
    def threshold(self) -> None:
        """None: mmseg's threshold for binary heads is not used, since every class has a score."""
        return None

    def features(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute the last feature map of the decoder, after dropout, (B, D, H, W)."""
        features = self.head(inputs)
        if not isinstance(features, Tensor) or features.shape[1] != self.feature_channels:
            raise ValueError(
                f"decode_head: {type(self.head).__name__} does not return one feature map of "
                f"{self.feature_channels} channels, so its classifier cannot be replaced; "
                f"{USE_ANOTHER}"
            )
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Compute class scores, (B, C, H, W), from the result of `features`."""
        raise NotImplementedError

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute class scores, (B, C, H, W)."""
        return self.classify(self.features(inputs))

    def losses(
        self, features: Tensor, batch_data_samples: list[Any]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the losses of the classification and the class scores, (B, C, H, W).

        The default losses are those of the decode head.
        """
        scores = self.classify(features)
        losses: dict[str, Tensor] = self.head.loss_by_feat(scores, batch_data_samples)
        return losses, scores

    def loss(
        self, inputs: tuple[Tensor, ...], batch_data_samples: list[Any], train_cfg: Any
    ) -> dict[str, Tensor]:
        """Compute `losses` and, if enabled, the pixel contrast loss."""
        features = self.features(inputs)
        losses, scores = self.losses(features, batch_data_samples)
        if self.contrast is not None:
            if self.contrast.projection_input == "backbone":
                features = self._concatenate_inputs(inputs)
                scores = self._resize(scores, features.shape[2:])
            labels = self.labels(batch_data_samples, features.shape[2:])
            losses["loss_contrast"] = self.contrast(features, labels, scores)
        return losses

    def _count_input_channels(self) -> int:
        """Count the channels of all feature maps that the decode head reads."""
        channels = self.head.in_channels
        return int(sum(channels) if isinstance(channels, list | tuple) else channels)

    def _concatenate_inputs(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Concatenate the feature maps that the decode head reads, at the size of the first."""
        index = self.head.in_index
        maps = [inputs[i] for i in (index if isinstance(index, list | tuple) else [index])]
        return torch.cat([self._resize(each, maps[0].shape[2:]) for each in maps], 1)

    def _resize(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        if maps.shape[2:] == tuple(size):
            return maps
        return F.interpolate(
            maps, size=tuple(size), mode="bilinear", align_corners=self.align_corners
        )

    def labels(self, batch_data_samples: list[Any], size: Sequence[int]) -> Tensor:
        """Resize ground truth to ``size`` (h, w) by nearest neighbour, (B·h·w,).

        Ignored pixels get the label `IGNORED`.
        """
        truth = self.head._stack_batch_gt(batch_data_samples)
        small = F.interpolate(truth.float(), size=tuple(size), mode="nearest")
        labels = small.flatten().long()
        return torch.where(labels == self.ignore_index, IGNORED, labels)

    def predict(
        self, inputs: tuple[Tensor, ...], batch_img_metas: list[dict[str, Any]], test_cfg: Any
    ) -> Tensor:
        """Predict class scores at the size of the input images, (B, C, H, W)."""
        logits: Tensor = self.head.predict_by_feat(self.forward(inputs), batch_img_metas)
        return logits


def _no_classifier_error(config: dict[str, Any]) -> ValueError:
    return ValueError(
        f"decode_head: {config.get('type')} has no classifier 'conv_seg' to replace; {USE_ANOTHER}"
    )
