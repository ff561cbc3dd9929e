"""The random number generators of a training: seeds, and states that are saved and restored."""

from __future__ import annotations

import random

import numpy as np
import torch

from protoseg.training.rng import (
    get_random_state,
    pack_state,
    seed_generators,
    set_random_state,
    unpack_state,
)


def draw() -> tuple[float, float, float]:
    """One number of each generator: of Python, numpy and torch."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_each_generator_has_its_own_seed_from_all_numbers() -> None:
    seeds = np.random.SeedSequence((7, 1, 40)).generate_state(3).tolist()
    seed_generators(7, 1, 40)
    drawn = draw()
    assert drawn == (
        random.Random(seeds[0]).random(),
        float(np.random.RandomState(seeds[1]).rand()),
        float(torch.rand((), generator=torch.Generator().manual_seed(seeds[2]))),
    )
    for other in ((7, 1, 41), (7, 2, 40), (8, 1, 40)):
        seed_generators(*other)
        assert not set(draw()) & set(drawn)


def test_a_state_sent_to_another_process_restores_all_generators() -> None:
    seed_generators(3)
    np.random.rand(5)
    state = unpack_state(pack_state(get_random_state()))
    expected = [draw() for _ in range(700)]
    seed_generators(4)
    set_random_state(state)
    assert [draw() for _ in range(700)] == expected
