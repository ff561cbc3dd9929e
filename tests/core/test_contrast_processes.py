"""Pixel contrast in several processes (gloo) equals one process with the whole batch."""

from __future__ import annotations

import pytest
import torch
from forked import run_in_processes

from core import contrast_processes as processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return the results of every process, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    run_in_processes(processes.run_process, 2, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def single_process():
    """Return the results of one process with the whole batch."""
    return processes.run_steps()


def test_all_processes_hold_the_same_memory(ranks):
    for one, other in zip(ranks[0]["states"], ranks[1]["states"], strict=True):
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


def test_the_memory_equals_that_of_one_process_with_the_whole_batch(ranks, single_process):
    for step, (actual, expected) in enumerate(
        zip(ranks[0]["states"], single_process["states"], strict=True)
    ):
        assert expected["pixels"].any(), "the memory is empty"
        for name in ("pixels", "pixels_seen", "regions_seen"):
            assert torch.equal(actual[name], expected[name]), f"{name} after step {step}"
        torch.testing.assert_close(actual["regions"], expected["regions"], rtol=0, atol=1e-6)
    assert (single_process["states"][-1]["pixels_seen"] > 13).any(), "the queue has not wrapped"


@pytest.mark.parametrize("part", ["", "memory "])
def test_mean_loss_and_gradient_equal_those_of_one_process(ranks, single_process, part):
    mean = torch.stack([rank[f"{part}loss"] for rank in ranks]).mean()
    assert mean > 0
    torch.testing.assert_close(mean, single_process[f"{part}loss"], rtol=1e-5, atol=1e-6)
    # DDP averages the gradients of the processes.
    mean_gradient = torch.cat([rank[f"{part}gradient"] for rank in ranks]) / len(ranks)
    expected = single_process[f"{part}gradient"]
    torch.testing.assert_close(mean_gradient, expected, rtol=1e-4, atol=1e-6)
