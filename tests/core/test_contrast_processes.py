"""Pixel contrast in real processes (gloo), against one process with the whole batch."""

from __future__ import annotations

import pytest
import torch
from forked import run_in_processes

from core import contrast_processes as processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What every process ended with, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    run_in_processes(processes.work, 2, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    """One process with the whole batch."""
    return processes.take_part()


def test_all_processes_hold_the_same_memory(ranks):
    for one, other in zip(ranks[0]["states"], ranks[1]["states"], strict=True):
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


def test_it_is_the_memory_of_one_process_with_the_whole_batch(ranks, alone):
    for step, (found, expected) in enumerate(zip(ranks[0]["states"], alone["states"], strict=True)):
        assert expected["pixels"].any(), "something is held"
        for name in ("pixels", "pixels_seen", "regions_seen"):
            assert torch.equal(found[name], expected[name]), f"{name} after step {step}"
        torch.testing.assert_close(found["regions"], expected["regions"], rtol=0, atol=1e-6)
    assert (alone["states"][-1]["pixels_seen"] > 13).any(), "and has wrapped"


def test_the_mean_over_the_processes_is_the_loss_of_one(ranks, alone):
    mean = torch.stack([rank["loss"] for rank in ranks]).mean()
    torch.testing.assert_close(mean, alone["loss"], rtol=1e-5, atol=1e-6)
    # DDP takes the mean of the gradients of the processes.
    together = torch.cat([rank["gradient"] for rank in ranks]) / len(ranks)
    torch.testing.assert_close(together, alone["gradient"], rtol=1e-4, atol=1e-6)
