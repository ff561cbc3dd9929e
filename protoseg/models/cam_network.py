"""A segmentor that is trained on image-level labels and predicts pseudo-masks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor

from protoseg.core import weak_supervision


@MODELS.register_module()
class CamNetwork(EncoderDecoder):
    """mmseg's ``EncoderDecoder`` with a `protoseg.models.cam_head.CamHead`.

    Each data sample has ``image_labels``, the indices of the classes in the image without the
    background. Label maps are never read.
    """

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """Compute the losses of a batch in one or two views."""
        head: Any = self.decode_head
        images = [inputs]
        if head.second_view:
            images.append(_scale_images(inputs, head.view_scale))
        views = [head.features(self.extract_feat(each)) for each in images]
        present = head.encode_image_labels([sample.image_labels for sample in data_samples], inputs)
        shapes = torch.tensor([sample.img_shape[:2] for sample in data_samples])
        covered = shapes / torch.tensor(inputs.shape[2:])
        losses = head.compute_view_losses(views, present, covered)
        return {f"decode.{name}": value for name, value in losses.items()}

    def predict(self, inputs: Tensor, data_samples: list[Any] | None = None) -> list[Any]:
        """Predict confidences (``seg_logits``) and pseudo-masks at the size of the images.

        Maps are summed over scales and flips, then normalised. Classes that are not in the image
        are left out.

        Raises:
            ValueError: there are no data samples, so the image-level labels are missing.
        """
        if data_samples is None:
            raise ValueError(
                "CamNetwork.predict: image-level labels are missing; pass data samples with "
                "image_labels"
            )
        head: Any = self.decode_head
        for image, sample in zip(inputs, data_samples, strict=True):
            present = head.encode_image_labels([sample.image_labels], inputs)
            maps = weak_supervision.normalise_maps(
                self._sum_activations(image[None], sample, present), present
            )
            data = {
                "seg_logits": PixelData(data=weak_supervision.add_background(maps)[0]),
                "pred_sem_seg": PixelData(
                    data=weak_supervision.make_pseudo_labels(maps, head.background_threshold)
                ),
            }
            sample.set_data(data)
        return data_samples

    def _sum_activations(self, image: Tensor, sample: Any, present: Tensor) -> Tensor:
        """Sum positive activations of the classes in an image over scales and flips."""
        head: Any = self.decode_head
        height, width = sample.ori_shape[:2]
        total = image.new_zeros(1, head.num_classes - 1, height, width)
        classes = present[0].nonzero().flatten()
        if not len(classes):
            return total
        for scale in head.scales:
            scaled = _scale_images(image, scale)
            for flip in (False, True)[: 1 + head.flip]:
                view = scaled.flip(3) if flip else scaled
                maps = head.classifier(head.features(self.extract_feat(view)))[:, classes].relu()
                maps = maps.flip(3) if flip else maps
                total[:, classes] += resize(
                    maps.float(), size=(height, width), mode="bilinear", align_corners=False
                )
        return total


def _scale_images(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
