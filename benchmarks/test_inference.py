"""Inference: class scores of a head and predictions of a complete model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mmengine.registry import DefaultScope
from networks import build_camvid_spec, build_network, make_crops
from test_head import CHANNELS, decode_head
from torch import Tensor

from protoseg.models import ParametricHead, PrototypeHead

CASES = [(classes, k) for classes in (19, 150, 847) for k in (1, 10)]


@pytest.mark.parametrize(("classes", "k"), CASES, ids=[f"{c}-{k}" for c, k in CASES])
def test_head(case: Callable[..., None], device: torch.device, classes: int, k: int) -> None:
    """Class scores of one image of size 512, from a feature map of 128 × 128."""
    features = torch.randn(1, CHANNELS, 128, 128, device=device)
    with DefaultScope.overwrite_default_scope("mmseg"):
        ours = PrototypeHead(decode_head(classes), num_prototypes=k).to(device).eval()
        parametric = ParametricHead(decode_head(classes), num_prototypes=k).to(device).eval()
    with torch.no_grad():
        # With the same weights and unit vectors both heads must give the same scores.
        parametric.classifier.weight.copy_(ours.bank.prototypes.flatten(0, 1)[..., None, None])
        parametric.classifier.bias.zero_()

    def build_step(head: torch.nn.Module) -> Callable[[], Tensor]:
        def step() -> Tensor:
            with torch.inference_mode():
                return head((features,))

        return step

    with torch.inference_mode():
        unit = torch.nn.functional.normalize(features, dim=1)
        torch.testing.assert_close(ours((features,)), parametric((unit,)), atol=1e-5, rtol=1e-4)
    case(
        "inference, head",
        f"16,384 px, {classes} classes, K = {k}",
        build_step(ours),
        {"parametric": build_step(parametric)},
        memory=True,
    )


def test_whole_model(case: Callable[..., None], device: torch.device) -> None:
    """MobileNetV2 on one image of the size of CamVid crops, from pixels to labels."""
    steps = []
    for method in ("paper", "parametric"):
        model, _ = build_network(build_camvid_spec(method), device)
        model.eval()
        batch = make_crops(1, 256, 11)

        def step(model: torch.nn.Module = model, batch: dict[str, object] = batch) -> object:
            with torch.inference_mode():
                return model.test_step(batch)

        steps.append(step)
    predicted = steps[0]()
    assert predicted[0].pred_sem_seg.data.shape == (1, 256, 256)  # type: ignore[index]
    case(
        "inference, whole model",
        "MobileNetV2, one image of 256, 11 classes, K = 10",
        steps[0],
        {"parametric": steps[1]},
        memory=True,
    )
