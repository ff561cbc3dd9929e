"""The losses of the CAM head against a float64 reference; the switches of its losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from models.segmentors import make_decode_head
from protoseg.core import weak_supervision
from tests.core import weak_reference as reference

CLASSES = 5
ALPHA, BETA, TEMPERATURE, THRESHOLD = 0.07, 0.3, 0.1, 0.2
PRESENT = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]).bool()
COVERED = torch.tensor([[1.0, 1.0], [0.75, 1.0], [1.0, 0.5]])
ALL = {"cross_prototype": True, "cross_cam": True, "intra": True}
PARTS: list[dict[str, bool]] = [
    {"cross_prototype": True},
    {"cross_cam": True},
    {"intra": True},
    ALL,
]


def make_head(**settings: Any) -> Any:
    """Build a head whose prototypes contain all pixels, so that nothing is random."""
    config = {
        "type": "CamHead",
        "decode_head": make_decode_head(
            "FCNHead", CLASSES, num_convs=0, concat_input=False, channels=16
        ),
        "channels": 32,
        "top_pixels": 10_000,
        "cross_weight": ALPHA,
        "intra_weight": BETA,
        "temperature": TEMPERATURE,
        "threshold": THRESHOLD,
        **settings,
    }
    head = MODELS.build(config)
    torch.nn.init.normal_(head.classifier.weight)
    return head.train()


def make_features(head: Any) -> list[Tensor]:
    """Return features of a view and of one at half size; padding has the largest values."""
    views = []
    for height, width in ((8, 6), (4, 3)):
        feature_map = torch.randn(3, head.feature_channels, height, width)
        views.append(
            torch.where(
                torch.from_numpy(find_inside(height, width))[:, None], feature_map, 9 * feature_map
            )
        )
    return views


def find_inside(height: int, width: int) -> np.ndarray:
    """Return the pixels whose centre is image, not padding."""
    out = np.zeros((3, height, width), bool)
    for b, (high, wide) in enumerate(COVERED.tolist()):
        for y in range(height):
            for x in range(width):
                out[b, y, x] = (y + 0.5) / height < high and (x + 0.5) / width < wide
    return out


def compute_expected_view(head: Any, feature_map: Tensor) -> dict[str, Any]:
    """Return embeddings, labels and prototypes of a view at the grid of the smaller one."""
    feature_map = feature_map.double()
    maps = torch.einsum("oc,bchw->bohw", head.classifier.weight.double()[:, :, 0, 0], feature_map)
    weight = head.projection.weight.double()[:, :, 0, 0]
    vectors = torch.einsum("oc,bchw->bohw", weight, feature_map)
    vectors = (vectors + head.projection.bias.double()[:, None, None]).relu()
    maps, vectors = (
        F.interpolate(each, size=(4, 3), mode="bilinear", align_corners=False).detach()
        for each in (maps, vectors)
    )
    image = find_inside(4, 3)
    confidences = reference.compute_maps(maps.numpy() * image[:, None], PRESENT.numpy())
    labels = reference.compute_labels(confidences, THRESHOLD)
    labels[~image] = weak_supervision.IGNORED
    confidences = (reference.add_background(confidences) * image[:, None]).transpose(0, 2, 3, 1)
    confidences = confidences.reshape(-1, CLASSES)
    rows = [reference.normalise(row) for row in vectors.permute(0, 2, 3, 1).reshape(-1, 32).numpy()]
    prototypes = [
        reference.compute_prototype(rows, confidences, c, 10_000, True) for c in range(CLASSES)
    ]
    return {"v": rows, "y": labels.flatten(), "p": prototypes}


def compute_classification_loss(head: Any, views: list[Tensor]) -> float:
    """Return the mean over views of the classification loss, without padding."""
    total = 0.0
    for feature_map in views:
        maps = head.classifier(feature_map).detach().double().numpy()
        image = find_inside(*feature_map.shape[2:])
        pooled = [[plane[image[b]].mean() for plane in planes] for b, planes in enumerate(maps)]
        total += reference.compute_soft_margin(pooled, PRESENT.numpy()) / len(views)
    return total


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "+".join(parts))
def test_losses_of_two_views_equal_the_reference(parts: dict[str, bool]) -> None:
    head = make_head(second_view=True, **parts)
    views = make_features(head)
    losses = head.compute_view_losses(views, PRESENT, COVERED)
    one, two = (compute_expected_view(head, feature_map) for feature_map in views)
    cross = intra = 0.0
    for this, other in ((one, two), (two, one)):
        if "cross_prototype" in parts:
            cross += reference.compute_mean_loss(this["v"], this["y"], other["p"], TEMPERATURE) / 2
        if "cross_cam" in parts:
            cross += reference.compute_mean_loss(this["v"], other["y"], this["p"], TEMPERATURE) / 2
        intra += reference.compute_mean_loss(this["v"], this["y"], this["p"], TEMPERATURE) / 2
    expected = {"loss_cls": compute_classification_loss(head, views)}
    expected |= {"loss_cross": ALPHA * cross} if cross else {}
    expected |= {"loss_intra": BETA * intra} if "intra" in parts else {}
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=2e-5), name


def test_one_view_has_the_classification_loss_only() -> None:
    head = make_head()
    views = make_features(head)[:1]
    losses = head.compute_view_losses(views, PRESENT, COVERED)
    assert losses.keys() == {"loss_cls"}
    assert losses["loss_cls"].item() == pytest.approx(
        compute_classification_loss(head, views), rel=1e-5
    )
    assert head.projection is None


def test_contrast_does_not_train_the_classifier() -> None:
    """Maps, labels and prototypes have no gradient; projection and features have one."""
    head = make_head(second_view=True, **ALL)
    views = [feature_map.requires_grad_() for feature_map in make_features(head)]
    losses = head.compute_view_losses(views, PRESENT, COVERED)
    (losses["loss_cross"] + losses["loss_intra"]).backward()
    assert head.classifier.weight.grad is None
    assert head.projection.weight.grad.abs().sum() > 0
    assert all(
        feature_map.grad is not None and feature_map.grad.abs().sum() > 0 for feature_map in views
    )


@pytest.mark.parametrize("choice", ["prototype_mining", "pixel_sampling"])
def test_selection_switches_change_the_intra_view_loss_only(choice: str) -> None:
    head, choosing = (
        make_head(second_view=True, **ALL),
        make_head(second_view=True, **ALL, **{choice: True}),
    )
    choosing.load_state_dict(head.state_dict())
    views = make_features(head)
    before, after = (h.compute_view_losses(views, PRESENT, COVERED) for h in (head, choosing))
    assert before["loss_intra"] != after["loss_intra"]
    assert before["loss_cls"] == after["loss_cls"]
    torch.testing.assert_close(before["loss_cross"], after["loss_cross"])
