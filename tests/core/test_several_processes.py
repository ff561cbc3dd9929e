"""Prototypes in several processes (gloo) equal those of one process with the whole batch."""

from __future__ import annotations

import pytest
import torch
from forked import run_in_processes

from core import processes
from core.processes import (
    CHANNELS,
    CLASSES,
    LAYOUTS,
    STEPS,
    list_cases,
    make_bank,
    make_whole_batch,
    normalise_pixels,
    split_indices,
)
from protoseg.core import collective

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def select_cases(layout, *distributed_modes):
    """Return (distributed, K, distance) of a layout."""
    return [case[1:] for case in list_cases() if case[0] == layout and case[1] in distributed_modes]


@pytest.fixture(scope="module", params=[2, 4], ids=["2 processes", "4 processes"])
def ranks(request, tmp_path_factory):
    """Return the results of every process, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    world = request.param
    run_in_processes(processes.run_process, world, world, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@every_layout
def test_all_processes_hold_the_same_prototypes(ranks, layout):
    for case in select_cases(layout, "pooled", "averaged"):
        for number in range(STEPS):
            _, _, prototypes, updates = ranks[0][layout, *case][number]
            for other in ranks[1:]:
                assert torch.equal(other[layout, *case][number][2], prototypes), case
                assert torch.equal(other[layout, *case][number][3], updates), case


@every_layout
def test_pooled_equals_one_process_with_the_whole_batch(ranks, layout):
    for case in select_cases(layout, "pooled"):
        _, num_prototypes, distance = case
        bank = make_bank("pooled", num_prototypes, distance)
        for number in range(STEPS):
            pixels, labels = make_whole_batch(number)
            target = processes.run_step(bank, normalise_pixels(pixels, distance), labels)
            pixel_count = 0
            for rank in ranks:
                own_part, actual, prototypes, updates = rank[layout, *case][number]
                pixel_count += len(own_part)
                assert torch.equal(actual, target[own_part]), case
                torch.testing.assert_close(prototypes, bank.prototypes, rtol=0, atol=1e-5)
                assert torch.equal(updates, bank.updates), case
            assert pixel_count == len(labels)


@every_layout
def test_averaged_is_the_mean_over_independent_processes(ranks, layout):
    for case in select_cases(layout, "averaged"):
        _, num_prototypes, distance = case
        before = make_bank("averaged", num_prototypes, distance).prototypes
        for number in range(STEPS):
            pixels, labels = make_whole_batch(number)
            banks = []
            for rank, own_part in zip(
                ranks, split_indices(labels, layout, len(ranks)), strict=True
            ):
                bank = make_bank("averaged", num_prototypes, distance)
                bank.prototypes.copy_(before)
                target = processes.run_step(
                    bank, normalise_pixels(pixels, distance)[own_part], labels[own_part]
                )
                assert torch.equal(rank[layout, *case][number][1], target), case
                banks.append(bank)
            mean = torch.stack([bank.prototypes for bank in banks]).mean(0)
            if distance == "cosine":
                mean = torch.nn.functional.normalize(mean, dim=-1)
            moved = torch.stack([bank.updates > 0 for bank in banks]).any(0)
            after = ranks[0][layout, *case][number][2]
            torch.testing.assert_close(after[moved], mean[moved], rtol=0, atol=1e-5)
            assert torch.equal(after[~moved], before[~moved]), case
            before = after


@pytest.mark.parametrize("distributed", ["pooled", "averaged"])
@every_layout
def test_pixels_of_all_processes_initialise_the_prototypes(ranks, distributed, layout):
    before, started = None, torch.zeros(CLASSES, dtype=torch.bool)
    for number, batch in enumerate((STEPS - 1, 0, 1)):
        pixels, labels = make_whole_batch(batch)
        prototypes, now = ranks[0]["start", layout, distributed][number]
        for other in ranks[1:]:
            assert torch.equal(other["start", layout, distributed][number][0], prototypes)
            assert torch.equal(other["start", layout, distributed][number][1], now)
        assert now.tolist() == [True, True, True, number > 0]
        for c in torch.arange(CLASSES)[now & ~started].tolist():
            same = (prototypes[c][:, None] == pixels[labels == c]).all(-1)
            assert same.any(1).all()
            assert (
                len(set(same.int().argmax(1).tolist())) == 5
            )  # distinct, since each class has more pixels
        if before is not None:
            assert torch.equal(prototypes[started], before[started])
        before, started = prototypes, now


def test_several_processes_contribute_initial_pixels(ranks):
    pixels, labels = make_whole_batch(STEPS - 1)
    share = split_indices(labels, "even", len(ranks))
    prototypes = ranks[0]["start", "even", "pooled"][0][0][:3].flatten(0, 1)
    drawn = [(prototypes[:, None] == pixels[own_part]).all(-1).any().item() for own_part in share]
    assert sum(drawn) >= 2


def test_sums_maxima_and_gathered_tensors_cover_all_processes(ranks):
    world = len(ranks)
    numbers = torch.arange(float(world))
    for number, rank in enumerate(ranks):
        results = rank["collective"]
        assert (results["world_size"], results["rank"]) == (world, number)
        assert results["all_sum"].tolist() == [numbers.sum(), -numbers.sum()]
        assert results["all_max"].tolist() == [world - 1, 0]
        assert torch.equal(results["all_gather"], torch.stack([numbers, -numbers], 1))
        assert results["untouched"].tolist() == [number, -number]


def test_collectives_return_their_input_outside_a_distributed_run():
    values = torch.arange(3.0)
    assert collective.world_size() == 1
    assert collective.rank() == 0
    assert collective.all_sum(values) is values
    assert collective.all_max(values) is values
    assert torch.equal(collective.all_gather(values), values[None])


def test_averaged_equals_pooled_in_one_process():
    pixels, labels = torch.randn(40, CHANNELS), torch.arange(40) % CLASSES
    banks = [make_bank(distributed, 3, "cosine") for distributed in ("pooled", "averaged")]
    targets = [processes.run_step(bank, pixels, labels) for bank in banks]
    assert torch.equal(*targets)
    assert torch.equal(*[bank.prototypes for bank in banks])
