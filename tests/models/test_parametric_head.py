"""The parametric head against mmseg's classifier and a loop over K."""

from __future__ import annotations

import pytest
import torch

from models.segmentors import (
    HEADS,
    build_segmentor,
    make_decode_head,
    make_feature_maps,
    make_label_maps,
    make_samples,
    sum_losses,
)


def make_head(name: str, num_prototypes: int, num_classes: int = 3):
    return build_segmentor(
        {
            "type": "ParametricHead",
            "decode_head": make_decode_head(name, num_classes),
            "num_prototypes": num_prototypes,
        }
    ).decode_head


@pytest.mark.parametrize("name", HEADS)
def test_k_1_is_bit_identical_to_the_head_of_mmseg(name: str) -> None:
    ours = make_head(name, 1)
    mmseg_head = build_segmentor(make_decode_head(name)).decode_head
    state = {f"{key}": value for key, value in ours.head.state_dict().items()}
    state |= {f"conv_seg.{key}": value for key, value in ours.classifier.state_dict().items()}
    mmseg_head.load_state_dict(state)
    maps, truth = make_feature_maps(), make_samples(make_label_maps(3))
    for mode in (True, False):
        ours.train(mode)
        mmseg_head.train(mode)
        torch.manual_seed(7)
        scores = ours(maps)
        torch.manual_seed(7)
        expected_scores = mmseg_head(maps)
        assert torch.equal(scores, expected_scores)
    torch.manual_seed(7)
    losses = ours.loss(maps, truth, {})
    torch.manual_seed(7)
    expected = mmseg_head.loss(maps, truth, {})
    assert losses.keys() == expected.keys()
    for key in losses:
        assert torch.equal(losses[key], expected[key]), key
    sum_losses(losses).backward()
    sum_losses(expected).backward()
    assert torch.equal(ours.classifier.weight.grad, mmseg_head.conv_seg.weight.grad)
    metas = [{"img_shape": (32, 32)}] * 2
    torch.manual_seed(7)
    scores = ours.predict(maps, metas, {})
    torch.manual_seed(7)
    assert torch.equal(scores, mmseg_head.predict(maps, metas, {}))


def test_a_class_score_is_the_maximum_over_k() -> None:
    head = make_head("FCNHead", 10, num_classes=4).eval()
    maps = make_feature_maps()
    with torch.no_grad():
        torch.nn.init.normal_(head.classifier.weight)
        torch.nn.init.normal_(head.classifier.bias)
        scores = head(maps)
        features = head.features(maps)
    assert scores.shape == (2, 4, *features.shape[2:])
    weight, bias = (p.detach().double() for p in head.classifier.parameters())
    for b, h, w in [(0, 0, 0), (1, 1, 0), (1, 0, 1)]:
        pixel = features[b, :, h, w].double()
        for c in range(4):
            best = max(
                float(weight[c * 10 + k, :, 0, 0] @ pixel + bias[c * 10 + k]) for k in range(10)
            )
            assert scores[b, c, h, w].item() == pytest.approx(best, abs=1e-5)


def test_only_the_best_weight_vector_of_a_pixel_gets_a_gradient() -> None:
    head = make_head("FCNHead", 5).eval()
    with torch.no_grad():
        torch.nn.init.normal_(head.classifier.weight)
        all_scores = head.classifier(head.features(make_feature_maps()))[0, :, 0, 0].view(3, 5)
    head(make_feature_maps())[0, 1, 0, 0].backward()
    has_gradient = head.classifier.weight.grad.flatten(1).any(1).view(3, 5)
    expected = torch.zeros(3, 5, dtype=torch.bool)
    expected[1, all_scores[1].argmax()] = True
    assert torch.equal(has_gradient, expected)


@pytest.mark.parametrize("num_prototypes", [1, 10])
def test_the_classifier_is_initialised_like_that_of_mmseg(num_prototypes: int) -> None:
    head = make_head("FCNHead", num_prototypes, num_classes=200)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not head.classifier.bias.any()
    assert head.classifier.weight.shape == (200 * num_prototypes, 8, 1, 1)
