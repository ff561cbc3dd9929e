"""The run_process of each forked process in `test_several_processes`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from protoseg.core import collective
from protoseg.core.prototypes import PrototypeBank

CLASSES, CHANNELS, SIZES, STEPS = 4, 8, (120, 60, 7, 40), 3


def make_whole_batch(run_step: int) -> tuple[Tensor, Tensor]:
    """Return pixels and labels of all processes; the last class occurs in the first two steps."""
    generator = torch.Generator().manual_seed(run_step)
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate((*SIZES, 15))])
    if run_step == STEPS - 1:
        labels[labels == CLASSES - 1] = 255
    labels[labels == CLASSES] = 255
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return torch.randn(len(labels), CHANNELS, generator=generator), labels


def split_indices(labels: Tensor, layout: str, world: int) -> list[Tensor]:
    """Return the pixel indices of each process."""
    indices = torch.arange(len(labels))
    if layout == "even":
        return list(indices.tensor_split(world))
    if layout == "a class in one process":  # sorted by class: most processes have few classes
        return list(labels.argsort(stable=True).tensor_split(world))
    if layout == "one pixel":  # the first process has one pixel of each class, the last the rest
        first = torch.stack([(labels == c).int().argmax() for c in range(CLASSES)]).unique()
        first = first[labels[first] < CLASSES]
        rest = indices[~torch.isin(indices, first)]
        return [first, *([rest[:0]] * (world - 2)), rest]
    if layout == "only ignored":  # the first process has no labelled pixel
        ignored = labels >= CLASSES
        return [indices[ignored], *indices[~ignored].tensor_split(world - 1)]
    raise ValueError(layout)


LAYOUTS = ("even", "a class in one process", "one pixel", "only ignored")


def list_cases() -> Iterator[tuple[str, str, int, str]]:
    """Yield each (layout, distributed, K, distance)."""
    for layout in LAYOUTS:
        for distributed in ("pooled", "averaged"):
            for num_prototypes in (1, 3):
                for distance in ("cosine", "euclidean"):
                    yield layout, distributed, num_prototypes, distance


def make_bank(
    distributed: str, num_prototypes: int, distance: str, **options: Any
) -> PrototypeBank:
    """Create the same bank in every process and in the test."""
    torch.manual_seed(0)
    return PrototypeBank(
        CLASSES,
        num_prototypes,
        CHANNELS,
        momentum=0.5,
        kappa=0.2,
        init_std=0.5,
        distributed=distributed,  # type: ignore[arg-type]
        distance=distance,  # type: ignore[arg-type]
        **options,
    )


def normalise_pixels(pixels: Tensor, distance: str) -> Tensor:
    """Normalise embeddings as a head does."""
    return torch.nn.functional.normalize(pixels, dim=1) if distance == "cosine" else pixels


def run_step(bank: PrototypeBank, pixels: Tensor, labels: Tensor) -> Tensor:
    """Run one training step of the bank; return the target of each pixel."""
    target, update = bank.assign_pixels(bank.compute_similarities(pixels), labels)
    bank.update_prototypes(pixels, update)
    return target


def run_process(rank: int, world: int, folder: str) -> None:
    """Run every case, and save the results of this process."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    results: dict[Any, Any] = {}
    for case in list_cases():
        layout, distributed, num_prototypes, distance = case
        bank = make_bank(distributed, num_prototypes, distance)
        steps = []
        for number in range(STEPS):
            pixels, labels = make_whole_batch(number)
            own_part = split_indices(labels, layout, world)[rank]
            target = run_step(bank, normalise_pixels(pixels, distance)[own_part], labels[own_part])
            steps.append((own_part, target, bank.prototypes.clone(), bank.updates.clone()))
        results[case] = steps
    for layout in LAYOUTS:
        for distributed in ("pooled", "averaged"):
            bank = make_bank(distributed, 5, "euclidean", init="pixels")
            torch.manual_seed(rank)
            starts = []
            for number in (STEPS - 1, 0, 1):  # the first batch lacks the last class
                pixels, labels = make_whole_batch(number)
                own_part = split_indices(labels, layout, world)[rank]
                bank.initialise_new_classes(pixels[own_part], labels[own_part])
                starts.append((bank.prototypes.clone(), bank.started.clone()))
            results["start", layout, distributed] = starts
    values = torch.tensor([float(rank), -float(rank)])
    results["collective"] = {
        "world_size": collective.world_size(),
        "rank": collective.rank(),
        "all_sum": collective.all_sum(values),
        "all_max": collective.all_max(values),
        "all_gather": collective.all_gather(values),
        "untouched": values,
    }
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
