"""Pixel contrast with each head, and the pixel-query heads."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from models.segmentors import (
    CE,
    CHANNELS,
    IGNORE,
    build_segmentor,
    make_decode_head,
    make_feature_maps,
    make_images,
    make_label_maps,
    make_samples,
    sum_losses,
)
from protoseg.models.pixel_contrast import PixelContrast
from tests.core import contrast_reference as reference

SETTINGS = {
    "weight": 0.3,
    "channels": 16,
    "anchors": 40,
    "positives": 8,
    "negatives": 16,
    "pixel_queue": 20,
    "region_queue": 6,
    "pixels_per_image": 3,
}
HEADS = ("ParametricHead", "PixelQueryHead", "PrototypeHead")
every_head = pytest.mark.parametrize("wrapper", HEADS)


def make_segmentor(wrapper: str, contrast: dict | None = SETTINGS, **changes):
    config = {
        "type": wrapper,
        "decode_head": make_decode_head("SegformerHead", 3),
        "num_prototypes": 2,
    }
    contrast = copy.deepcopy(contrast) and {**contrast, **changes}
    return build_segmentor({**config, "contrast": contrast}).train()


@every_head
def test_contrast_adds_one_loss_and_changes_no_other(wrapper: str) -> None:
    torch.manual_seed(3)
    plain = make_segmentor(wrapper, None)
    with_contrast = make_segmentor(wrapper)
    missing = with_contrast.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {name.split(".")[1] for name in missing} == {"contrast"}
    truth = make_samples(make_label_maps(3))
    torch.manual_seed(7)
    expected = plain.loss(make_images(), truth)
    torch.manual_seed(7)
    actual = with_contrast.loss(make_images(), truth)
    assert actual.keys() - expected.keys() == {"decode.loss_contrast"}
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
    actual["decode.loss_contrast"].backward()
    without_gradient = {
        name.rpartition(".")[0]
        for name, parameter in with_contrast.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    # The gradient of a bias before a norm is only rounding error; the classifier has none.
    classifiers = {"decode_head.classifier"} if wrapper != "PrototypeHead" else set()
    assert classifiers <= without_gradient
    assert not {name for name in without_gradient if "backbone" in name}
    assert "decode_head.contrast.projection.3" not in without_gradient


@every_head
def test_evaluation_does_not_change_the_memory(wrapper: str) -> None:
    model = make_segmentor(wrapper).eval()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.predict(make_images(), make_samples(make_label_maps(3)))
        model.loss(make_images(), make_samples(make_label_maps(3)))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_loss_equals_the_reference_and_the_batch_is_added_to_the_memory(monkeypatch) -> None:
    """The projection is from torch, everything after it from the reference."""
    contrast = PixelContrast(8, 3, **SETTINGS).train()
    draws: list[torch.Tensor] = []
    rand = torch.rand

    def record_draw(*size, **options):
        draws.append(rand(*size, **options))
        return draws[-1]

    monkeypatch.setattr(torch, "rand", record_draw)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        features = torch.randn(2, 8, 6, 5, generator=generator)
        labels = torch.randint(-1, 3, (60,), generator=generator)
        scores = torch.randn(2, 3, 6, 5, generator=generator)
        with torch.no_grad():
            projected = (
                copy.deepcopy(contrast).projection(features).permute(0, 2, 3, 1).flatten(0, 2)
            )
        rows = torch.nn.functional.normalize(projected)
        memory_rows, memory_labels = (each.numpy() for each in contrast.memory.collect_samples())
        expected_memory = copy.deepcopy(contrast.memory)
        draws.clear()
        actual = contrast(features, labels, scores)
        wrong = (scores.permute(0, 2, 3, 1).flatten(0, 2).argmax(1) != labels).numpy()
        random_keys = [each.numpy() for each in draws]
        anchors = reference.choose_anchors(labels.tolist(), wrong, 40, random_keys[0])
        own = rows.numpy()[anchors], labels.numpy()[anchors]
        anchor_samples = range(len(memory_rows), len(memory_rows) + len(anchors))
        expected = reference.compute_contrast_loss(
            *own,
            np.concatenate([memory_rows, own[0]]),
            np.concatenate([memory_labels, own[1]]),
            anchor_samples,
            0.1,
            positives=8,
            negatives=16,
            hard=True,
            random_keys=random_keys[1],
        )
        assert actual.item() == pytest.approx(0.3 * expected, rel=1e-4)
        expected_memory.push_batch(rows, labels, 2, draws[2])
        for name, value in expected_memory.state_dict().items():
            torch.testing.assert_close(value, contrast.memory.state_dict()[name], rtol=0, atol=1e-6)
    assert (contrast.memory.pixels_seen > 0).all()


@pytest.mark.parametrize("changes", [{}, {"selection": "random"}, {"pixel_queue": 0}])
def test_under_autocast_embeddings_and_memory_are_float32(changes: dict) -> None:
    model = make_segmentor("ParametricHead", **changes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.loss(make_images(), make_samples(make_label_maps(3)))
    assert losses["decode.loss_contrast"].dtype == torch.float32
    assert model.decode_head.contrast.memory.regions.dtype == torch.float32
    sum_losses(losses).backward()


@every_head
def test_a_batch_without_labels_has_loss_zero_and_is_not_added(wrapper: str) -> None:
    model = make_segmentor(wrapper)
    losses = model.loss(make_images(), make_samples(np.full((2, 32, 32), IGNORE)))
    assert losses["decode.loss_contrast"].item() == 0
    sum_losses(losses).backward()
    assert not model.decode_head.contrast.memory.pixels_seen.any()


def test_random_selection_ignores_wrong_predictions() -> None:
    contrast = PixelContrast(8, 3, **{**SETTINGS, "selection": "random"})
    labels, rows = torch.arange(60) % 3, torch.nn.functional.normalize(torch.randn(60, 16))
    actual = []
    for wrong in (torch.zeros(60).bool(), torch.ones(60).bool()):
        torch.manual_seed(5)
        actual.append(contrast.compute_loss(rows, labels, wrong, 1))
    assert torch.equal(*actual)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": 0}, "contrast.weight: 0 is out of range; greater than 0"),
        ({"temperature": 0.0}, "contrast.temperature: 0.0 is out of range; greater than 0"),
        ({"anchors": 0}, "contrast.anchors: 0 is out of range; at least 1"),
        ({"positives": 0}, "contrast.positives: 0 is out of range; at least 1"),
        ({"negatives": -1}, "contrast.negatives: -1 is out of range; at least 1"),
        ({"channels": 0}, "contrast.channels: 0 is out of range; at least 1"),
        ({"pixels_per_image": 0}, "contrast.pixels_per_image: 0 is out of range; at least 1"),
        ({"pixel_queue": -1}, "contrast.pixel_queue: -1 is out of range; at least 0"),
        ({"region_queue": -1}, "contrast.region_queue: -1 is out of range; at least 0"),
        ({"selection": "soft"}, "contrast.selection: unknown 'soft'; known: hard, random"),
    ],
)
def test_values_out_of_range_are_errors(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_segmentor("ParametricHead", **changes)


# Pixel-query heads


def build_query_decoder(num_prototypes: int = 1, **changes):
    head = {
        "type": "SegmenterMaskTransformerHead",
        "in_channels": CHANNELS[3],
        "in_index": 3,
        "num_layers": 1,
        "num_heads": 2,
        "embed_dims": 16,
        "channels": 16,
        "num_classes": 3,
        "dropout_ratio": 0.0,
        "loss_decode": CE,
    }
    wrapped = {"type": "QueryDecoderHead", "decode_head": head, "num_prototypes": num_prototypes}
    return build_segmentor({**wrapped, **changes}), build_segmentor(head)


def test_pixel_query_scores_equal_the_equation() -> None:
    model = make_segmentor("PixelQueryHead", None)
    head = model.decode_head.eval()
    with torch.no_grad():
        features = head.features(make_feature_maps())
        actual = head(make_feature_maps())
    queries = head.classifier.queries.detach().numpy()
    assert np.linalg.norm(queries, axis=2) == pytest.approx(1, abs=1e-5)
    pixels, actual = (m.permute(0, 2, 3, 1).flatten(0, 2).numpy() for m in (features, actual))
    is_nonzero = pixels.any(1)  # a zero vector has no cosine, so its scores are 0
    expected = reference.compute_query_scores(pixels[is_nonzero], queries, 1.0)
    np.testing.assert_allclose(actual[is_nonzero], expected, atol=1e-5)
    assert not actual[~is_nonzero].any()


def test_one_query_per_class_equals_the_segmenter_of_mmseg() -> None:
    ours, plain = build_query_decoder()
    plain.load_state_dict({k.replace("head.head", "head"): v for k, v in ours.state_dict().items()})
    ours.eval()
    plain.eval()
    truth = make_samples(make_label_maps(3))
    with torch.no_grad():
        assert torch.equal(
            ours.decode_head(make_feature_maps()), plain.decode_head(make_feature_maps())
        )
        actual, expected = ours.loss(make_images(), truth), plain.loss(make_images(), truth)
    assert actual.keys() == expected.keys()
    for name in actual:
        assert torch.equal(actual[name], expected[name])


def test_several_queries_train_and_the_maximum_is_the_score() -> None:
    model, _ = build_query_decoder(4)
    model.train()
    head = model.decode_head
    assert (head.num_classes, head.out_channels) == (3, 3)
    sum_losses(model.loss(make_images(), make_samples(make_label_maps(3)))).backward()
    assert head.head.cls_emb.grad.ne(0).any(-1).sum() > 3
    model.eval()
    with torch.no_grad():
        query_scores = head.head(make_feature_maps())
        assert query_scores.shape[1] == 12
        assert torch.equal(head(make_feature_maps()), query_scores.view(2, 3, 4, 2, 2).amax(2))
        (sample, _) = model.predict(make_images(), make_samples(make_label_maps(3)))
    assert sample.seg_logits.data.shape == (3, 32, 32)


def test_unsupported_options_of_the_query_decoder_are_errors() -> None:
    with pytest.raises(ValueError, match="FCNHead has no queries; use Segmenter"):
        build_segmentor({"type": "QueryDecoderHead", "decode_head": make_decode_head("FCNHead")})
    with pytest.raises(ValueError, match="contrast: Segmenter's decoder returns masks"):
        build_query_decoder(contrast=SETTINGS)
    with pytest.raises(ValueError, match="num_prototypes: 0 is out of range; at least 1"):
        build_query_decoder(0)
