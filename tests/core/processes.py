"""What each of several real processes does in `test_several_processes`; run in forked processes."""

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


def whole_batch(step: int) -> tuple[Tensor, Tensor]:
    """Pixels and labels of all processes together; the last class is in the first two alone."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate((*SIZES, 15))])
    if step == STEPS - 1:
        labels[labels == CLASSES - 1] = 255
    labels[labels == CLASSES] = 255
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return torch.randn(len(labels), CHANNELS, generator=generator), labels


def parts(labels: Tensor, layout: str, world: int) -> list[Tensor]:
    """Which pixels each process gets, as positions."""
    everyone = torch.arange(len(labels))
    if layout == "even":
        return list(everyone.tensor_split(world))
    if layout == "a class in one process":  # by class: most processes miss most classes
        return list(labels.argsort(stable=True).tensor_split(world))
    if layout == "one pixel":  # the first process has one pixel of each class, the last the rest
        first = torch.stack([(labels == c).int().argmax() for c in range(CLASSES)]).unique()
        first = first[labels[first] < CLASSES]
        rest = everyone[~torch.isin(everyone, first)]
        return [first, *([rest[:0]] * (world - 2)), rest]
    if layout == "only ignored":  # the first process has no labelled pixel
        ignored = labels >= CLASSES
        return [everyone[ignored], *everyone[~ignored].tensor_split(world - 1)]
    raise ValueError(layout)


LAYOUTS = ("even", "a class in one process", "one pixel", "only ignored")


def cases() -> Iterator[tuple[str, str, int, str]]:
    """Each (layout, distributed, K, distance) that is run."""
    for layout in LAYOUTS:
        for distributed in ("pooled", "averaged"):
            for num_prototypes in (1, 3):
                for distance in ("cosine", "euclidean"):
                    yield layout, distributed, num_prototypes, distance


def new_bank(distributed: str, num_prototypes: int, distance: str, **options: Any) -> PrototypeBank:
    """The same bank in every process, and in the test."""
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


def pixels_of(pixels: Tensor, distance: str) -> Tensor:
    """Embeddings as a head hands them over."""
    return torch.nn.functional.normalize(pixels, dim=1) if distance == "cosine" else pixels


def step(bank: PrototypeBank, pixels: Tensor, labels: Tensor) -> Tensor:
    """One training step of the bank; the target of each pixel."""
    target, moved = bank.assign_pixels(bank.compute_similarities(pixels), labels)
    bank.update_prototypes(pixels, moved)
    return target


def work(rank: int, world: int, folder: str) -> None:
    """Take part in every case; write what this process ended with."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    found: dict[Any, Any] = {}
    for case in cases():
        layout, distributed, num_prototypes, distance = case
        bank = new_bank(distributed, num_prototypes, distance)
        steps = []
        for number in range(STEPS):
            pixels, labels = whole_batch(number)
            mine = parts(labels, layout, world)[rank]
            target = step(bank, pixels_of(pixels, distance)[mine], labels[mine])
            steps.append((mine, target, bank.prototypes.clone(), bank.updates.clone()))
        found[case] = steps
    for layout in LAYOUTS:
        for distributed in ("pooled", "averaged"):
            bank = new_bank(distributed, 5, "euclidean", init="pixels")
            torch.manual_seed(rank)
            starts = []
            for number in (STEPS - 1, 0, 1):  # the last class is missing in the first of these
                pixels, labels = whole_batch(number)
                mine = parts(labels, layout, world)[rank]
                bank.initialise_new_classes(pixels[mine], labels[mine])
                starts.append((bank.prototypes.clone(), bank.started.clone()))
            found["start", layout, distributed] = starts
    here = torch.tensor([float(rank), -float(rank)])
    found["collective"] = {
        "world_size": collective.world_size(),
        "rank": collective.rank(),
        "all_sum": collective.all_sum(here),
        "all_max": collective.all_max(here),
        "all_gather": collective.all_gather(here),
        "untouched": here,
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
