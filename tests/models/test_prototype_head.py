"""The prototype head against the equations in float64, and the effect of each switch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from models.segmentors import (
    IGNORE,
    build_segmentor,
    count_numbers,
    make_decode_head,
    make_feature_maps,
    make_images,
    make_label_maps,
    make_samples,
    sum_losses,
)
from tests.core import reference

CLASSES, K, CLEAR = 3, 4, 1e-4
RELEASED = {
    "assignment": "gumbel",
    "update_pixels": "correct",
    "temperature": 1.0,
    "ppd_weight": 0.001,
    "projection": True,
    "embedding_norm": "layer",
    "score_norm": "layer",
    "distributed": "averaged",
}
"""The settings of experiments/method/released.yaml."""


def make_head(name: str = "SegformerHead", **changes):
    """Build a head in training mode."""
    settings = {"num_prototypes": K, "momentum": 0.7, **changes}
    head = build_segmentor(
        {"type": "PrototypeHead", "decode_head": make_decode_head(name, CLASSES), **settings}
    ).decode_head
    return head.train()


def embed_pixels(head, maps) -> np.ndarray:
    """Return the embeddings of the head, (N, D) float64."""
    with torch.no_grad():
        return copy.deepcopy(head).compute_embeddings(maps).flatten(0, 2).double().numpy()


def resize_labels(maps: np.ndarray, size: int) -> np.ndarray:
    """Resize labels by nearest neighbour, flatten, and use the ignore value of the reference."""
    step = maps.shape[1] // size
    small = maps[:, ::step, ::step].ravel()
    return np.where(small == IGNORE, reference.IGNORED, small)


def resize_scores(scores: np.ndarray, size: int) -> np.ndarray:
    """Resize (B, h, w, C) to (B, size, size, C), bilinear between pixel centres."""

    def resize_axis(values: np.ndarray, axis: int) -> np.ndarray:
        length = values.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, None)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, length - 1)
        share = (position - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        return values.take(low, axis) * (1 - share) + values.take(high, axis) * share

    return resize_axis(resize_axis(scores, 1), 2)


def apply_layer_norm(rows: np.ndarray) -> np.ndarray:
    """Apply LayerNorm with initial parameters."""
    centred = rows - rows.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)


def compute_expected_losses(
    head, embeddings, maps, *, size, score_norm=False, tau=0.1, score_tau=1.0
):
    """Return the unweighted losses of Eq. 7, 11 and 12, targets, class scores and labels."""
    bank = head.bank
    k, distance = bank.num_prototypes, bank.distance
    table = reference.compute_similarities(
        embeddings, bank.prototypes.numpy(), distance, bank.huber_delta
    )
    labels = resize_labels(maps, size)
    if k == 1:
        target = labels.copy()
    else:
        target, margins = reference.assign_pixels(
            table, labels, CLASSES, k, bank.kappa, bank.sinkhorn_iterations
        )
        assert margins.min() > CLEAR, "a pixel is a tie between two prototypes: choose another seed"
    scores = reference.compute_class_scores(table, k)
    if score_norm:
        scores = apply_layer_norm(scores)
    scores = scores / score_tau
    full = resize_scores(scores.reshape(len(maps), size, size, CLASSES), maps.shape[1])
    truth = np.where(maps == IGNORE, reference.IGNORED, maps).ravel()
    cross_entropy = reference.compute_cross_entropy(full.reshape(-1, CLASSES), truth)
    contrast = reference.compute_contrast(table, target, tau)
    compact = reference.compute_distance_loss(table, target, distance)
    return (cross_entropy, contrast, compact), target, scores, labels


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "huber"])
@pytest.mark.parametrize("num_prototypes", [1, K])
def test_losses_and_update_equal_the_equations(distance: str, num_prototypes: int) -> None:
    weights = {"ce_weight": 0.5, "ppc_weight": 0.3, "ppd_weight": 0.2}
    head = make_head(
        distance=distance,
        num_prototypes=num_prototypes,
        kappa=0.07,
        sinkhorn_iterations=4,
        temperature=0.4,
        score_temperature=0.6,
        huber_delta=0.8,
        init_std=0.5,
        **weights,
    )
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    embeddings, before = embed_pixels(head, maps), head.bank.prototypes.clone().numpy()
    (ce, ppc, ppd), target, _, _ = compute_expected_losses(
        head, embeddings, labels, size=16, tau=0.4, score_tau=0.6
    )
    losses = head.loss(maps, make_samples(labels), {})
    assert losses["loss_ce"].item() == pytest.approx(0.5 * ce, rel=1e-4)
    assert losses["loss_ppc"].item() == pytest.approx(0.3 * ppc, rel=1e-4)
    assert losses["loss_ppd"].item() == pytest.approx(0.2 * ppd, rel=1e-4)
    assert sum_losses(losses).item() == pytest.approx(0.5 * ce + 0.3 * ppc + 0.2 * ppd, rel=1e-4)
    after = reference.update_prototypes(before, embeddings, target, 0.7, distance)
    np.testing.assert_allclose(head.bank.prototypes.numpy(), after, atol=2e-6)
    assert np.abs(after - before).max() > 0.01


def test_scores_use_the_prototypes_before_the_update() -> None:
    head = make_head()
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    before = copy.deepcopy(head)
    losses = head.loss(maps, make_samples(labels), {})
    expected = before.head.loss_by_feat(before(maps), make_samples(labels))
    torch.testing.assert_close(losses["loss_ce"], expected["loss_ce"])


def test_ignored_pixels_update_nothing() -> None:
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    one, other = make_head(), make_head()
    other.load_state_dict(one.state_dict())
    changed = labels.copy()
    changed[labels == 1] = IGNORE
    one.loss(maps, make_samples(labels), {})
    other.loss(maps, make_samples(changed), {})
    is_updated = one.bank.updates.sum(1) > 0
    assert is_updated.all()
    assert (other.bank.updates.sum(1) > 0).tolist() == [True, False, True]


def test_the_ignore_index_of_the_decode_head_is_used() -> None:
    head = build_segmentor(
        {
            "type": "PrototypeHead",
            "decode_head": make_decode_head("FCNHead", CLASSES, ignore_index=2),
        }
    ).decode_head.train()
    labels = make_label_maps(CLASSES, ignored=0)
    head.loss(make_feature_maps(), make_samples(labels), {})
    assert (head.bank.updates.sum(1) > 0).tolist() == [True, True, False]


def test_only_correct_pixels_update_with_that_switch() -> None:
    head = make_head(update_pixels="correct")
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    embeddings, before = embed_pixels(head, maps), head.bank.prototypes.clone().numpy()
    _, target, scores, small = compute_expected_losses(head, embeddings, labels, size=16)
    correct = scores.argmax(1) == small
    assert 0.1 < correct[small >= 0].mean() < 0.9
    head.loss(maps, make_samples(labels), {})
    after = reference.update_prototypes(
        before, embeddings, np.where(correct, target, reference.IGNORED), 0.7, "cosine"
    )
    everything = reference.update_prototypes(before, embeddings, target, 0.7, "cosine")
    np.testing.assert_allclose(head.bank.prototypes.numpy(), after, atol=2e-6)
    assert np.abs(after - everything).max() > 0.01


def test_update_pixels_does_not_change_the_losses() -> None:
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    one, other = make_head(), make_head(update_pixels="correct")
    other.load_state_dict(one.state_dict())
    first, second = (h.loss(maps, make_samples(labels), {}) for h in (one, other))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_score_norm_is_a_layer_norm_over_the_classes() -> None:
    head = make_head(score_norm="layer")
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    embeddings = embed_pixels(head, maps)
    (ce, _, _), _, scores, _ = compute_expected_losses(
        head, embeddings, labels, size=16, score_norm=True
    )
    with torch.no_grad():
        actual = head(maps).permute(0, 2, 3, 1).reshape(-1, CLASSES)
    np.testing.assert_allclose(actual.numpy(), scores, atol=1e-3)
    assert head.loss(maps, make_samples(labels), {})["loss_ce"].item() == pytest.approx(
        ce, rel=1e-3
    )
    assert count_numbers(list(head.score_norm.parameters())) == 2 * CLASSES


def test_score_temperature_divides_the_scores() -> None:
    one, other = make_head().eval(), make_head(score_temperature=0.25).eval()
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(make_feature_maps()), one(make_feature_maps()) / 0.25)


def test_embedding_norm_is_a_layer_norm_before_the_unit_length() -> None:
    head = make_head(embedding_norm="layer").eval()
    with torch.no_grad():
        features = head.features(make_feature_maps()).permute(0, 2, 3, 1).reshape(-1, 8)
        actual = head.compute_embeddings(make_feature_maps()).reshape(-1, 8)
    rows = apply_layer_norm(features.double().numpy())
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-5)


def test_embeddings_are_unit_vectors_for_cosine_only() -> None:
    with torch.no_grad():
        # Without the projection the ReLU of the decoder makes some pixels zero vectors.
        cosine = make_head(projection=True).compute_embeddings(make_feature_maps())
        euclidean = make_head(projection=True, distance="euclidean").compute_embeddings(
            make_feature_maps()
        )
    assert cosine.shape == (2, 16, 16, 8)
    torch.testing.assert_close(cosine.norm(dim=-1), torch.ones(2, 16, 16))
    assert (euclidean.norm(dim=-1) - 1).abs().max() > 0.1


def test_projection_is_two_trainable_convolutions() -> None:
    head = make_head(projection=True)
    layer_types = [type(layer) for layer in head.projection]
    assert layer_types == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
    assert count_numbers(list(head.projection.parameters())) == 2 * (8 * 8 + 8) + 2 * 8
    sum_losses(
        head.loss(make_feature_maps(), make_samples(make_label_maps(CLASSES)), {})
    ).backward()
    for parameter in head.projection.parameters():
        assert parameter.grad.isfinite().all()
    assert head.projection[3].weight.grad.any()
    assert count_numbers(list(make_head().projection.parameters())) == 0


def test_projection_is_between_decoder_and_embedding() -> None:
    head = make_head(projection=True, distance="euclidean").eval()
    with torch.no_grad():
        head.projection[3].weight.zero_()
        head.projection[3].bias.copy_(torch.arange(8.0))
        actual = head.compute_embeddings(make_feature_maps())
    torch.testing.assert_close(actual, torch.arange(8.0).expand(2, 16, 16, 8))


def test_the_released_preset_trains_and_updates_prototypes() -> None:
    head = make_head(**RELEASED)
    before = head.bank.prototypes.clone()
    losses = head.loss(make_feature_maps(), make_samples(make_label_maps(CLASSES)), {})
    sum_losses(losses).backward()
    assert losses["loss_ppc"] > 0
    assert (head.bank.prototypes - before).abs().max() > 0.01
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_gumbel_assignment_changes_the_update_but_not_the_losses() -> None:
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    one, other = make_head(), make_head(assignment="gumbel")
    other.load_state_dict(one.state_dict())
    first, second = (h.loss(maps, make_samples(labels), {}) for h in (one, other))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert (one.bank.prototypes - other.bank.prototypes).abs().max() > 0.01


@pytest.mark.parametrize(
    ("weight", "loss"),
    [("ce_weight", "loss_ce"), ("ppc_weight", "loss_ppc"), ("ppd_weight", "loss_ppd")],
)
def test_each_weight_scales_its_loss_only(weight: str, loss: str) -> None:
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    one, other = make_head(**{weight: 1.0}), make_head(**{weight: 3.0})
    other.load_state_dict(one.state_dict())
    first, second = (h.loss(maps, make_samples(labels), {}) for h in (one, other))
    for name in first:
        torch.testing.assert_close(second[name], first[name] * (3 if name == loss else 1))


def test_the_defaults_are_those_of_the_paper() -> None:
    head = make_head()
    assert (head.ce_weight, head.ppc_weight, head.ppd_weight) == (1.0, 0.01, 0.01)
    assert (head.temperature, head.bank.kappa, head.bank.sinkhorn_iterations) == (0.1, 0.05, 3)
    default = build_segmentor({"type": "PrototypeHead", "decode_head": make_decode_head("FCNHead")})
    assert default.decode_head.bank.num_prototypes == 10
    assert default.decode_head.bank.momentum == 0.999


def test_all_losses_of_the_decode_head_are_weighted() -> None:
    both = [
        {"type": "CrossEntropyLoss", "avg_non_ignore": True, "loss_name": "loss_ce"},
        {"type": "DiceLoss", "loss_name": "loss_dice", "ignore_index": None},
    ]
    actual = []
    for weight in (1.0, 2.0):
        torch.manual_seed(5)
        head = build_segmentor(
            {
                "type": "PrototypeHead",
                "decode_head": make_decode_head("FCNHead", CLASSES, loss_decode=both),
                "ce_weight": weight,
            }
        ).decode_head
        actual.append(
            head.loss(make_feature_maps(), make_samples(make_label_maps(CLASSES, ignored=0)), {})
        )
    assert {"loss_ce", "loss_dice"} <= actual[0].keys()
    for name in ("loss_ce", "loss_dice"):
        torch.testing.assert_close(actual[1][name], 2 * actual[0][name])
    assert torch.equal(actual[0]["acc_seg"], actual[1]["acc_seg"])


@pytest.mark.parametrize("init", ["normal", "pixels"])
def test_eval_mode_never_updates(init: str) -> None:
    head = make_head(init=init).eval()
    before = copy.deepcopy(head.bank.state_dict())
    with torch.no_grad():
        head.loss(make_feature_maps(), make_samples(make_label_maps(CLASSES)), {})
        head.predict(make_feature_maps(), [{"img_shape": (32, 32)}] * 2, {})
        head(make_feature_maps())
    for name, value in head.bank.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_prediction_in_training_mode_does_not_update() -> None:
    head = make_head()
    before = head.bank.prototypes.clone()
    head.predict(make_feature_maps(), [{"img_shape": (32, 32)}] * 2, {})
    assert torch.equal(head.bank.prototypes, before)


def test_prototypes_initialised_from_pixels_are_pixels_of_their_class() -> None:
    head = make_head(init="pixels", momentum=1.0)
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    embeddings, small = embed_pixels(head, maps), resize_labels(labels, 16)
    head.loss(maps, make_samples(labels), {})
    for c in range(CLASSES):
        own = embeddings[small == c]
        for prototype in head.bank.prototypes[c].numpy():
            assert np.abs(own - prototype).max(1).min() < 1e-5


def test_backward_works_after_the_update_and_prototypes_get_no_gradient() -> None:
    head = make_head()
    losses = head.loss(make_feature_maps(), make_samples(make_label_maps(CLASSES)), {})
    sum_losses(losses).backward()
    assert not head.bank.prototypes.requires_grad
    assert head.bank.prototypes.grad is None


def test_gradients_use_the_prototypes_before_the_update() -> None:
    """The update runs before backward and must not change the gradients."""
    maps, labels = make_feature_maps(), make_label_maps(CLASSES)
    moving, still = make_head(momentum=0.0), make_head(momentum=1.0)
    still.load_state_dict(moving.state_dict())
    for head in (moving, still):
        sum_losses(head.loss(maps, make_samples(labels), {})).backward()
    assert (moving.bank.prototypes - still.bank.prototypes).abs().max() > 0.1
    for (name, first), second in zip(moving.named_parameters(), still.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, msg=name)


@pytest.mark.parametrize("preset", [{}, RELEASED], ids=["paper", "released"])
def test_bfloat16_autocast_keeps_embeddings_and_prototypes_float32(preset: dict) -> None:
    model = build_segmentor(
        {
            "type": "PrototypeHead",
            "decode_head": make_decode_head("SegformerHead", CLASSES),
            "num_prototypes": K,
            "momentum": 0.7,
            **preset,
        }
    ).train()
    full = copy.deepcopy(model)
    labels = make_label_maps(CLASSES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.loss(make_images(), make_samples(labels))
        assert model.decode_head.features(model.extract_feat(make_images())).dtype == torch.bfloat16
        assert (
            model.decode_head.compute_embeddings(model.extract_feat(make_images())).dtype
            == torch.float32
        )
    sum_losses(losses).backward()
    expected = full.loss(make_images(), make_samples(labels))
    for name in ("decode.loss_ce", "decode.loss_ppc", "decode.loss_ppd"):
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], expected[name], rtol=0.05, atol=1e-3)
    bank = model.decode_head.bank
    assert bank.prototypes.dtype == torch.float32
    torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(CLASSES, K))
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_prediction_is_the_class_of_the_nearest_prototype() -> None:
    head = make_head("FCNHead").eval()
    with torch.no_grad():
        actual = head.predict(make_feature_maps(), [{"img_shape": (2, 2)}] * 2, {}).argmax(1)
    embeddings, prototypes = (
        embed_pixels(head, make_feature_maps()),
        head.bank.prototypes.double().numpy(),
    )
    nearest = [np.argmin(np.linalg.norm(prototypes - i, axis=2).min(1)) for i in embeddings]
    assert actual.flatten().tolist() == nearest
