"""Small segmentors with mmseg's decode heads, and batches for them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import protoseg.models  # noqa: F401  registers the heads

# mmengine logs the initialisation of every parameter.
if not MMLogger.check_instance_created("protoseg"):
    MMLogger.get_instance("protoseg", log_level="ERROR")

CHANNELS = (8, 8, 12, 16)
"""Channels of TinyNet's four feature maps, at strides 2, 4, 8 and 16."""
IGNORE = 255
BN = {"type": "BN"}
CE = {"type": "CrossEntropyLoss", "avg_non_ignore": True}
ONE = {"in_channels": CHANNELS[3], "in_index": 3, "norm_cfg": BN}
ALL = {"in_channels": list(CHANNELS), "in_index": [0, 1, 2, 3], "norm_cfg": BN}

HEADS: dict[str, dict[str, Any]] = {
    "FCNHead": {**ONE, "num_convs": 1},
    "FCNHead, concatenated": {**ALL, "num_convs": 1, "input_transform": "resize_concat"},
    "PSPHead": {**ONE, "pool_scales": (1, 2)},
    "ASPPHead": {**ONE, "dilations": (1, 2)},
    "DepthwiseSeparableASPPHead": {
        **ONE,
        "dilations": (1, 2),
        "c1_in_channels": CHANNELS[0],
        "c1_channels": 4,
    },
    "DepthwiseSeparableFCNHead": {**ONE, "num_convs": 1, "dw_act_cfg": None},
    "SegformerHead": ALL,
    "UPerHead": {**ALL, "pool_scales": (1, 2)},
    "FPNHead": {**ALL, "feature_strides": [2, 4, 8, 16]},
    "APCHead": {**ONE, "pool_scales": (1, 2)},
    "DMHead": {**ONE, "filter_sizes": (1, 3)},
    "DNLHead": ONE,
    "EMAHead": {**ONE, "ema_channels": 8, "num_bases": 4, "num_stages": 1},
    "GCHead": ONE,
    "ISAHead": {**ONE, "isa_channels": 4, "down_factor": (2, 2)},
    "NLHead": ONE,
    "SETRUPHead": {**ONE, "num_convs": 1},
}
"""Decode heads of mmseg that end in ``conv_seg``."""


def make_decode_head(name: str, num_classes: int = 3, **changes: Any) -> dict[str, Any]:
    """Return the config of one of `HEADS`: 8 channels, no dropout, mean over valid pixels."""
    return {
        "type": name.partition(",")[0],
        "channels": 8,
        "num_classes": num_classes,
        "dropout_ratio": 0.0,
        "align_corners": False,
        "loss_decode": CE,
        **copy.deepcopy(HEADS[name]),
        **changes,
    }


def build_segmentor(head: dict[str, Any], **changes: Any) -> Any:
    """Build an ``EncoderDecoder`` of TinyNet and a head, with initial weights."""
    config = {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": [127.5] * 3,
            "std": [127.5] * 3,
            "size": (32, 32),
            "seg_pad_val": IGNORE,
        },
        "backbone": {"type": "TinyNet", "channels": CHANNELS},
        "decode_head": head,
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
        **changes,
    }
    model = MODELS.build(ConfigDict(config))
    model.init_weights()
    return model


def make_feature_maps(batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return feature maps with the shapes of TinyNet for images of 32×32."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, width, 32 // stride, 32 // stride, generator=generator)
        for width, stride in zip(CHANNELS, (2, 4, 8, 16), strict=True)
    )


def make_samples(maps: np.ndarray) -> list[SegDataSample]:
    """Return data samples with label maps (B, H, W) as ground truth."""
    data_samples = []
    for labels in maps:
        sample = SegDataSample(metainfo={"img_shape": labels.shape, "ori_shape": labels.shape})
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels)[None].long())
        data_samples.append(sample)
    return data_samples


def make_label_maps(
    num_classes: int, batch: int = 2, size: int = 32, seed: int = 0, ignored: float = 0.2
) -> np.ndarray:
    """Return random label maps (B, H, W) with a share of ignored pixels."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, num_classes, (batch, size, size))
    maps[rng.random(maps.shape) < ignored] = IGNORE
    return maps


def make_images(batch: int = 2, seed: int = 0) -> torch.Tensor:
    """Return preprocessed images, (B, 3, 32, 32)."""
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def sum_losses(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum that mmengine minimises."""
    return sum(value for name, value in losses.items() if "loss" in name)


def count_numbers(parameters: Sequence[torch.Tensor]) -> int:
    """Return the number of elements of all parameters."""
    return sum(p.numel() for p in parameters)
