"""The same training with protoseg's loop and with mmengine's Runner, from the same weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from protoseg.config.schema import RunSpec
from protoseg.runs.folder import RunFolder
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.loop import TrainingLoop
from protoseg.training.signals import StopRequest

OPTIONS = (
    "schedule.iterations=5",
    "schedule.warmup_iterations=2",
    "decoder.dropout=0",  # the two draw other random numbers
)
"""Overrides of a run that both train."""


@HOOKS.register_module()
class FreezeFirstStage(Hook):  # type: ignore[misc]
    """Freezes the first stage of the backbone, as mmseg's ``frozen_stages`` does."""

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Called before each iteration."""
        stage = runner.model.backbone.stages[0]
        stage.eval()
        for parameter in stage.parameters():
            parameter.requires_grad = False


def train_with_protoseg(
    spec: RunSpec, root: Path, folder: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train with protoseg's loop.

    Returns:
        The state before the training, and the state that is evaluated after it.
    """
    config = build_config(spec, data_root=root)
    parts = build_components(config, None, spec.schedule.ema, frozen=spec.schedule.frozen)
    start = copy.deepcopy(parts.module.state_dict())
    loop = TrainingLoop(
        parts,
        RunFolder(folder),
        spec.schedule.iterations,
        1e9,
        StopRequest(),
        step_every=spec.schedule.accumulative_counts,
    )
    loop.run(0)
    return start, copy.deepcopy(parts.read_state())


def train_with_mmengine(
    spec: RunSpec,
    root: Path,
    folder: Path,
    start: dict[str, Tensor],
    hooks: Sequence[dict[str, Any]] = (),
    changes: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Train with mmengine's Runner on the same batches.

    Args:
        start: state before the training.
        hooks: custom hooks.
        changes: replaces parts of the config, e.g. ``optim_wrapper``.

    Returns:
        The state of the model after the training.
    """
    config = build_config(spec, data_root=root)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": start}, folder / "start.pth")
    settings = {
        "optim_wrapper": config.optim_wrapper.to_dict(),
        "param_scheduler": config.param_scheduler,
        **(changes or {}),
    }
    runner = Runner(
        model=config.model,
        work_dir=str(folder),
        train_dataloader=config.train_dataloader,
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": spec.schedule.iterations},
        default_hooks=dict.fromkeys(("logger", "checkpoint", "timer")),
        custom_hooks=list(hooks),
        load_from=str(folder / "start.pth"),
        log_level="ERROR",
        default_scope="mmseg",
        randomness={"seed": spec.seed},
        experiment_name=folder.name,
        **settings,
    )
    runner.train()
    for hook in runner.hooks:
        if type(hook).__name__ == "EMAHook":
            hook._swap_ema_parameters()
    return runner.model.state_dict()  # type: ignore[no-any-return]


def list_differences(
    one: dict[str, Tensor], other: dict[str, Tensor]
) -> Iterator[tuple[str, float]]:
    """Yield (name, largest difference) of each entry of two states."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        yield name, float((value.double() - other[name].double()).abs().max())
