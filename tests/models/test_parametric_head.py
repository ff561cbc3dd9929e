"""The parametric baseline against mmseg's own classifier, and against a loop over K."""

from __future__ import annotations

import pytest
import torch

from models.segmentors import (
    HEADS,
    decode_head,
    feature_maps,
    label_maps,
    samples,
    segmentor,
    total_loss,
)


def parametric(name: str, num_prototypes: int, num_classes: int = 3):
    return segmentor(
        {
            "type": "ParametricHead",
            "decode_head": decode_head(name, num_classes),
            "num_prototypes": num_prototypes,
        }
    ).decode_head


@pytest.mark.parametrize("name", HEADS)
def test_k_1_is_mmsegs_own_head_bit_for_bit(name: str) -> None:
    ours = parametric(name, 1)
    plain = segmentor(decode_head(name)).decode_head
    state = {f"{key}": value for key, value in ours.head.state_dict().items()}
    state |= {f"conv_seg.{key}": value for key, value in ours.classifier.state_dict().items()}
    plain.load_state_dict(state)
    maps, truth = feature_maps(), samples(label_maps(3))
    for mode in (True, False):
        ours.train(mode)
        plain.train(mode)
        torch.manual_seed(7)
        mine = ours(maps)
        torch.manual_seed(7)
        theirs = plain(maps)
        assert torch.equal(mine, theirs)
    torch.manual_seed(7)
    losses = ours.loss(maps, truth, {})
    torch.manual_seed(7)
    expected = plain.loss(maps, truth, {})
    assert losses.keys() == expected.keys()
    for key in losses:
        assert torch.equal(losses[key], expected[key]), key
    total_loss(losses).backward()
    total_loss(expected).backward()
    assert torch.equal(ours.classifier.weight.grad, plain.conv_seg.weight.grad)
    metas = [{"img_shape": (32, 32)}] * 2
    torch.manual_seed(7)
    mine = ours.predict(maps, metas, {})
    torch.manual_seed(7)
    assert torch.equal(mine, plain.predict(maps, metas, {}))


def test_a_class_scores_the_best_of_its_k() -> None:
    head = parametric("FCNHead", 10, num_classes=4).eval()
    maps = feature_maps()
    with torch.no_grad():
        torch.nn.init.normal_(head.classifier.weight)
        torch.nn.init.normal_(head.classifier.bias)
        found = head(maps)
        features = head.features(maps)
    assert found.shape == (2, 4, *features.shape[2:])
    weight, bias = (p.detach().double() for p in head.classifier.parameters())
    for b, h, w in [(0, 0, 0), (1, 1, 0), (1, 0, 1)]:
        pixel = features[b, :, h, w].double()
        for c in range(4):
            best = max(
                float(weight[c * 10 + k, :, 0, 0] @ pixel + bias[c * 10 + k]) for k in range(10)
            )
            assert found[b, c, h, w].item() == pytest.approx(best, abs=1e-5)


def test_only_the_winner_of_a_pixel_learns() -> None:
    head = parametric("FCNHead", 5).eval()
    with torch.no_grad():
        torch.nn.init.normal_(head.classifier.weight)
        every = head.classifier(head.features(feature_maps()))[0, :, 0, 0].view(3, 5)
    head(feature_maps())[0, 1, 0, 0].backward()
    moved = head.classifier.weight.grad.flatten(1).any(1).view(3, 5)
    expected = torch.zeros(3, 5, dtype=torch.bool)
    expected[1, every[1].argmax()] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("num_prototypes", [1, 10])
def test_starts_as_mmseg_starts_its_classifier(num_prototypes: int) -> None:
    head = parametric("FCNHead", num_prototypes, num_classes=200)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not head.classifier.bias.any()
    assert head.classifier.weight.shape == (200 * num_prototypes, 8, 1, 1)
