"""Pseudo-masks of a CAM network against a separate sum over scales and flips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import Tensor

from models.segmentors import build_segmentor, make_decode_head, make_images
from tests.core import weak_reference as reference

CLASSES = 5
LABELS = [[1, 3], [2]]
SIZES = [(32, 32), (24, 40)]
"""Original (height, width) of the images; the network input is 32×32."""


def make_network(**settings: Any) -> Any:
    config = {
        "type": "CamHead",
        "decode_head": make_decode_head(
            "FCNHead", CLASSES, num_convs=0, concat_input=False, channels=16
        ),
        **settings,
    }
    model = build_segmentor(config, type="CamNetwork").eval()
    torch.nn.init.normal_(model.decode_head.classifier.weight)
    return model


def make_data_samples() -> list[SegDataSample]:
    samples = []
    for labels, size in zip(LABELS, SIZES, strict=True):
        sample = SegDataSample(metainfo={"img_shape": (32, 32), "ori_shape": size})
        sample.set_metainfo({"image_labels": labels})
        samples.append(sample)
    return samples


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("scales", [(1.0,), (0.5,), (0.5, 1.0, 1.5)], ids=str)
@pytest.mark.parametrize("flip", [False, True], ids=["as it is", "flipped too"])
@torch.no_grad()
def test_maps_are_summed_over_scales_and_flips(scales: tuple[float, ...], flip: bool) -> None:
    model = make_network(scales=scales, flip=flip, threshold=0.4)
    predicted = model.predict(make_images(), make_data_samples())
    head = model.decode_head
    for number, (sample, labels, size) in enumerate(zip(predicted, LABELS, SIZES, strict=True)):
        image = make_images()[number : number + 1]
        total = torch.zeros(1, CLASSES - 1, *size)
        for scale in scales:
            side = int(32 * scale)
            scaled = image if scale == 1 else resize(image, (side, side))
            maps = head.classifier(model.extract_feat(scaled)[3]).relu()
            total += resize(maps, size)
            if flip:
                maps = head.classifier(model.extract_feat(scaled.flip(3))[3]).relu()
                total += resize(maps.flip(3), size)
        present = [[c in labels for c in range(1, CLASSES)]]
        expected = reference.compute_maps(total.numpy(), present)
        confidences = sample.seg_logits.data.numpy()
        np.testing.assert_allclose(
            confidences, reference.add_background(expected)[0], rtol=1e-4, atol=1e-5
        )
        mask = sample.pred_sem_seg.data.numpy().reshape(size)
        is_clear = np.abs(expected - 0.4).min(axis=(0, 1)) > 1e-4
        np.testing.assert_array_equal(
            mask[is_clear], reference.compute_labels(expected, 0.4)[0][is_clear]
        )
        assert set(np.unique(mask)) <= {0, *labels}


def test_prediction_without_image_level_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="image-level labels are missing"):
        make_network().predict(make_images())
