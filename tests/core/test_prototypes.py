"""The bank: how prototypes start, which pixels they get, how they move (Eq. 8-10, 14)."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode

from core import reference
from core.batches import as_float64, shuffled_labels, vectors
from protoseg.core.distances import DISTANCES
from protoseg.core.losses import IGNORED
from protoseg.core.prototypes import PrototypeBank

CLEAR = 1e-3
every_distance = pytest.mark.parametrize("distance", DISTANCES)


def batch(sizes, channels=8, ignored=(255, -1, 99), *, unit=True, seed=0):
    """Pixels (N, D) and labels (N,) with so many pixels of each class."""
    rng = np.random.default_rng(seed)
    labels = shuffled_labels(rng, sizes, ignored)
    return torch.tensor(vectors(rng, len(labels), channels, unit=unit)), torch.tensor(labels)


@pytest.fixture(autouse=True)
def _the_same_draws_each_time():
    torch.manual_seed(0)


# How they start


def test_normal_starts_on_unit_vectors_for_cosine():
    bank = PrototypeBank(5, 3, 16)
    torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(5, 3))
    assert bank.prototypes.dtype == torch.float32
    assert bank.started.all()


@pytest.mark.parametrize("distance", ["euclidean", "huber"])
@pytest.mark.parametrize("std", [0.02, 0.5])
def test_normal_is_truncated_at_two_standard_deviations(distance, std):
    bank = PrototypeBank(10, 10, 200, distance=distance, init_std=std)
    drawn = as_float64(bank.prototypes).ravel()
    assert np.abs(drawn).max() <= 2 * std * (1 + 1e-6)
    assert stats.kstest(drawn, stats.truncnorm(-2, 2, scale=std).cdf).pvalue > 1e-3


def test_the_authors_standard_deviation_is_the_default():
    drawn = PrototypeBank(10, 10, 200, distance="euclidean").prototypes
    assert drawn.std().item() == pytest.approx(stats.truncnorm(-2, 2, scale=0.02).std(), rel=0.02)


def matches(prototypes, pixels):
    """Which pixel each prototype (K, D) is, as positions; fails where it is none."""
    same = torch.isclose(prototypes[:, None], pixels, rtol=0, atol=1e-6).all(-1)
    assert same.any(1).all()
    return same.int().argmax(1).tolist()


@every_distance
@pytest.mark.parametrize("num_prototypes", [1, 2, 10])
def test_pixels_of_the_class_become_its_prototypes(distance, num_prototypes):
    pixels, labels = batch([40, 10, 12], unit=False)
    bank = PrototypeBank(3, num_prototypes, 8, distance=distance, init="pixels")
    assert not bank.started.any()
    bank.initialise_new_classes(pixels, labels)
    assert bank.started.all()
    expected = torch.tensor([[*reference.unit(x)] for x in as_float64(pixels)]).float()
    for c in range(3):
        own = (expected if distance == "cosine" else pixels)[labels == c]
        drawn = matches(bank.prototypes[c], own)
        assert len(set(drawn)) == num_prototypes


@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_class_of_fewer_pixels_than_prototypes_uses_all_of_them(size):
    pixels, labels = batch([size, 50])
    bank = PrototypeBank(2, 10, 8, init="pixels")
    bank.initialise_new_classes(pixels, labels)
    assert set(matches(bank.prototypes[0], pixels[labels == 0])) == set(range(size))


def test_a_class_waits_for_its_first_batch_and_starts_only_once():
    bank = PrototypeBank(3, 2, 8, init="pixels")
    drawn_at_reset = bank.prototypes.clone()
    bank.initialise_new_classes(*batch([20, 0, 20], seed=1))
    assert bank.started.tolist() == [True, False, True]
    assert torch.equal(bank.prototypes[1], drawn_at_reset[1])
    after_one = bank.prototypes.clone()
    pixels, labels = batch([20, 20, 20], seed=2)
    bank.initialise_new_classes(pixels, labels)
    assert bank.started.all()
    assert torch.equal(bank.prototypes[[0, 2]], after_one[[0, 2]])
    matches(bank.prototypes[1], pixels[labels == 1])
    after_two = bank.prototypes.clone()
    bank.initialise_new_classes(*batch([20, 20, 20], seed=3))
    assert torch.equal(bank.prototypes, after_two)


@pytest.mark.parametrize("num_pixels", [0, 6])
def test_a_batch_without_a_labelled_pixel_starts_nothing(num_pixels):
    bank = PrototypeBank(3, 2, 8, init="pixels")
    before = bank.prototypes.clone()
    bank.initialise_new_classes(
        torch.full((num_pixels, 8), torch.nan), torch.full((num_pixels,), 255)
    )
    assert torch.equal(bank.prototypes, before)
    assert not bank.started.any()


def test_every_pixel_of_a_class_is_as_likely_to_be_drawn():
    pixels, labels = torch.eye(6), torch.tensor([0, 0, 0, 0, 0, 255])
    times = torch.zeros(6)
    for _ in range(1000):
        bank = PrototypeBank(1, 2, 6, init="pixels")
        bank.initialise_new_classes(pixels, labels)
        times += bank.prototypes[0].sum(0)
    assert times[5] == 0
    assert stats.chisquare(times[:5].numpy()).pvalue > 1e-3


def test_prototypes_that_start_normal_are_not_replaced_by_pixels():
    bank = PrototypeBank(2, 2, 8)
    before = bank.prototypes.clone()
    bank.initialise_new_classes(*batch([9, 9]))
    assert torch.equal(bank.prototypes, before)


@pytest.mark.parametrize("init", ["normal", "pixels"])
def test_reset_starts_anew(init):
    bank = PrototypeBank(2, 2, 8, init=init, momentum=0.5)
    pixels, labels = batch([9, 9])
    bank.initialise_new_classes(pixels, labels)
    bank.update_prototypes(pixels, bank.assign_pixels(bank.compute_similarities(pixels), labels)[1])
    before = bank.prototypes.clone()
    bank.reset_prototypes()
    assert (bank.prototypes != before).any(-1).all()
    torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(2, 2))
    assert not bank.updates.any()
    assert bank.started.tolist() == [init == "normal"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_prototypes": 0}, "num_prototypes: 0 is out of range"),
        ({"momentum": 1.5}, r"momentum: 1\.5 is out of range"),
        ({"momentum": -0.1}, r"momentum: -0\.1 is out of range"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PrototypeBank(**{"num_classes": 2, "num_prototypes": 2, "channels": 4, **options})


# Which pixels they get


@every_distance
@pytest.mark.parametrize("num_prototypes", [2, 5])
def test_pixels_go_where_the_reference_sends_them(distance, num_prototypes):
    sizes = [60, 3, 0, 120]
    pixels, labels = batch(sizes)
    bank = PrototypeBank(4, num_prototypes, 8, distance=distance, init_std=0.3, kappa=0.1)
    target, moved = bank.assign_pixels(bank.compute_similarities(pixels), labels)
    table = reference.compute_similarities(
        as_float64(pixels), as_float64(bank.prototypes), distance
    )
    expected, sure = reference.assign_pixels(table, labels, 4, num_prototypes, 0.1, 3)
    clear = sure > CLEAR
    assert clear.mean() > 0.9
    assert (target.numpy() == expected)[clear].all()
    assert torch.equal(target, moved)


def test_the_switches_of_the_clustering_reach_it():
    pixels, labels = batch([50, 70])
    seen = []
    for kappa, iterations in [(0.05, 3), (1.0, 3), (0.05, 1)]:
        torch.manual_seed(1)
        bank = PrototypeBank(2, 10, 8, kappa=kappa, sinkhorn_iterations=iterations)
        table = bank.compute_similarities(pixels)
        target = bank.assign_pixels(table, labels)[0].numpy()
        expected, sure = reference.assign_pixels(
            as_float64(table), labels, 2, 10, kappa, iterations
        )
        assert (target == expected)[sure > CLEAR].all()
        seen.append(target.tolist())
    assert seen[0] != seen[1]
    assert seen[0] != seen[2]


@pytest.mark.parametrize("assignment", ["argmax", "gumbel"])
@pytest.mark.parametrize("num_prototypes", [1, 4])
def test_ignored_pixels_get_no_prototype_and_the_others_one_of_their_class(
    assignment, num_prototypes
):
    pixels, labels = batch([30, 5, 0], ignored=[255, -1, 3, -100])
    bank = PrototypeBank(3, num_prototypes, 8, assignment=assignment)
    for column in bank.assign_pixels(bank.compute_similarities(pixels), labels):
        counts = (labels >= 0) & (labels < 3)
        assert (column[~counts] == IGNORED).all()
        assert torch.equal(column[counts] // num_prototypes, labels[counts])


@pytest.mark.parametrize("assignment", ["argmax", "gumbel"])
def test_a_single_prototype_is_assigned_by_ground_truth(assignment):
    labels = torch.tensor([2, 0, 255, 1, -1])
    nonsense = torch.full((5, 3), torch.nan)
    bank = PrototypeBank(3, 1, 4, assignment=assignment)
    for column in bank.assign_pixels(nonsense, labels):
        assert column.tolist() == [2, 0, IGNORED, 1, IGNORED]


def sure_pixels(num_prototypes, times):
    """Pixels of class 1 of 2, as many sure of each prototype; with the column of that one."""
    own = torch.arange(num_prototypes).repeat(times) + num_prototypes
    similarities = torch.full((len(own), 2 * num_prototypes), -1.0)
    similarities[torch.arange(len(own)), own] = 1.0
    return similarities, torch.ones(len(own), dtype=torch.long), own


@pytest.mark.parametrize(("num_prototypes", "expected"), [(10, 0.23197), (2, 0.73106)])
def test_gumbel_sends_a_sure_pixel_to_its_prototype_with_probability_e_in_e_plus_k_minus_1(
    num_prototypes, expected
):
    similarities, labels, own = sure_pixels(num_prototypes, 100_000 // num_prototypes)
    bank = PrototypeBank(2, num_prototypes, 4, assignment="gumbel")
    target, moved = bank.assign_pixels(similarities, labels)
    assert torch.equal(target, own)
    share = (moved == own).double().mean().item()
    assert np.e / (np.e + num_prototypes - 1) == pytest.approx(expected, abs=1e-5)
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(own)))
    elsewhere = torch.bincount((moved - own)[moved != own] % num_prototypes)[1:]
    if num_prototypes > 2:
        assert stats.chisquare(elsewhere.numpy()).pvalue > 1e-3


def test_gumbel_takes_the_probabilities_of_an_unsure_pixel_as_logits():
    torch.manual_seed(0)
    similarities = torch.rand(20, 4).repeat(5000, 1)
    labels = torch.zeros(len(similarities), dtype=torch.long)
    plan = reference.sinkhorn_of_class(as_float64(similarities), 0.05, 3)[:20]
    bank = PrototypeBank(1, 4, 4, assignment="gumbel")
    moved = bank.assign_pixels(similarities, labels)[1].view(5000, 20)
    shares = torch.nn.functional.one_hot(moved, 4).double().mean(0).numpy()
    expected = np.exp(plan) / np.exp(plan).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=5 * np.sqrt(0.25 / 5000))


# How they move


def columns(num_pixels, num_columns, seed=0):
    """A target column a pixel: some ignored, and the last quarter of the columns left empty."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_columns * 3 // 4, num_pixels)
    target[rng.random(num_pixels) < 0.2] = IGNORED
    return target


@every_distance
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.999, 1.0])
def test_prototypes_move_as_the_reference_moves_them(distance, momentum):
    rng = np.random.default_rng(1)
    bank = PrototypeBank(4, 3, 8, momentum=momentum, distance=distance)
    expected = as_float64(bank.prototypes)
    for step in range(3):
        pixels = vectors(rng, 100, 8, unit=distance == "cosine")
        target = columns(100, 12, seed=step)
        bank.update_prototypes(torch.tensor(pixels), torch.tensor(target))
        expected = reference.update_prototypes(expected, pixels, target, momentum, distance)
    np.testing.assert_allclose(as_float64(bank.prototypes), expected, rtol=0, atol=2e-6)


@every_distance
@pytest.mark.parametrize("momentum", [0.0, 0.999])
def test_prototypes_without_a_pixel_keep_every_bit(distance, momentum):
    pixels, _ = batch([200], unit=False)
    target = torch.tensor(columns(len(pixels), 40))
    bank = PrototypeBank(8, 5, 8, momentum=momentum, distance=distance)
    # Not quite unit vectors, as rounding leaves them: to normalise them again would change bits.
    bank.prototypes.mul_(1 + 1e-6 * torch.randn(8, 5, 1))
    before = bank.prototypes.clone()
    bank.update_prototypes(pixels, target)
    empty = ~torch.isin(torch.arange(40), target).view(8, 5)
    assert empty.any()
    assert torch.equal(bank.prototypes[empty], before[empty])
    assert (bank.prototypes[~empty] != before[~empty]).any(-1).all()


def test_they_stay_unit_vectors_for_cosine():
    bank = PrototypeBank(3, 2, 8, momentum=0.3)
    for seed in range(20):
        pixels, labels = batch([30, 2, 7], seed=seed)
        bank.update_prototypes(
            pixels, bank.assign_pixels(bank.compute_similarities(pixels), labels)[1]
        )
    torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(3, 2))


def test_without_memory_a_prototype_becomes_the_direction_of_its_mean():
    pixels = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    bank = PrototypeBank(1, 2, 2, momentum=0.0)
    bank.update_prototypes(pixels, torch.tensor([0, 0, 1]))
    expected = torch.tensor([[[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]])
    torch.testing.assert_close(bank.prototypes, expected)


def test_for_euclidean_it_becomes_the_mean_itself():
    pixels = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    bank = PrototypeBank(1, 1, 2, momentum=0.0, distance="euclidean")
    bank.update_prototypes(pixels, torch.tensor([0, 0]))
    torch.testing.assert_close(bank.prototypes, torch.tensor([[[1.5, 2.5]]]))


def test_with_nothing_but_memory_it_does_not_move():
    pixels, labels = batch([30, 30])
    bank = PrototypeBank(2, 1, 8, momentum=1.0)
    before = bank.prototypes.clone()
    bank.update_prototypes(pixels, bank.assign_pixels(bank.compute_similarities(pixels), labels)[1])
    torch.testing.assert_close(bank.prototypes, before, rtol=0, atol=2e-7)


@every_distance
def test_a_single_prototype_follows_the_mean_of_its_class(distance):
    pixels, labels = batch([30, 0, 7])
    bank = PrototypeBank(3, 1, 8, momentum=0.9, distance=distance)
    before = as_float64(bank.prototypes)
    bank.update_prototypes(pixels, bank.assign_pixels(bank.compute_similarities(pixels), labels)[1])
    by_truth = np.where((labels >= 0) & (labels < 3), labels, IGNORED)
    expected = reference.update_prototypes(before, as_float64(pixels), by_truth, 0.9, distance)
    np.testing.assert_allclose(as_float64(bank.prototypes), expected, rtol=0, atol=1e-6)


def test_updates_count_the_steps_that_moved_each_prototype():
    bank = PrototypeBank(2, 2, 4)
    pixels = torch.randn(4, 4)
    bank.update_prototypes(pixels, torch.tensor([0, 0, 3, IGNORED]))
    bank.update_prototypes(pixels, torch.tensor([0, 0, 0, IGNORED]))
    bank.update_prototypes(pixels, torch.full((4,), IGNORED))
    assert bank.updates.tolist() == [[2, 0], [0, 1]]


@pytest.mark.parametrize("num_pixels", [0, 5])
def test_a_batch_of_ignored_pixels_moves_nothing(num_pixels):
    pixels, labels = torch.randn(num_pixels, 4), torch.full((num_pixels,), 255)
    bank = PrototypeBank(2, 3, 4, momentum=0.0)
    before = bank.prototypes.clone()
    target, moved = bank.assign_pixels(bank.compute_similarities(pixels), labels)
    bank.update_prototypes(pixels, moved)
    assert (target == IGNORED).all()
    assert torch.equal(bank.prototypes, before)
    assert not bank.updates.any()


# What they are


def test_they_are_buffers_and_nothing_here_is_learnable():
    bank = PrototypeBank(3, 2, 4)
    assert list(bank.parameters()) == []
    assert set(bank.state_dict()) == {"prototypes", "updates", "started"}
    assert bank.prototypes.shape == (3, 2, 4)
    assert bank.updates.shape == (3, 2)
    assert bank.updates.dtype == torch.long
    assert bank.started.shape == (3,)


@pytest.mark.parametrize("init", ["normal", "pixels"])
def test_a_saved_bank_goes_on_as_if_it_had_never_stopped(init, tmp_path):
    def step(bank, seed):
        pixels, labels = batch([20, 0 if seed == 0 else 9, 5], seed=seed)
        bank.initialise_new_classes(pixels, labels)
        bank.update_prototypes(
            pixels, bank.assign_pixels(bank.compute_similarities(pixels), labels)[1]
        )

    bank = PrototypeBank(3, 2, 8, init=init, momentum=0.5)
    step(bank, 0)
    torch.save(bank.state_dict(), tmp_path / "bank.pt")
    resumed = PrototypeBank(3, 2, 8, init=init, momentum=0.5)
    resumed.load_state_dict(torch.load(tmp_path / "bank.pt", weights_only=True))
    for one in (bank, resumed):
        torch.manual_seed(7)
        step(one, 1)
    for name, value in bank.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_a_copy_moves_on_its_own():
    bank = PrototypeBank(2, 1, 4, momentum=0.0)
    before = bank.prototypes.clone()
    copy.deepcopy(bank).update_prototypes(torch.randn(4, 4), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(bank.prototypes, before)


@every_distance
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prototypes_stay_float32_in_a_half_precision_model(distance, dtype):
    # With momentum 0.999 a half-precision prototype would never move: each step rounds away.
    bank = PrototypeBank(2, 2, 8, distance=distance)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), bank).to(dtype)
    assert model[0].weight.dtype == dtype
    assert bank.prototypes.dtype == torch.float32
    pixels, labels = batch([20, 20])
    pixels = pixels.to(dtype)
    before = as_float64(bank.prototypes)
    target, moved = bank.assign_pixels(bank.compute_similarities(pixels), labels)
    bank.update_prototypes(pixels, moved)
    expected = reference.update_prototypes(before, as_float64(pixels), target, 0.999, distance)
    np.testing.assert_allclose(as_float64(bank.prototypes), expected, rtol=0, atol=1e-6)


@every_distance
def test_under_autocast_a_step_is_the_float32_step(distance):
    pixels, labels = batch([40, 9, 0])
    plain = PrototypeBank(3, 4, 8, distance=distance, momentum=0.9)
    under = copy.deepcopy(plain)
    expected, moved = plain.assign_pixels(plain.compute_similarities(pixels), labels)
    plain.update_prototypes(pixels, moved)
    with torch.autocast("cpu", torch.bfloat16):
        target, moved = under.assign_pixels(under.compute_similarities(pixels), labels)
        under.update_prototypes(pixels, moved)
    assert under.prototypes.dtype == torch.float32
    assert torch.equal(target, expected)
    torch.testing.assert_close(under.prototypes, plain.prototypes)


@pytest.mark.parametrize("init", ["normal", "pixels"])
@pytest.mark.parametrize("assignment", ["argmax", "gumbel"])
def test_a_step_never_waits_for_the_device(init, assignment):
    # Fake tensors have no values: whatever would fetch one to the host fails on them.
    bank = PrototypeBank(3, 4, 8, init=init, assignment=assignment)
    with FakeTensorMode() as fake:
        for name, value in list(bank.named_buffers()):
            setattr(bank, name, fake.from_tensor(value))
        pixels, labels = torch.empty(50, 8), torch.empty(50, dtype=torch.long)
        bank.initialise_new_classes(pixels, labels)
        _, moved = bank.assign_pixels(bank.compute_similarities(pixels), labels)
        bank.update_prototypes(pixels, moved)
