"""What each departure of the authors' code from the paper changes on one random example.

python benchmarks/released_switches.py [--seed 0]

One step of ``method=paper`` on random features is
compared with the same step with one switch of ``method=released`` turned on: same weights, pixels,
labels and initial prototypes as far as the switch allows. The last column is the cosine between the
means of the pixels that each prototype got. docs/method.md has these numbers.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

import protoseg.models  # noqa: F401  registers the heads

CLASSES, PROTOTYPES, CHANNELS, SIDE, IMAGES = 19, 10, 64, 32, 2
SWITCHES: dict[str, dict[str, Any]] = {
    "assignment=gumbel": {"assignment": "gumbel"},
    "update_pixels=correct": {"update_pixels": "correct"},
    "temperature=1": {"temperature": 1.0},
    "ppd_weight=0.001": {"ppd_weight": 0.001},
    "projection=conv": {"projection": "conv"},
    "projection=conv_no_norm": {"projection": "conv_no_norm"},
    "projection=released": {"projection": "released"},
    "embedding_norm=layer": {"embedding_norm": "layer"},
    "score_norm=layer": {"score_norm": "layer"},
    "init_bounds=two": {"init_bounds": "two"},
    "class_weights=dataset": {"class_weight": torch.linspace(0.8, 1.2, CLASSES).tolist()},
    "align_corners=true": {"align_corners": True},
}


def build_head(seed: int, **switches: Any) -> Any:
    """Build a prototype head; heads of one seed have the same weights and prototypes."""
    align_corners = switches.pop("align_corners", False)
    class_weight = switches.pop("class_weight", None)
    loss = {"type": "CrossEntropyLoss", "class_weight": class_weight}
    loss["avg_non_ignore"] = class_weight is None
    decode_head = {
        "type": "FCNHead",
        "in_channels": CHANNELS,
        "channels": CHANNELS,
        "num_convs": 0,
        "concat_input": False,
        "num_classes": CLASSES,
        "dropout_ratio": 0.0,
        "align_corners": align_corners,
        "loss_decode": loss,
    }
    head = {"type": "PrototypeHead", "decode_head": decode_head, "num_prototypes": PROTOTYPES}
    head["momentum"] = 0.0  # the new prototypes are the means of their pixels
    torch.manual_seed(seed)
    built = MODELS.build({**head, **switches}).train()
    torch.manual_seed(seed)  # layers of a switch use random numbers before the prototypes
    built.bank.reset_prototypes()
    return built


def make_batch(seed: int) -> tuple[Tensor, list[SegDataSample]]:
    """Make features with a direction for each class, and labels in blocks, a tenth ignored."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, CLASSES, (IMAGES, SIDE // 4, SIDE // 4), generator=generator)
    labels = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    directions = torch.randn(CLASSES, CHANNELS, generator=generator)
    noise = torch.randn(IMAGES, SIDE, SIDE, CHANNELS, generator=generator)
    features = (directions[labels] + 1.5 * noise).permute(0, 3, 1, 2)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    full = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    samples = []
    for one in full:
        sample = SegDataSample(metainfo={"img_shape": tuple(one.shape)})
        sample.gt_sem_seg = PixelData(data=one[None])
        samples.append(sample)
    return features, samples


def run_step(head: Any, seed: int) -> tuple[dict[str, float], Tensor]:
    """Return the weighted losses of one step, and the updated prototypes (C, K, D)."""
    features, samples = make_batch(seed)
    torch.manual_seed(seed)
    losses, _ = head.losses(features, samples)
    values = {name: float(value) for name, value in losses.items() if "loss" in name}
    return values, head.bank.prototypes


def main() -> None:
    """Print one line per switch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    if not MMLogger.check_instance_created("protoseg"):
        MMLogger.get_instance("protoseg", log_level="ERROR")
    init_default_scope("mmseg")
    paper, prototypes = run_step(build_head(seed), seed)
    print(f"| switch | {' | '.join(name for name in paper)} | cosine of the means |")
    print("|---|" + "---|" * (len(paper) + 1))
    for name, switches in {"paper": {}, **SWITCHES}.items():
        losses, after = run_step(build_head(seed, **switches), seed)
        cosine = (prototypes * after).sum(-1).mean()
        print(f"| {name} | {' | '.join(f'{v:.4f}' for v in losses.values())} | {cosine:.6f} |")


if __name__ == "__main__":
    main()
