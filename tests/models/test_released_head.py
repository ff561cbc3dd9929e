"""The preset ``released`` of the prototype head against a float64 reference of the formulas."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forked import run_in_processes
from mmengine.registry import init_default_scope
from reference import released_head as formulas
from torch import nn

from models.segmentors import IGNORE, build_segmentor, make_decode_head, make_samples, sum_losses
from protoseg.core.prototypes import PrototypeBank
from protoseg.models.layers import WidthNorm, build_projection
from protoseg.training.distributed import sync
from tests.core import reference

CHANNELS, HEIGHT, WIDTH = 8, 4, 6
RELEASED = {
    "update_pixels": "correct",
    "temperature": 1.0,
    "ppd_weight": 0.001,
    "projection": "released",
    "embedding_norm": "layer",
    "score_norm": "layer",
    "init_bounds": "two",
    "distributed": "averaged",
    "loss_reduction": "per_process_mean",
}
"""The settings of experiments/method/released.yaml, without its random assignment."""


def make_head(num_classes: int, num_prototypes: int, seed: int = 0, **changes: Any) -> Any:
    """Build a head with class weights and aligned corners, in training mode."""
    torch.manual_seed(seed)
    weights = np.linspace(0.5, 1.5, num_classes).tolist()
    loss = {"type": "CrossEntropyLoss", "class_weight": weights, "avg_non_ignore": False}
    decode_head = make_decode_head("FCNHead", num_classes, align_corners=True, loss_decode=loss)
    if num_classes == 2:
        decode_head["out_channels"] = 2
    settings = {"num_prototypes": num_prototypes, "momentum": 0.7, **RELEASED, **changes}
    return build_segmentor({"type": "PrototypeHead", "decode_head": decode_head, **settings})


def make_batch(
    num_classes: int, num_prototypes: int, dtype: torch.dtype
) -> tuple[torch.Tensor, np.ndarray]:
    """Return features (2, 8, 4, 6) and label maps of twice the size.

    A tenth of the pixels is ignored, class 0 has one pixel, class 1 has K - 1 pixels if that is
    possible, and most others are absent.
    """
    rng = np.random.default_rng(num_classes * 100 + num_prototypes)
    present = np.unique([min(2, num_classes - 1), num_classes // 2, max(1, num_classes - 2)])
    small = rng.choice(present, 2 * HEIGHT * WIDTH)
    order = rng.permutation(len(small))
    small[order[0]] = 0
    small[order[1 : min(num_prototypes, 20)]] = 1
    small[order[-5:]] = IGNORE
    maps = small.reshape(2, HEIGHT, WIDTH).repeat(2, axis=1).repeat(2, axis=2)
    features = torch.from_numpy(rng.standard_normal((2, CHANNELS, HEIGHT, WIDTH))).to(dtype)
    return features, maps


def get_layers(head: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weight (out, in) and bias of each convolution of the projection, float64."""
    return [
        (layer.weight[:, :, 0, 0].detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in head.projection
        if isinstance(layer, nn.Conv2d)
    ]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=["f32", "f64"]
)
@pytest.mark.parametrize(
    ("num_classes", "num_prototypes"),
    [(3, 1), (3, 2), (3, 10), (19, 1), (19, 10), (19, 50), (150, 2), (150, 10), (847, 1)],
)
def test_losses_scores_and_update_equal_the_formulas(
    num_classes: int, num_prototypes: int, dtype: torch.dtype, tolerance: float
) -> None:
    head = make_head(num_classes, num_prototypes).decode_head.train().to(dtype)
    features, maps = make_batch(num_classes, num_prototypes, dtype)
    bank = head.bank
    before = bank.prototypes.double().numpy().copy()

    rows = formulas.to_unit_rows(
        formulas.project(features.double().numpy(), get_layers(head), width_norm=True)
    )
    table = rows @ before.reshape(-1, CHANNELS).T
    labels = maps[:, ::2, ::2].ravel()
    labels = np.where(labels == IGNORE, reference.IGNORED, labels)
    if num_prototypes == 1:
        target = labels.copy()
    else:
        target, margins = reference.assign_pixels(
            table, labels, num_classes, num_prototypes, 0.05, 3
        )
        # A class of few pixels chooses its prototypes by rounding, whatever the precision.
        decided = (margins > 1e-4) | (labels == reference.IGNORED)
        pixels = {c: int((labels == c).sum()) for c in labels[~decided].tolist()}
        assert all(count <= num_prototypes for count in pixels.values()), "choose another seed"
        with torch.no_grad():
            own_rows = copy.deepcopy(head).embed_features(features).flatten(0, 2)
            chosen, _ = bank.assign_pixels(
                bank.compute_similarities(own_rows), torch.from_numpy(labels)
            )
        assert (chosen.numpy()[decided] == target[decided]).all()
        target = chosen.numpy()
    scores = formulas.norm_scores(reference.compute_class_scores(table, num_prototypes))
    full = formulas.resize_aligned(
        scores.reshape(2, HEIGHT, WIDTH, num_classes), (2 * HEIGHT, 2 * WIDTH)
    )
    truth = np.where(maps == IGNORE, reference.IGNORED, maps).ravel()
    expected = {
        "loss_ce": formulas.compute_weighted_cross_entropy(
            full.reshape(-1, num_classes), truth, np.linspace(0.5, 1.5, num_classes)
        ),
        "loss_ppc": 0.01 * reference.compute_contrast(table, target, 1.0),
        "loss_ppd": 0.001 * reference.compute_distance_loss(table, target, "cosine"),
    }
    losses, score_map = head.losses(features, make_samples(maps))
    actual_scores = score_map.detach().permute(0, 2, 3, 1).reshape(-1, num_classes).double().numpy()
    # LayerNorm divides by the spread of the scores, which amplifies rounding for many classes.
    np.testing.assert_allclose(actual_scores, scores, atol=100 * tolerance)
    for name, value in expected.items():
        # mmseg adds 1e-7 to the sum of the weights.
        allowed = max(tolerance, 1e-8) if name == "loss_ce" else tolerance
        assert losses[name].item() == pytest.approx(value, rel=allowed * 10, abs=allowed), name
    correct = scores.argmax(1) == labels
    after = reference.update_prototypes(
        before, rows, np.where(correct, target, reference.IGNORED), 0.7, "cosine"
    )
    # The buffers stay float32 until the model is converted, so a float64 head has float64 ones.
    np.testing.assert_allclose(bank.prototypes.double().numpy(), after, atol=max(tolerance, 1e-12))


def test_losses_are_zero_without_a_labelled_pixel() -> None:
    head = make_head(3, 2).decode_head.train()
    before = head.bank.prototypes.clone()
    features, maps = make_batch(3, 2, torch.float32)
    losses, _ = head.losses(features.requires_grad_(), make_samples(np.full_like(maps, IGNORE)))
    assert [losses[name].item() for name in ("loss_ce", "loss_ppc", "loss_ppd")] == [0, 0, 0]
    sum_losses(losses).backward()
    assert features.grad is not None
    assert not features.grad.any()
    assert torch.equal(head.bank.prototypes, before)


def test_the_width_norm_couples_the_pixels_of_a_row() -> None:
    features = torch.randn(1, CHANNELS, HEIGHT, WIDTH)
    norm = WidthNorm()
    torch.testing.assert_close(norm(features).norm(dim=3), torch.ones(1, CHANNELS, HEIGHT))
    changed = features.clone()
    changed[0, :, 1, 0] += 1
    differs = (norm(features) != norm(changed)).any(1)[0]
    assert differs.any(1).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match=r"which has one column here\. Use wider images"):
        norm(features[..., :1])


def test_each_kind_of_projection_has_its_layers() -> None:
    def types(projection: Any) -> list[str]:
        return [type(layer).__name__ for layer in build_projection(4, 4, projection).modules()][1:]

    assert types("conv_no_norm") == ["Conv2d", "ReLU", "Conv2d"]
    assert types("released") == ["Conv2d", "ReLU", "Conv2d", "WidthNorm"]
    assert types("conv") == types(True) == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert types("none") == types(False) == []


def test_initial_prototypes_are_cut_where_init_bounds_says() -> None:
    def draw(bounds: Any) -> torch.Tensor:
        torch.manual_seed(0)
        bank = PrototypeBank(20, 10, 64, distance="euclidean", init_std=0.02, init_bounds=bounds)
        return bank.prototypes.flatten()

    assert draw("two_std").abs().max() <= 0.04
    wide = draw("two")
    share = (wide.abs() > 0.04).double().mean().item()
    # 4.55% of a normal lie outside of two standard deviations; 12,800 draws, four standard errors.
    assert share == pytest.approx(0.0455, abs=4 * (0.0455 * 0.9545 / 12800) ** 0.5)


# Several processes


def make_halves() -> list[tuple[torch.Tensor, np.ndarray]]:
    """Return one image for each of two processes; half of the second one is ignored."""
    features, maps = make_batch(19, 1, torch.float64)
    maps[1, : HEIGHT // 2 * 2] = IGNORE
    return [(features[n : n + 1], maps[n : n + 1]) for n in range(2)]


def compute_losses(model: Any, features: torch.Tensor, maps: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the losses and the gradient of the features."""
    inputs = features.clone().requires_grad_()
    losses, _ = model.decode_head.losses(inputs, make_samples(maps))
    sum_losses(losses).backward()
    assert inputs.grad is not None
    return {**{k: v.detach() for k, v in losses.items()}, "gradient": inputs.grad}


def run_half(rank: int, world: int, folder: str) -> None:
    """Compute the losses of one half with both reductions, in one of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    init_default_scope("mmseg")
    results = {}
    for reduction in ("per_process_mean", "global_mean"):
        model = make_head(19, 1, loss_reduction=reduction).train().double()
        sync.synchronise_model(model)
        results[reduction] = compute_losses(model, *make_halves()[rank])
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_average_their_means_or_all_pixels(tmp_path: Path) -> None:
    run_in_processes(run_half, 2, 2, str(tmp_path))
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    halves = make_halves()
    model = make_head(19, 1).train().double()
    alone = [compute_losses(copy.deepcopy(model), *half) for half in halves]
    whole = compute_losses(
        copy.deepcopy(model),
        torch.cat([features for features, _ in halves]),
        np.concatenate([maps for _, maps in halves]),
    )
    for name in ("loss_ce", "loss_ppc", "loss_ppd"):
        for rank in range(2):
            torch.testing.assert_close(
                results[rank]["per_process_mean"][name], alone[rank][name], rtol=1e-12, atol=1e-12
            )
        mean = sum(result["global_mean"][name] for result in results) / 2
        # mmseg adds 1e-7 to the divisor of L_CE.
        torch.testing.assert_close(mean, whole[name], rtol=1e-7, atol=1e-12)
        assert abs(mean - (alone[0][name] + alone[1][name]) / 2) > 1e-4 * mean, "not a real test"
    for rank in range(2):
        torch.testing.assert_close(
            results[rank]["per_process_mean"]["gradient"], alone[rank]["gradient"]
        )
