"""The run_process of each of two forked processes in `test_weak_supervision`."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from protoseg.core import weak_supervision

TOP = 9


def make_whole_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return embeddings, confidences, labels and random keys of 40 pixels and 5 classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1)
    confidences = torch.rand(40, 5, generator=generator)
    confidences[:, 2] = 0
    confidences[:20, 3] = 0  # a class of the second process only
    labels = torch.randint(-1, 5, (40,), generator=generator)
    labels[:6] = weak_supervision.IGNORED  # the processes have different numbers of valid pixels
    return pixels, confidences, labels, torch.rand(40, generator=generator)


def run_process(rank: int, folder: str) -> None:
    """Process one half of the batch, and save prototypes and loss."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    pixels, confidences, labels, random_keys = (each.chunk(2)[rank] for each in make_whole_batch())
    prototypes = weak_supervision.estimate_prototypes(pixels, confidences, TOP, random_keys)
    loss = weak_supervision.compute_contrast(pixels, labels, prototypes, 0.1)
    result = {"vectors": prototypes.vectors, "exists": prototypes.exists, "loss": loss.item()}
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
