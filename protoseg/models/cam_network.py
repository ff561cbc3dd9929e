"""A segmentor trained on image-level labels, whose predictions are pseudo-masks."""

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
    """mmseg's ``EncoderDecoder`` around a `protoseg.models.cam_head.CamHead`.

    Each data sample has ``image_labels``: the numbers of the classes in the image, without the
    background's. Label maps are never read.
    """

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """The losses of a batch in both views."""
        head: Any = self.decode_head
        images = [inputs]
        if head.second_view:
            images.append(_scaled(inputs, head.view_scale))
        views = [head.features(self.extract_feat(each)) for each in images]
        present = head.present([sample.image_labels for sample in data_samples], inputs)
        shapes = torch.tensor([sample.img_shape[:2] for sample in data_samples])
        covered = shapes / torch.tensor(inputs.shape[2:])
        losses = head.losses_of_views(views, present, covered)
        return {f"decode.{name}": value for name, value in losses.items()}

    def predict(self, inputs: Tensor, data_samples: list[Any] | None = None) -> list[Any]:
        """Confidences (``seg_logits``) and pseudo-masks at the size of the images.

        Maps are added up over scales and flips before they are normalised; classes that the image
        does not have are left out.

        Raises:
            ValueError: no data samples, so that nothing says which classes there are.
        """
        if data_samples is None:
            raise ValueError("a CAM network needs the image-level labels of what it predicts")
        head: Any = self.decode_head
        for image, sample in zip(inputs, data_samples, strict=True):
            present = head.present([sample.image_labels], inputs)
            maps = weak_supervision.normalise_maps(
                self._activations(image[None], sample, present), present
            )
            data = {
                "seg_logits": PixelData(data=weak_supervision.with_background(maps)[0]),
                "pred_sem_seg": PixelData(
                    data=weak_supervision.pseudo_labels(maps, head.background)
                ),
            }
            sample.set_data(data)
        return data_samples

    def _activations(self, image: Tensor, sample: Any, present: Tensor) -> Tensor:
        """Positive activations of the classes of an image, summed over scales and flips."""
        head: Any = self.decode_head
        height, width = sample.ori_shape[:2]
        total = image.new_zeros(1, head.num_classes - 1, height, width)
        classes = present[0].nonzero().flatten()
        if not len(classes):
            return total
        for scale in head.scales:
            scaled = _scaled(image, scale)
            for flip in (False, True)[: 1 + head.flip]:
                seen = scaled.flip(3) if flip else scaled
                found = head.classifier(head.features(self.extract_feat(seen)))[:, classes].relu()
                found = found.flip(3) if flip else found
                total[:, classes] += resize(
                    found.float(), size=(height, width), mode="bilinear", align_corners=False
                )
        return total


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
