"""The work of each process in `test_sync`; runs in forked processes and in a single one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from protoseg.core import collective
from protoseg.training.builders.components import TrainingComponents, build_components
from protoseg.training.builders.config import build_config
from protoseg.training.distributed.sync import SharedBatchNorm
from training.small import HIERARCHICAL, TREE, small_spec

STEPS = 3
# Adam divides by the magnitude of each gradient, which amplifies the rounding errors of gradients
# close to 0. SGD does not.
SGD = (
    "schedule.recipe=fcn/fcn_r101-d8_4xb4-160k_ade20k-512x512.py",
    "schedule.optimizer=SGD",
    "schedule.learning_rate=0.01",
    "decoder.dropout=0",
)
PARAMETRIC = (*SGD, "method=parametric", "~method.momentum")
CASES: dict[str, tuple[str, ...]] = {
    "parametric": (*PARAMETRIC, "method.num_prototypes=1"),
    "parametric, K=2": (*PARAMETRIC, "method.num_prototypes=2"),
    "prototypes": SGD,
    "released_2026_11": (
        *SGD,
        "method=released_2026_11",
        "method.assignment=argmax",
        "method.distributed=pooled",
        "method.num_prototypes=3",
        "method.momentum=0.9",
    ),
    "auxiliary head, class weights": (
        *PARAMETRIC,
        "class_weights=dataset",
        "dataset.class_weights=[0.2,1,2,0.5,3,1]",
        "method.num_prototypes=1",
        "decoder=upernet",
        "decoder.channels=32",
        "decoder.auxiliary=true",
    ),
    # The decoder does not use the last two stages, which get no gradient.
    "unused parameters": (
        *PARAMETRIC,
        "method.num_prototypes=1",
        "decoder=fcn",
        "decoder.channels=32",
        "decoder.in_index=[1]",
    ),
    # Each process samples triplets among its own pixels, so triplets of the whole batch differ.
    "hierarchical": (
        *(*SGD, *HIERARCHICAL),
        *("method.triplet_weight=0", "method.ce_weight=1", "method.rmi_weight=0.25"),
    ),
    "prototype_hierarchical": (*SGD, "method=prototype_hierarchical", TREE),
}


def build_parts(case: str, root: Path, world: int) -> TrainingComponents:
    """The objects of a training, without dropout."""
    config = build_config(small_spec(*CASES[case]), data_root=root, world_size=world)
    parts = build_components(config, None)
    for module in parts.module.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):  # of mmseg's auxiliary head
            module.p = 0
    return parts


def ignore_pixels(batch: dict[str, Any], first: int) -> dict[str, Any]:
    """Ignore all pixels of the first image of the whole batch, and half of the second one.

    Args:
        first: position of this part's first image in the whole batch.
    """
    for position, sample in enumerate(batch["data_samples"], start=first):
        labels = sample.gt_sem_seg.data
        if position == 0:
            labels[:] = 255
        elif position == 1:
            labels[:, :30] = 255
    return batch


def train(case: str, root: Path, world: int, rank: int) -> dict[str, Any]:
    """Train `STEPS` steps.

    Returns:
        Mean losses of all processes at each step, gradients of the first step, and final state.
    """
    parts = build_parts(case, root, world)
    parts.model.train()
    batches = iter(parts.train_loader)
    losses: list[dict[str, float]] = []
    gradients: dict[str, Tensor | None] = {}

    def keep_gradients(*_: Any) -> None:
        for name, parameter in parts.module.named_parameters():
            gradient = parameter.grad
            gradients.setdefault(name, gradient.clone() if gradient is not None else None)

    parts.optimizer.optimizer.register_step_pre_hook(keep_gradients)
    for _ in range(STEPS):
        batch = ignore_pixels(next(batches), first=rank * 4 // world)
        step = parts.model.train_step(batch, optim_wrapper=parts.optimizer)
        losses.append(
            {k: collective.all_gather(v.detach()).mean(0).item() for k, v in step.items()}
        )
    state = {name: value.clone() for name, value in parts.module.state_dict().items()}
    return {"losses": losses, "gradients": gradients, "state": state}


def random_pixels(shape: tuple[int, ...]) -> Tensor:
    """Random values with a gradient."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values.requires_grad_(True)
    return values


def normalise(norm_class: type[nn.Module], share: slice, momentum: float | None) -> dict[str, Any]:
    """Apply a batch norm twice to a part of a batch of 7; output, gradients and statistics.

    The input has an offset of 100, where E[x²] - E[x]² would suffer from cancellation.
    """
    norm = norm_class(3, momentum=momentum)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.0, 3.0, -1.0]))
    whole = random_pixels((7, 3, 5, 4))
    for _ in range(2):
        output = norm(whole[share] + 100)
    weights = torch.linspace(-1, 1, 7 * 60).view(7, 3, 5, 4)[share]
    (output * weights + output.square() / 3).sum().backward()
    return {
        "output": output.detach(),
        "input": whole.grad[share],
        "weight": collective.all_sum(norm.weight.grad),
        "bias": collective.all_sum(norm.bias.grad),
        "mean": norm.running_mean,
        "variance": norm.running_var,
        "evaluated": norm.eval()(whole[share] + 100).detach(),
    }


def work(rank: int, world: int, folder: str, root: str, cases: list[str]) -> None:
    """Train the cases in one of several processes, and save the results of this process."""
    from mmengine.registry import init_default_scope

    torch.set_num_threads(1)
    init_default_scope("mmseg")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    results: dict[str, Any] = {case: train(case, Path(root), world, rank) for case in cases}
    if world == 2:
        for momentum in (0.1, None):
            share = slice(0, 1) if rank == 0 else slice(1, 7)
            results[f"norm {momentum}"] = normalise(SharedBatchNorm, share, momentum)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
