"""The run_process of each forked process in `test_contrast_processes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.collective import all_gather, rank, world_size
from protoseg.core.memory_bank import ContrastMemory
from protoseg.core.memory_contrast import compute_memory_contrast
from protoseg.core.pixel_contrast import choose_samples, compute_contrast_loss

CLASSES, CHANNELS, IMAGES, PIXELS, STEPS, ANCHORS = 4, 8, 4, 50, 4, 24


def make_whole_batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings, labels and random keys of all images; the last image has one class."""
    generator = torch.Generator().manual_seed(step)
    number = IMAGES * PIXELS
    labels = torch.randint(-1, CLASSES, (number,), generator=generator)
    labels[-PIXELS:] = step % CLASSES
    rows = F.normalize(torch.randn(number, CHANNELS, generator=generator), dim=1)
    return rows, labels, torch.rand(number, generator=generator)


def make_memory() -> ContrastMemory:
    """Create the same memory in every process and in the test."""
    return ContrastMemory(CLASSES, CHANNELS, pixel_queue=13, region_queue=5, pixels_per_image=3)


def push_batch(memory: ContrastMemory, step: int) -> None:
    """Push the images of this process in a step."""
    own_part = [part.chunk(world_size())[rank()] for part in make_whole_batch(step)]
    memory.push_batch(own_part[0], own_part[1], IMAGES // world_size(), own_part[2])


def compute_loss_and_gradient(memory: ContrastMemory) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of the anchors of this process; samples come from all processes."""
    rows, labels, _ = make_whole_batch(9)
    own_part = [part[:ANCHORS].chunk(world_size())[rank()] for part in (rows, labels)]
    anchors = own_part[0].clone().requires_grad_()
    batch = all_gather(anchors.detach()).flatten(0, 1), all_gather(own_part[1]).flatten()
    samples, sample_labels = memory.collect_samples(batch)
    first = len(samples) - (world_size() - rank()) * len(anchors)
    chosen = choose_samples(
        anchors,
        own_part[1],
        samples,
        sample_labels,
        first + torch.arange(len(anchors)),
        CLASSES,
        positives=6,
        negatives=12,
        hard=True,
        random_keys=torch.rand(len(samples), generator=torch.Generator().manual_seed(5)),
    )
    loss = compute_contrast_loss(anchors, samples, chosen, 0.1)
    loss.backward()
    assert anchors.grad is not None
    return loss.detach(), anchors.grad


def compute_memory_loss_and_gradient(memory: ContrastMemory) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of the anchors of this process against the whole memory."""
    rows, labels, _ = make_whole_batch(9)
    own_part = [part[:ANCHORS].chunk(world_size())[rank()] for part in (rows, labels)]
    anchors = own_part[0].clone().requires_grad_()
    loss = compute_memory_contrast(anchors, own_part[1], memory.list_entries(), 0.1)
    loss.backward()
    assert anchors.grad is not None
    return loss.detach(), anchors.grad


def run_steps() -> dict[str, Any]:
    """Run all steps; return the memory after each step, then losses and gradients."""
    memory = make_memory()
    states = []
    for step in range(STEPS):
        push_batch(memory, step)
        states.append({name: value.clone() for name, value in memory.state_dict().items()})
    loss, gradient = compute_loss_and_gradient(memory)
    results = {"states": states, "loss": loss, "gradient": gradient}
    results["memory loss"], results["memory gradient"] = compute_memory_loss_and_gradient(memory)
    return results


def run_process(rank: int, world: int, folder: str) -> None:
    """Run in a process group, and save the results of this process."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    torch.save(run_steps(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
