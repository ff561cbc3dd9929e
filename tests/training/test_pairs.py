"""One training iteration of every model of the paper: each backbone with its decoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from training.small import small_spec

PAIRS = [
    ("resnet101", "fcn_512", "sgd_160k"),
    ("hrnet_w48", "fcn_hr48", "sgd_160k"),
    ("swin_base", "segformer_768", "swin_160k"),
    ("mit_b2", "segformer_768", "segformer_40k"),
    ("mit_b4", "segformer_768", "segformer_80k"),
    ("mit_b5", "segformer_768", "segformer_160k_b8"),
    ("mit_b0", "segformer_256", "segformer_160k"),
    ("mobilenet_v2_d8", "fcn_512", "sgd_160k"),
    ("mobilenet_v2_d8", "pspnet", "sgd_160k"),
    ("mobilenet_v2_d8", "deeplabv3plus", "sgd_160k"),
]
SMALL = {"mit_b0", "mobilenet_v2_d8"}
CASES = [
    pytest.param(*pair, "paper", marks=[] if pair[0] in SMALL else pytest.mark.slow)
    for pair in PAIRS
]
CASES += [pytest.param(*pair, "parametric") for pair in PAIRS if pair[0] in SMALL]


@pytest.mark.parametrize(("backbone", "decoder", "schedule", "method"), CASES)
def test_one_iteration_trains_every_convolution(
    backbone: str, decoder: str, schedule: str, method: str, shapes_root: Path
) -> None:
    spec = small_spec(
        *(f"backbone={backbone}", f"decoder={decoder}", f"method={method}"),
        *(f"schedule={schedule}", "backbone.weights=''"),
        *("augmentation.scale=[64,64]", "augmentation.crop_size=[64,64]"),
        *("schedule.batch_size=2", "schedule.warmup_iterations=0"),
        *(["~method.momentum"] if method == "parametric" else []),
    )
    parts = build_components(build_config(spec, data_root=shapes_root), None)
    model = parts.model.train()
    weights = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim == 4
    }
    before = {name: parameter.detach().clone() for name, parameter in weights.items()}
    losses = model.train_step(next(iter(parts.train_loader)), parts.optimizer)
    assert all(torch.isfinite(loss).all() for loss in losses.values())
    assert ("aux.loss_ce" in losses) == spec.decoder.auxiliary
    unchanged = [name for name, value in before.items() if torch.equal(weights[name], value)]
    assert not unchanged
    if method == "paper":
        assert model.decode_head.bank.updates.sum() > 0
        assert {"decode.loss_ppc", "decode.loss_ppd"} <= losses.keys()
        assert model.decode_head.bank.prototypes.shape[2] == spec.decoder.channels
