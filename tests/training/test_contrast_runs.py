"""Pixel contrast on two processes: both hold the memory bank, and a resumed run restores it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from protoseg.config.schema import RunSpec
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.training import checkpoint
from training.launch import Workers
from training.small import log, make_folder, pause_after, small_spec, wait_for_checkpoint
from training.test_worker import SPEC, assert_same_result

PIXELS, REGIONS, CHANNELS, CLASSES = 60, 6, 16, 6
CONTRAST = (
    "contrast=pixel_small",
    *("contrast.anchors=48", "contrast.positives=16", "contrast.negatives=32"),
    *(f"contrast.pixel_queue={PIXELS}", f"contrast.region_queue={REGIONS}"),
    f"contrast.channels={CHANNELS}",
)
MEMORY = "decode_head.contrast.memory."
SAVE_MEMORY = """
import os, torch
from protoseg.training.loop import TrainingLoop
run = TrainingLoop.run
def run_and_save(self, start):
    run(self, start)
    memory = self.parts.module.decode_head.contrast.memory.state_dict()
    torch.save(memory, self.folder.path / f"memory{os.environ['SLURM_PROCID']}.pt")
TrainingLoop.run = run_and_save
"""


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return small_spec(*SPEC, *CONTRAST)


@pytest.fixture(scope="module")
def finished(spec: RunSpec, data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_folder(tmp_path_factory.mktemp("finished"), spec, data)
    assert Workers(folder, code=SAVE_MEMORY).end() == [0, 0], log(folder)
    return folder


def load_memory(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The memory bank in the last checkpoint."""
    newest, _ = checkpoint.find_newest(folder.checkpoints)
    model = torch.load(newest.path, weights_only=True)["model"]
    return {name[len(MEMORY) :]: model[name] for name in model if name.startswith(MEMORY)}


def test_both_processes_hold_the_memory_of_the_whole_batch(finished: RunFolder) -> None:
    assert read_record(finished.record)["provenance"]["processes"] == 2
    first, second = (torch.load(finished.path / f"memory{rank}.pt") for rank in range(2))
    in_checkpoint = load_memory(finished)
    assert first.keys() == second.keys() == in_checkpoint.keys()
    for name, values in first.items():
        assert torch.equal(values, second[name]), name
        assert torch.equal(values, in_checkpoint[name]), name
    assert first["pixels"].shape == (CLASSES, PIXELS, CHANNELS)
    assert first["regions"].shape == (CLASSES, REGIONS, CHANNELS)
    # All four images of an iteration, two per process, contain the background.
    assert first["regions_seen"][0] == 12 * 4
    lengths = first["pixels"][0].norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(PIXELS), atol=1e-5)


def test_the_record_holds_the_contrast_loss(finished: RunFolder) -> None:
    losses = [point[1]["loss_contrast"] for point in read_record(finished.record)["losses"]]
    assert len(losses) == 12
    assert all(0 < loss < 10 for loss in losses)


RELEASED = (
    "contrast=released",
    *CONTRAST[3:],
    "contrast.anchors=48",
    "contrast.warmup_iterations=2",
)


@pytest.mark.slow
def test_contrast_over_the_whole_memory_keeps_it_equal_in_both_processes(
    data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, small_spec(*SPEC, *RELEASED), data)
    assert Workers(folder, code=SAVE_MEMORY).end() == [0, 0], log(folder)
    first, second = (torch.load(folder.path / f"memory{rank}.pt") for rank in range(2))
    assert first["regions_seen"][1:].max() > 0
    losses = [point[1]["loss_contrast"] for point in read_record(folder.record)["losses"]]
    assert losses[0] == 0 < losses[-1]
    assert all(torch.equal(values, second[name]) for name, values in first.items())


@pytest.mark.slow
def test_a_resumed_run_restores_the_memory(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    workers = Workers(folder, codes={1: pause_after(4)})
    wait_for_checkpoint(folder, 4, *workers.processes)
    workers.processes[1].send_signal(signal.SIGTERM)
    assert workers.end() == [75, 0]
    assert load_memory(folder)["regions_seen"][0] > 0
    assert Workers(folder, step=1).end() == [0, 0], log(folder)
    assert_same_result(folder, finished)
    for name, values in load_memory(finished).items():
        assert torch.equal(load_memory(folder)[name], values), name
