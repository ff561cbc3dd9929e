"""What each of two real processes does in `test_weak`; run in forked processes."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from protoseg.core import weak_supervision

TOP = 9


def whole_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings, confidences, labels and lots of both processes; 40 pixels, 5 classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1)
    confidences = torch.rand(40, 5, generator=generator)
    confidences[:, 2] = 0
    confidences[:20, 3] = 0  # a class in the second process alone
    labels = torch.randint(-1, 5, (40,), generator=generator)
    labels[:6] = weak_supervision.IGNORED  # shares of different size
    return pixels, confidences, labels, torch.rand(40, generator=generator)


def work(rank: int, folder: str) -> None:
    """Work on one half of the batch; write prototypes and loss."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    pixels, confidences, labels, random_keys = (each.chunk(2)[rank] for each in whole_batch())
    found = weak_supervision.estimate_prototypes(pixels, confidences, TOP, random_keys)
    loss = weak_supervision.compute_contrast(pixels, labels, found, 0.1)
    result = {"vectors": found.vectors, "exists": found.exists, "loss": loss.item()}
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
