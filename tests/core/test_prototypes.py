"""The prototype bank: initialisation, assignment and update (Eq. 8-10, 14)."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode

from core import reference
from core.batches import convert_float64, draw_vectors, shuffle_labels
from protoseg.core.distances import DISTANCES
from protoseg.core.losses import IGNORED
from protoseg.core.prototypes import PrototypeBank

CLEAR = 1e-3
every_distance = pytest.mark.parametrize("distance", DISTANCES)


def make_batch(sizes, channels=8, ignored=(255, -1, 99), *, unit=True, seed=0):
    """Return pixels (N, D) and labels (N,) with ``sizes[c]`` pixels of class c."""
    rng = np.random.default_rng(seed)
    labels = shuffle_labels(rng, sizes, ignored)
    return torch.tensor(draw_vectors(rng, len(labels), channels, unit=unit)), torch.tensor(labels)


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


# Initialisation


def test_normal_initialises_unit_vectors_for_cosine():
    bank = PrototypeBank(5, 3, 16)
    torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(5, 3))
    assert bank.prototypes.dtype == torch.float32
    assert bank.started.all()


@pytest.mark.parametrize("distance", ["euclidean", "huber"])
@pytest.mark.parametrize("std", [0.02, 0.5])
def test_normal_is_truncated_at_two_standard_deviations(distance, std):
    bank = PrototypeBank(10, 10, 200, distance=distance, init_std=std)
    drawn = convert_float64(bank.prototypes).ravel()
    assert np.abs(drawn).max() <= 2 * std * (1 + 1e-6)
    assert stats.kstest(drawn, stats.truncnorm(-2, 2, scale=std).cdf).pvalue > 1e-3


def test_the_default_standard_deviation_is_that_of_the_authors():
    drawn = PrototypeBank(10, 10, 200, distance="euclidean").prototypes
    assert drawn.std().item() == pytest.approx(stats.truncnorm(-2, 2, scale=0.02).std(), rel=0.02)


def find_pixels(prototypes, pixels):
    """Return the index of the pixel that equals each prototype (K, D); fail if there is none."""
    same = torch.isclose(prototypes[:, None], pixels, rtol=0, atol=1e-6).all(-1)
    assert same.any(1).all()
    return same.int().argmax(1).tolist()


@every_distance
@pytest.mark.parametrize("num_prototypes", [1, 2, 10])
def test_pixels_of_the_class_become_its_prototypes(distance, num_prototypes):
    pixels, labels = make_batch([40, 10, 12], unit=False)
    bank = PrototypeBank(3, num_prototypes, 8, distance=distance, init="pixels")
    assert not bank.started.any()
    bank.initialise_new_classes(pixels, labels)
    assert bank.started.all()
    expected = torch.tensor([[*reference.normalise(x)] for x in convert_float64(pixels)]).float()
    for c in range(3):
        own = (expected if distance == "cosine" else pixels)[labels == c]
        drawn = find_pixels(bank.prototypes[c], own)
        assert len(set(drawn)) == num_prototypes


@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_class_of_fewer_pixels_than_prototypes_uses_all_of_them(size):
    pixels, labels = make_batch([size, 50])
    bank = PrototypeBank(2, 10, 8, init="pixels")
    bank.initialise_new_classes(pixels, labels)
    assert set(find_pixels(bank.prototypes[0], pixels[labels == 0])) == set(range(size))


def test_a_class_is_initialised_once_from_its_first_batch():
    bank = PrototypeBank(3, 2, 8, init="pixels")
    drawn_at_reset = bank.prototypes.clone()
    bank.initialise_new_classes(*make_batch([20, 0, 20], seed=1))
    assert bank.started.tolist() == [True, False, True]
    assert torch.equal(bank.prototypes[1], drawn_at_reset[1])
    after_one = bank.prototypes.clone()
    pixels, labels = make_batch([20, 20, 20], seed=2)
    bank.initialise_new_classes(pixels, labels)
    assert bank.started.all()
    assert torch.equal(bank.prototypes[[0, 2]], after_one[[0, 2]])
    find_pixels(bank.prototypes[1], pixels[labels == 1])
    after_two = bank.prototypes.clone()
    bank.initialise_new_classes(*make_batch([20, 20, 20], seed=3))
    assert torch.equal(bank.prototypes, after_two)


@pytest.mark.parametrize("num_pixels", [0, 6])
def test_a_batch_without_a_labelled_pixel_initialises_nothing(num_pixels):
    bank = PrototypeBank(3, 2, 8, init="pixels")
    before = bank.prototypes.clone()
    bank.initialise_new_classes(
        torch.full((num_pixels, 8), torch.nan), torch.full((num_pixels,), 255)
    )
    assert torch.equal(bank.prototypes, before)
    assert not bank.started.any()


def test_every_pixel_of_a_class_is_equally_likely_to_be_drawn():
    pixels, labels = torch.eye(6), torch.tensor([0, 0, 0, 0, 0, 255])
    draws = torch.zeros(6)
    for _ in range(1000):
        bank = PrototypeBank(1, 2, 6, init="pixels")
        bank.initialise_new_classes(pixels, labels)
        draws += bank.prototypes[0].sum(0)
    assert draws[5] == 0
    assert stats.chisquare(draws[:5].numpy()).pvalue > 1e-3


def test_normal_prototypes_are_not_replaced_by_pixels():
    bank = PrototypeBank(2, 2, 8)
    before = bank.prototypes.clone()
    bank.initialise_new_classes(*make_batch([9, 9]))
    assert torch.equal(bank.prototypes, before)


@pytest.mark.parametrize("init", ["normal", "pixels"])
def test_reset_restores_the_initial_state(init):
    bank = PrototypeBank(2, 2, 8, init=init, momentum=0.5)
    pixels, labels = make_batch([9, 9])
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
def test_values_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        PrototypeBank(**{"num_classes": 2, "num_prototypes": 2, "channels": 4, **options})


# Assignment


@every_distance
@pytest.mark.parametrize("num_prototypes", [2, 5])
def test_assignment_equals_the_reference(distance, num_prototypes):
    sizes = [60, 3, 0, 120]
    pixels, labels = make_batch(sizes)
    bank = PrototypeBank(4, num_prototypes, 8, distance=distance, init_std=0.3, kappa=0.1)
    target, update = bank.assign_pixels(bank.compute_similarities(pixels), labels)
    table = reference.compute_similarities(
        convert_float64(pixels), convert_float64(bank.prototypes), distance
    )
    expected, margins = reference.assign_pixels(table, labels, 4, num_prototypes, 0.1, 3)
    clear = margins > CLEAR
    assert clear.mean() > 0.9
    assert (target.numpy() == expected)[clear].all()
    assert torch.equal(target, update)


def test_kappa_and_iterations_change_the_assignment():
    pixels, labels = make_batch([50, 70])
    assignments = []
    for kappa, iterations in [(0.05, 3), (1.0, 3), (0.05, 1)]:
        torch.manual_seed(1)
        bank = PrototypeBank(2, 10, 8, kappa=kappa, sinkhorn_iterations=iterations)
        table = bank.compute_similarities(pixels)
        target = bank.assign_pixels(table, labels)[0].numpy()
        expected, margins = reference.assign_pixels(
            convert_float64(table), labels, 2, 10, kappa, iterations
        )
        assert (target == expected)[margins > CLEAR].all()
        assignments.append(target.tolist())
    assert assignments[0] != assignments[1]
    assert assignments[0] != assignments[2]


@pytest.mark.parametrize("assignment", ["argmax", "gumbel"])
@pytest.mark.parametrize("num_prototypes", [1, 4])
def test_only_valid_pixels_get_a_prototype_and_it_is_of_their_class(assignment, num_prototypes):
    pixels, labels = make_batch([30, 5, 0], ignored=[255, -1, 3, -100])
    bank = PrototypeBank(3, num_prototypes, 8, assignment=assignment)
    for column in bank.assign_pixels(bank.compute_similarities(pixels), labels):
        counts = (labels >= 0) & (labels < 3)
        assert (column[~counts] == IGNORED).all()
        assert torch.equal(column[counts] // num_prototypes, labels[counts])


@pytest.mark.parametrize("assignment", ["argmax", "gumbel"])
def test_a_single_prototype_is_assigned_by_label(assignment):
    labels = torch.tensor([2, 0, 255, 1, -1])
    nonsense = torch.full((5, 3), torch.nan)
    bank = PrototypeBank(3, 1, 4, assignment=assignment)
    for column in bank.assign_pixels(nonsense, labels):
        assert column.tolist() == [2, 0, IGNORED, 1, IGNORED]


def make_clear_pixels(num_prototypes, repeats):
    """Return similarities and labels of pixels with a clear best prototype, and its column."""
    own = torch.arange(num_prototypes).repeat(repeats) + num_prototypes
    similarities = torch.full((len(own), 2 * num_prototypes), -1.0)
    similarities[torch.arange(len(own)), own] = 1.0
    return similarities, torch.ones(len(own), dtype=torch.long), own


@pytest.mark.parametrize(("num_prototypes", "expected"), [(10, 0.23197), (2, 0.73106)])
def test_gumbel_assigns_a_clear_pixel_to_its_prototype_with_probability_e_over_e_plus_k_minus_1(
    num_prototypes, expected
):
    similarities, labels, own = make_clear_pixels(num_prototypes, 100_000 // num_prototypes)
    bank = PrototypeBank(2, num_prototypes, 4, assignment="gumbel")
    target, update = bank.assign_pixels(similarities, labels)
    assert torch.equal(target, own)
    share = (update == own).double().mean().item()
    assert np.e / (np.e + num_prototypes - 1) == pytest.approx(expected, abs=1e-5)
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(own)))
    other_prototypes = torch.bincount((update - own)[update != own] % num_prototypes)[1:]
    if num_prototypes > 2:
        assert stats.chisquare(other_prototypes.numpy()).pvalue > 1e-3


def test_gumbel_uses_the_probabilities_of_an_unclear_pixel_as_logits():
    torch.manual_seed(0)
    similarities = torch.rand(20, 4).repeat(5000, 1)
    labels = torch.zeros(len(similarities), dtype=torch.long)
    plan = reference.solve_sinkhorn_of_class(convert_float64(similarities), 0.05, 3)[:20]
    bank = PrototypeBank(1, 4, 4, assignment="gumbel")
    update = bank.assign_pixels(similarities, labels)[1].view(5000, 20)
    shares = torch.nn.functional.one_hot(update, 4).double().mean(0).numpy()
    expected = np.exp(plan) / np.exp(plan).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=5 * np.sqrt(0.25 / 5000))


# Update


def make_targets(num_pixels, num_columns, seed=0):
    """Return a target column per pixel: some ignored, the last quarter of the columns unused."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_columns * 3 // 4, num_pixels)
    target[rng.random(num_pixels) < 0.2] = IGNORED
    return target


@every_distance
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.999, 1.0])
def test_updates_equal_the_reference(distance, momentum):
    rng = np.random.default_rng(1)
    bank = PrototypeBank(4, 3, 8, momentum=momentum, distance=distance)
    expected = convert_float64(bank.prototypes)
    for step in range(3):
        pixels = draw_vectors(rng, 100, 8, unit=distance == "cosine")
        target = make_targets(100, 12, seed=step)
        bank.update_prototypes(torch.tensor(pixels), torch.tensor(target))
        expected = reference.update_prototypes(expected, pixels, target, momentum, distance)
    np.testing.assert_allclose(convert_float64(bank.prototypes), expected, rtol=0, atol=2e-6)


@every_distance
@pytest.mark.parametrize("momentum", [0.0, 0.999])
def test_prototypes_without_a_pixel_are_bit_identical(distance, momentum):
    pixels, _ = make_batch([200], unit=False)
    target = torch.tensor(make_targets(len(pixels), 40))
    bank = PrototypeBank(8, 5, 8, momentum=momentum, distance=distance)
    # Not exactly unit vectors because of rounding: normalising them again would change bits.
    bank.prototypes.mul_(1 + 1e-6 * torch.randn(8, 5, 1))
    before = bank.prototypes.clone()
    bank.update_prototypes(pixels, target)
    empty = ~torch.isin(torch.arange(40), target).view(8, 5)
    assert empty.any()
    assert torch.equal(bank.prototypes[empty], before[empty])
    assert (bank.prototypes[~empty] != before[~empty]).any(-1).all()


def test_updated_prototypes_are_unit_vectors_for_cosine():
    bank = PrototypeBank(3, 2, 8, momentum=0.3)
    for seed in range(20):
        pixels, labels = make_batch([30, 2, 7], seed=seed)
        bank.update_prototypes(
            pixels, bank.assign_pixels(bank.compute_similarities(pixels), labels)[1]
        )
    torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(3, 2))


def test_with_momentum_0_a_prototype_becomes_the_direction_of_its_mean():
    pixels = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    bank = PrototypeBank(1, 2, 2, momentum=0.0)
    bank.update_prototypes(pixels, torch.tensor([0, 0, 1]))
    expected = torch.tensor([[[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]])
    torch.testing.assert_close(bank.prototypes, expected)


def test_with_momentum_0_a_euclidean_prototype_becomes_the_mean():
    pixels = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    bank = PrototypeBank(1, 1, 2, momentum=0.0, distance="euclidean")
    bank.update_prototypes(pixels, torch.tensor([0, 0]))
    torch.testing.assert_close(bank.prototypes, torch.tensor([[[1.5, 2.5]]]))


def test_with_momentum_1_prototypes_do_not_move():
    pixels, labels = make_batch([30, 30])
    bank = PrototypeBank(2, 1, 8, momentum=1.0)
    before = bank.prototypes.clone()
    bank.update_prototypes(pixels, bank.assign_pixels(bank.compute_similarities(pixels), labels)[1])
    torch.testing.assert_close(bank.prototypes, before, rtol=0, atol=2e-7)


@every_distance
def test_a_single_prototype_follows_the_mean_of_its_class(distance):
    pixels, labels = make_batch([30, 0, 7])
    bank = PrototypeBank(3, 1, 8, momentum=0.9, distance=distance)
    before = convert_float64(bank.prototypes)
    bank.update_prototypes(pixels, bank.assign_pixels(bank.compute_similarities(pixels), labels)[1])
    by_truth = np.where((labels >= 0) & (labels < 3), labels, IGNORED)
    expected = reference.update_prototypes(before, convert_float64(pixels), by_truth, 0.9, distance)
    np.testing.assert_allclose(convert_float64(bank.prototypes), expected, rtol=0, atol=1e-6)


def test_updates_counts_the_updates_of_each_prototype():
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
    target, update = bank.assign_pixels(bank.compute_similarities(pixels), labels)
    bank.update_prototypes(pixels, update)
    assert (target == IGNORED).all()
    assert torch.equal(bank.prototypes, before)
    assert not bank.updates.any()


# State and precision


def test_prototypes_are_buffers_and_nothing_is_learnable():
    bank = PrototypeBank(3, 2, 4)
    assert list(bank.parameters()) == []
    assert set(bank.state_dict()) == {"prototypes", "updates", "started"}
    assert bank.prototypes.shape == (3, 2, 4)
    assert bank.updates.shape == (3, 2)
    assert bank.updates.dtype == torch.long
    assert bank.started.shape == (3,)


@pytest.mark.parametrize("init", ["normal", "pixels"])
def test_a_resumed_bank_is_bit_identical(init, tmp_path):
    def step(bank, seed):
        pixels, labels = make_batch([20, 0 if seed == 0 else 9, 5], seed=seed)
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


def test_a_copy_is_independent():
    bank = PrototypeBank(2, 1, 4, momentum=0.0)
    before = bank.prototypes.clone()
    copy.deepcopy(bank).update_prototypes(torch.randn(4, 4), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(bank.prototypes, before)


@every_distance
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prototypes_stay_float32_in_a_half_precision_model(distance, dtype):
    # With momentum 0.999 rounding would cancel each update of a half-precision prototype.
    bank = PrototypeBank(2, 2, 8, distance=distance)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), bank).to(dtype)
    assert model[0].weight.dtype == dtype
    assert bank.prototypes.dtype == torch.float32
    pixels, labels = make_batch([20, 20])
    pixels = pixels.to(dtype)
    before = convert_float64(bank.prototypes)
    target, update = bank.assign_pixels(bank.compute_similarities(pixels), labels)
    bank.update_prototypes(pixels, update)
    expected = reference.update_prototypes(before, convert_float64(pixels), target, 0.999, distance)
    np.testing.assert_allclose(convert_float64(bank.prototypes), expected, rtol=0, atol=1e-6)


@every_distance
def test_a_step_under_autocast_equals_the_float32_step(distance):
    pixels, labels = make_batch([40, 9, 0])
    plain = PrototypeBank(3, 4, 8, distance=distance, momentum=0.9)
    under = copy.deepcopy(plain)
    expected, update = plain.assign_pixels(plain.compute_similarities(pixels), labels)
    plain.update_prototypes(pixels, update)
    with torch.autocast("cpu", torch.bfloat16):
        target, update = under.assign_pixels(under.compute_similarities(pixels), labels)
        under.update_prototypes(pixels, update)
    assert under.prototypes.dtype == torch.float32
    assert torch.equal(target, expected)
    torch.testing.assert_close(under.prototypes, plain.prototypes)


@pytest.mark.parametrize("init", ["normal", "pixels"])
@pytest.mark.parametrize("assignment", ["argmax", "gumbel"])
def test_a_step_never_waits_for_the_device(init, assignment):
    # Fake tensors have no values, so any copy to the host raises an error.
    bank = PrototypeBank(3, 4, 8, init=init, assignment=assignment)
    with FakeTensorMode() as fake:
        for name, value in list(bank.named_buffers()):
            setattr(bank, name, fake.from_tensor(value))
        pixels, labels = torch.empty(50, 8), torch.empty(50, dtype=torch.long)
        bank.initialise_new_classes(pixels, labels)
        _, update = bank.assign_pixels(bank.compute_similarities(pixels), labels)
        bank.update_prototypes(pixels, update)
