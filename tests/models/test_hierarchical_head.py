"""The heads with a tree of classes, with decode heads of mmseg: losses, schedule, prediction."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core.trees import reference
from core.trees.random_trees import TWO_LEVELS

from models.segmentors import (
    CHANNELS,
    HEADS,
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
from models.test_prototype_head import resize_scores
from models.test_wrapped_heads import UNUSED

CLASSES, NODES = 5, 8
WRAPPERS = ("HierarchicalHead", "PrototypeHierarchicalHead")
RELEASED = {
    "tree_loss": "tree_min",
    "tree_weight": 5.0,
    "ce_weight": 1.0,
    "triplet_sampling": "raster",
    "inference": "softmax",
    "void": "class_zero",
}
"""The settings of experiments/method/hierarchical_released.yaml."""
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)
PATHS = [list(path) for path in TWO_LEVELS]


def build(name: str = "SegformerHead", wrapper: str = "HierarchicalHead", **changes):
    """Build a segmentor in training mode."""
    changes = {"hierarchy": PATHS, "iterations": 8, **changes}
    if wrapper == "HierarchicalHead":
        changes.setdefault("triplet_channels", 4)
    else:
        changes.setdefault("num_prototypes", 2)
    head = {"type": wrapper, "decode_head": make_decode_head(name, CLASSES), **changes}
    return build_segmentor(head).train()


def make_head(**changes):
    return build(**changes).decode_head


def compute_losses(head, labels: np.ndarray | None = None, seed: int = 0):
    torch.manual_seed(seed)
    maps = make_label_maps(CLASSES) if labels is None else labels
    return head.loss(make_feature_maps(), make_samples(maps), {})


def compute_logits(head) -> torch.Tensor:
    """Logits of the nodes at the resolution of the labels, float64."""
    with torch.no_grad():
        small = head.classifier(head.features(make_feature_maps())).double()
    rows = resize_scores(small.permute(0, 2, 3, 1).numpy(), 32)
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def mark_ignored(maps: np.ndarray) -> np.ndarray:
    return np.where(maps == IGNORE, reference.IGNORED, maps)


@every_wrapper
@pytest.mark.parametrize("name", HEADS)
def test_a_head_trains_and_predicts_in_mmseg(wrapper: str, name: str) -> None:
    model = build(name, wrapper)
    model.decode_head.iteration = torch.tensor(8)  # otherwise the triplets have weight 0
    losses = model.loss(make_images(), make_samples(make_label_maps(CLASSES)))
    names = {"decode.loss_tree", "decode.loss_triplet", "decode.acc_seg"}
    if wrapper == "PrototypeHierarchicalHead":
        names = {f"decode.loss_{name}" for name in ("ce", "ppc", "ppd", "levels")}
        names.add("decode.acc_seg")
    assert losses.keys() == names
    sum_losses(losses).backward()
    for parameter_name, parameter in model.named_parameters():
        if UNUSED.get(name, "-") in parameter_name:
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    model.eval()
    with torch.no_grad():
        predictions = model.predict(make_images(), make_samples(make_label_maps(CLASSES)))
    for sample in predictions:
        assert sample.seg_logits.data.shape == (CLASSES, 32, 32)
        assert sample.seg_logits.data.isfinite().all()


@pytest.mark.parametrize("name", ["SegformerHead", "FCNHead, concatenated", "FCNHead"])
def test_the_embedding_reads_the_last_feature_map(name: str) -> None:
    head = build(name).decode_head
    assert head.embedding[0].in_channels == CHANNELS[3]
    assert head.embedding[3].out_channels == 4


@pytest.mark.parametrize("tree_loss", ["sigmoid", "tree_min", "focal_tree_min"])
def test_the_losses_equal_those_of_loops(tree_loss: str) -> None:
    head = make_head(
        tree_loss=tree_loss, tree_weight=3.0, focal_gamma=1.5, ce_weight=0.5, rmi_weight=0.25
    )
    labels = make_label_maps(CLASSES)
    labels[:, 8:] = IGNORE  # loops over nodes and pixels are slow
    logits = compute_logits(head).numpy()
    losses = compute_losses(head, labels)
    truth = mark_ignored(labels)
    tree = reference.compute_tree_loss(logits, truth, TWO_LEVELS, tree_loss, gamma=1.5)
    assert losses["loss_tree"].item() == pytest.approx(3 * tree, rel=1e-5)
    entropies = []
    for first, end in ((0, 5), (5, 8)):
        groups = np.array([0, 0, 1, 2, 1]) if first else np.arange(5)
        pixels = np.argwhere(truth >= 0)
        values = np.stack([logits[b, first:end, y, x] for b, y, x in pixels])
        own = groups[[truth[b, y, x] for b, y, x in pixels]]
        entropies.append(reference_cross_entropy(values, own))
    assert losses["loss_ce"].item() == pytest.approx(0.5 * sum(entropies), rel=1e-5)
    scores = 1 / (1 + np.exp(-logits))
    region = reference.compute_region_loss(scores, truth, TWO_LEVELS)
    assert losses["loss_rmi"].item() == pytest.approx(0.25 * region, rel=1e-4)


def reference_cross_entropy(values: np.ndarray, own: np.ndarray) -> float:
    logs = np.log(np.exp(values).sum(1)) - values[np.arange(len(own)), own]
    return float(logs.mean())


@pytest.mark.parametrize("sampling", ["raster", "random"])
def test_the_triplet_loss_equals_loops(sampling: str) -> None:
    head = make_head(triplet_sampling=sampling, triplet_samples=5, triplet_weight=2.0).eval()
    head.iteration.fill_(8)
    labels = make_label_maps(CLASSES)
    with torch.no_grad():
        maps = head.embedding(make_feature_maps()[3]).double()
    rows = F.normalize(maps.permute(0, 2, 3, 1).flatten(0, 2)).numpy()
    small = mark_ignored(labels[:, ::16, ::16]).ravel()
    if sampling == "random":
        torch.manual_seed(5)
        order = torch.rand(len(small)).argsort().numpy()
        rows, small = rows[order], small[order]
    expected = reference.compute_triplets(rows, small, TWO_LEVELS, max_triplets=5)
    loss = compute_losses(head, labels, seed=5)["loss_triplet"]
    assert expected > 0
    assert loss.item() == pytest.approx(2 * expected, rel=1e-5)


def test_random_triplets_depend_on_the_generator_of_torch_alone() -> None:
    head = make_head(triplet_samples=1).eval()
    head.iteration.fill_(8)
    head.head.in_index = [0]  # the largest map has many pixels
    head.embedding[0] = torch.nn.Conv2d(CHANNELS[0], 16, 1)
    labels = make_samples(make_label_maps(CLASSES))

    def draw(seed: int) -> float:
        torch.manual_seed(seed)
        return head._compute_triplets(make_feature_maps(), labels).item()

    assert draw(1) == draw(1) != draw(2)
    head.triplet_sampling = "raster"
    assert draw(1) == draw(2)


def test_the_weight_of_the_triplets_rises_by_training_iteration() -> None:
    head = make_head(triplet_weight=0.5, triplet_sampling="raster")
    for module in head.modules():  # otherwise running statistics change the loss
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    losses = []
    for _ in range(10):
        losses.append(compute_losses(head)["loss_triplet"].item())
        head.train(mode=False)
        with torch.no_grad():  # an evaluation in between
            compute_losses(head)
            head(make_feature_maps())
            head.predict(make_feature_maps(), [{"img_shape": (32, 32)}] * 2, {})
        head.train()
        for module in head.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    assert head.iteration == 10
    shares = [0.25 * (1 + math.cos(math.pi * (t - 8) / 8)) for t in range(8)] + [0.5, 0.5]
    assert shares[2] == pytest.approx(0.073, abs=5e-4), "the value of the released code at T / 4"
    np.testing.assert_allclose(losses, np.array(shares) * losses[-1] / 0.5, rtol=1e-5)
    assert losses[0] == 0 < losses[-1]


def test_the_iteration_is_in_the_checkpoint() -> None:
    head, other = make_head(), make_head()
    compute_losses(head)
    other.load_state_dict(head.state_dict())
    assert other.iteration == 1
    assert "iteration" not in make_head(triplet_weight=0.0).state_dict()


@pytest.mark.parametrize("rule", ["path", "leaf", "softmax"])
def test_predictions_are_the_best_paths_of_resized_logits(rule: str) -> None:
    head = make_head(inference=rule).eval()
    torch.nn.init.normal_(head.classifier.weight)
    logits = compute_logits(head).numpy()
    with torch.no_grad():
        scores = head.predict(make_feature_maps(), [{"img_shape": (32, 32)}] * 2, {})
    assert scores.shape == (2, CLASSES, 32, 32)
    for b, y, x in np.ndindex(2, 32, 32):
        expected = reference.score_path(logits[b, :, y, x], TWO_LEVELS, rule)
        np.testing.assert_allclose(scores[b, :, y, x].exp().numpy(), expected, rtol=1e-4)


def test_pitfall_1_void_pixels_are_trained_as_the_first_class_on_request() -> None:
    labels = make_label_maps(CLASSES)
    filled = np.where(labels == IGNORE, 0, labels)
    settings = {**RELEASED, "void": "ignored", "rmi_weight": 0.25}
    head = make_head(**settings).eval()
    head.iteration.fill_(8)
    slipped = copy.deepcopy(head)
    slipped.void = "class_zero"
    expected, actual = compute_losses(head, filled), compute_losses(slipped, labels)
    correct = compute_losses(head, labels)
    for name in ("loss_tree", "loss_ce", "loss_rmi"):
        torch.testing.assert_close(actual[name], expected[name])
        assert abs(actual[name] - correct[name]) > 1e-4, name
    assert make_head().void == "ignored"


def test_pitfall_4_the_focal_loss_is_smaller_than_the_other() -> None:
    head = make_head()
    focal = compute_losses(head)["loss_tree"]
    head.tree_loss = "tree_min"
    assert focal.item() < 0.5 * compute_losses(head)["loss_tree"].item()


def test_pitfall_8_a_softmax_at_test_gives_another_label_map() -> None:
    head = make_head().eval()
    torch.nn.init.normal_(head.classifier.weight, std=2.0)
    metas = [{"img_shape": (32, 32)}] * 2
    maps = {}
    for rule in ("path", "softmax"):
        head.inference = rule
        with torch.no_grad():
            maps[rule] = head.predict(make_feature_maps(), metas, {}).argmax(1)
    assert 0 < (maps["path"] != maps["softmax"]).float().mean() < 0.5


@every_wrapper
def test_a_batch_without_labels_has_loss_zero(wrapper: str) -> None:
    model = build("FCNHead", wrapper)
    losses = model.loss(make_images(), make_samples(make_label_maps(CLASSES, ignored=2.0)))
    assert sum_losses(losses).item() == 0
    sum_losses(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


@every_wrapper
def test_bf16_gives_finite_losses_in_float32(wrapper: str) -> None:
    model = build("SegformerHead", wrapper, **({"rmi_weight": 0.25} if wrapper[0] == "H" else {}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.loss(make_images(), make_samples(make_label_maps(CLASSES)))
    for name, value in losses.items():
        assert value.dtype == torch.float32, name
        assert value.isfinite(), name
    sum_losses(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_classifier_has_a_score_for_each_node() -> None:
    head = make_head()
    assert count_numbers(list(head.classifier.parameters())) == NODES * (8 + 1)
    assert 0.003 < head.classifier.weight.std() < 0.03
    assert head.training_only == ("contrast", "embedding")
    without = make_head(triplet_weight=0.0)
    assert without.embedding is None
    assert "loss_triplet" not in compute_losses(without)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tree_loss", "hinge"),
        ("triplet_sampling", "hard"),
        ("inference", "best"),
        ("void", "removed"),
    ],
)
def test_unknown_values_are_errors(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: unknown '{value}'; known: "):
        make_head(**{name: value})


def test_levels_of_prototypes_have_the_best_score_below() -> None:
    head = make_head(wrapper="PrototypeHierarchicalHead", level_weight=0.5).eval()
    labels = make_label_maps(CLASSES)
    with torch.no_grad():
        small = head(make_feature_maps()).double().permute(0, 2, 3, 1).numpy()
        losses = compute_losses(head, labels)
    scores, truth = resize_scores(small, 32), mark_ignored(labels)
    groups = np.stack(
        [scores[..., [0, 1]].max(-1), scores[..., [2, 4]].max(-1), scores[..., 3]], -1
    )
    values, own = groups[truth >= 0], np.array([0, 0, 1, 2, 1])[truth[truth >= 0]]
    expected = 0.5 * reference_cross_entropy(values, own)
    assert losses["loss_levels"].item() == pytest.approx(expected, rel=1e-5)


def test_level_weight_zero_is_the_prototype_head() -> None:
    head = make_head(wrapper="PrototypeHierarchicalHead", level_weight=0.0)
    flat = build_segmentor(
        {
            "type": "PrototypeHead",
            "decode_head": make_decode_head("SegformerHead", CLASSES),
            "num_prototypes": 2,
        }
    ).decode_head.train()
    flat.load_state_dict(head.state_dict())
    actual, expected = compute_losses(head), compute_losses(flat)
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
    assert torch.equal(head.bank.prototypes, flat.bank.prototypes)
