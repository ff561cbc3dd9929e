"""Real processes (gloo), each with a part of a batch, against one process with the whole."""

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
    cases,
    new_bank,
    parts,
    pixels_of,
    whole_batch,
)
from protoseg.core import collective

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def cases_of(layout, *ways):
    """(distributed, K, distance) of a layout."""
    return [case[1:] for case in cases() if case[0] == layout and case[1] in ways]


@pytest.fixture(scope="module", params=[2, 4], ids=["2 processes", "4 processes"])
def ranks(request, tmp_path_factory):
    """What every process ended with, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    world = request.param
    run_in_processes(processes.work, world, world, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@every_layout
def test_all_processes_hold_the_same_prototypes(ranks, layout):
    for case in cases_of(layout, "pooled", "averaged"):
        for number in range(STEPS):
            _, _, prototypes, updates = ranks[0][layout, *case][number]
            for other in ranks[1:]:
                assert torch.equal(other[layout, *case][number][2], prototypes), case
                assert torch.equal(other[layout, *case][number][3], updates), case


@every_layout
def test_pooled_is_one_process_with_the_whole_batch(ranks, layout):
    for case in cases_of(layout, "pooled"):
        _, num_prototypes, distance = case
        bank = new_bank("pooled", num_prototypes, distance)
        for number in range(STEPS):
            pixels, labels = whole_batch(number)
            target = processes.step(bank, pixels_of(pixels, distance), labels)
            seen = 0
            for rank in ranks:
                mine, found, prototypes, updates = rank[layout, *case][number]
                seen += len(mine)
                assert torch.equal(found, target[mine]), case
                torch.testing.assert_close(prototypes, bank.prototypes, rtol=0, atol=1e-5)
                assert torch.equal(updates, bank.updates), case
            assert seen == len(labels)


@every_layout
def test_averaged_is_the_mean_of_what_each_process_would_do(ranks, layout):
    for case in cases_of(layout, "averaged"):
        _, num_prototypes, distance = case
        before = new_bank("averaged", num_prototypes, distance).prototypes
        for number in range(STEPS):
            pixels, labels = whole_batch(number)
            alone = []
            for rank, mine in zip(ranks, parts(labels, layout, len(ranks)), strict=True):
                bank = new_bank("averaged", num_prototypes, distance)
                bank.prototypes.copy_(before)
                target = processes.step(bank, pixels_of(pixels, distance)[mine], labels[mine])
                assert torch.equal(rank[layout, *case][number][1], target), case
                alone.append(bank)
            mean = torch.stack([bank.prototypes for bank in alone]).mean(0)
            if distance == "cosine":
                mean = torch.nn.functional.normalize(mean, dim=-1)
            moved = torch.stack([bank.updates > 0 for bank in alone]).any(0)
            after = ranks[0][layout, *case][number][2]
            torch.testing.assert_close(after[moved], mean[moved], rtol=0, atol=1e-5)
            assert torch.equal(after[~moved], before[~moved]), case
            before = after


@pytest.mark.parametrize("distributed", ["pooled", "averaged"])
@every_layout
def test_pixels_of_all_processes_start_the_prototypes_of_all(ranks, distributed, layout):
    before, started = None, torch.zeros(CLASSES, dtype=torch.bool)
    for number, batch in enumerate((STEPS - 1, 0, 1)):
        pixels, labels = whole_batch(batch)
        prototypes, now = ranks[0]["start", layout, distributed][number]
        for other in ranks[1:]:
            assert torch.equal(other["start", layout, distributed][number][0], prototypes)
            assert torch.equal(other["start", layout, distributed][number][1], now)
        assert now.tolist() == [True, True, True, number > 0]
        for c in torch.arange(CLASSES)[now & ~started].tolist():
            same = (prototypes[c][:, None] == pixels[labels == c]).all(-1)
            assert same.any(1).all()
            assert len(set(same.int().argmax(1).tolist())) == 5  # distinct: each class has more
        if before is not None:
            assert torch.equal(prototypes[started], before[started])
        before, started = prototypes, now


def test_pixels_of_every_process_are_drawn(ranks):
    pixels, labels = whole_batch(STEPS - 1)
    share = parts(labels, "even", len(ranks))
    prototypes = ranks[0]["start", "even", "pooled"][0][0][:3].flatten(0, 1)
    drawn = [(prototypes[:, None] == pixels[mine]).all(-1).any().item() for mine in share]
    assert sum(drawn) >= 2


def test_sums_maxima_and_collections_are_over_all_processes(ranks):
    world = len(ranks)
    numbers = torch.arange(float(world))
    for number, rank in enumerate(ranks):
        seen = rank["collective"]
        assert (seen["world_size"], seen["rank"]) == (world, number)
        assert seen["all_sum"].tolist() == [numbers.sum(), -numbers.sum()]
        assert seen["all_max"].tolist() == [world - 1, 0]
        assert torch.equal(seen["all_gather"], torch.stack([numbers, -numbers], 1))
        assert seen["untouched"].tolist() == [number, -number]


def test_outside_a_distributed_run_there_is_one_process():
    here = torch.arange(3.0)
    assert collective.world_size() == 1
    assert collective.rank() == 0
    assert collective.all_sum(here) is here
    assert collective.all_max(here) is here
    assert torch.equal(collective.all_gather(here), here[None])


def test_alone_averaged_is_pooled():
    pixels, labels = torch.randn(40, CHANNELS), torch.arange(40) % CLASSES
    banks = [new_bank(distributed, 3, "cosine") for distributed in ("pooled", "averaged")]
    targets = [processes.step(bank, pixels, labels) for bank in banks]
    assert torch.equal(*targets)
    assert torch.equal(*[bank.prototypes for bank in banks])
