"""The objects of a training, built from a Config: model, optimiser, schedulers and loaders.

Only mmengine's builders are used, not its Runner, which would also create log folders, overwrite
checkpoints in place and replay past iterations on resume.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS, PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from mmseg.registry import MODELS
from torch import nn
from torch.utils.data import DataLoader

import protoseg.datasets.folder_dataset
import protoseg.models  # noqa: F401  both imports register classes with mmseg
from protoseg.config.schedule import EmaSpec
from protoseg.core.collective import rank, world_size
from protoseg.errors import UsageError
from protoseg.training.averaging import AveragedWeights
from protoseg.training.builders import norm_decay  # noqa: F401  registers its constructor
from protoseg.training.builders.config import build_error, first_line
from protoseg.training.builders.freezing import freeze_modules
from protoseg.training.distributed import sync
from protoseg.training.failures import is_out_of_memory
from protoseg.training.rng import seed_generators
from protoseg.training.signals import accept_signals_from_parent_only
from protoseg.training.weights.init_from import load_start
from protoseg.training.weights.load import load_weights


@dataclass(frozen=True)
class TrainingComponents:
    """Model, optimiser, schedulers and loaders of a training loop."""

    model: Any
    """An mmseg segmentor, wrapped in DDP for several processes."""
    optimizer: OptimWrapper
    schedulers: list[Any]
    train_loader: DataLoader[Any]
    test_loader: DataLoader[Any]
    averaged: AveragedWeights | None = None
    """The average of the weights, if the run has one."""

    @property
    def module(self) -> Any:
        """The segmentor without the DDP wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def read_state(self) -> dict[str, Any]:
        """The state of the segmentor that is evaluated; its tensors are not copied."""
        state: dict[str, Any] = self.module.state_dict()
        return self.averaged.read_state() if self.averaged else state

    def use_evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the segmentor has the weights that are evaluated."""
        return self.averaged.use_average() if self.averaged else contextlib.nullcontext()


@dataclass(frozen=True)
class EvaluationComponents:
    """Model and loader of an evaluation without a training."""

    model: Any
    """An mmseg segmentor."""
    test_loader: DataLoader[Any]

    @property
    def module(self) -> Any:
        """The segmentor."""
        return self.model


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Half precision on a CPU, which mmengine's ``AmpOptimWrapper`` does not support.

    Args:
        dtype: ``bfloat16``; its range needs no loss scaling.
    """

    def __init__(self, dtype: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dtype: torch.dtype = getattr(torch, dtype)

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the forward pass."""
        with super().optim_context(model), torch.autocast("cpu", dtype=self.dtype):
            yield


def build_components(
    config: Config,
    weights: Path | None,
    ema: EmaSpec | None = None,
    *,
    start: Path | None = None,
    skip: tuple[str, ...] = (),
    frozen: tuple[str, ...] = (),
) -> TrainingComponents:
    """Build all objects from a Config of `protoseg.training.builders.config.build_config`.

    All processes build the same model. Their later samples (dropout, Gumbel) differ by rank.

    Args:
        weights: file with the weights of the backbone, or None.
        ema: settings of the average of the weights; by default there is none.
        start: checkpoint of the whole network, or None.
        skip: beginnings of keys that are not loaded from it.
        frozen: names of modules that are not trained.

    Raises:
        DataError: the weights do not fit the backbone or the network.
        UsageError: settings that mmseg refuses, or a module that the network does not have.
    """
    use_mmseg()
    seed = int(config.randomness.seed)
    set_random_seed(seed)
    model = build_model(config.model, weights)
    if world_size() > 1:
        sync.synchronise_model(model)
    if start is not None:
        load_start(model, start, skip)
    freeze_modules(model, frozen)
    optimizer = build_optimizer(model, config)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(schedule), default_args={"optimizer": optimizer})
        for schedule in config.param_scheduler
    ]
    test_loader = dict(config.test_dataloader)
    if world_size() > 1:  # mmengine would repeat images to make the shares equal
        test_loader["sampler"] = {**test_loader["sampler"], "round_up": False}
    parts = TrainingComponents(
        model=sync.wrap_model(model) if world_size() > 1 else model,
        optimizer=optimizer,
        schedulers=schedulers,
        train_loader=build_loader(config.train_dataloader),
        test_loader=build_loader(test_loader),
        averaged=AveragedWeights(model, ema) if ema is not None and ema.momentum else None,
    )
    if rank() > 0:
        seed_generators(seed, rank())
    return parts


def build_optimizer(model: nn.Module, config: Config) -> OptimWrapper:
    """Build the optimiser wrapper for the precision of the Config.

    Half precision on a CPU also changes the memory format of the model to channels last, because
    bfloat16 convolutions are faster with it (docs/benchmarks.md).

    Raises:
        UsageError: settings that the optimiser refuses.
    """
    wrapper = dict(config.optim_wrapper)
    if wrapper["type"] == "AmpOptimWrapper" and not torch.cuda.is_available():
        wrapper["type"] = "CPUAmpOptimWrapper"
        use_channels_last(model)
    try:
        return build_optim_wrapper(model, wrapper)
    except (TypeError, ValueError, IndexError, KeyError, AssertionError) as error:
        raise UsageError(
            f"schedule.optimizer: {wrapper['optimizer']['type']} cannot be built: "
            f"{first_line(error)}. Check schedule.optimizer_settings and the recipe."
        ) from error


def use_channels_last(model: nn.Module) -> None:
    """Change the memory format of a model; the last bits of its convolutions depend on it."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_loader(settings: dict[str, Any]) -> DataLoader[Any]:
    """Build a loader from ``train_dataloader`` or ``test_dataloader`` of a Config."""
    # Loader processes need no seed: each sample has one (`protoseg.datasets.folder_dataset`).
    loader: DataLoader[Any] = Runner.build_dataloader(
        {**settings, "worker_init_fn": {"type": accept_signals_from_parent_only}}
    )
    return loader


def use_mmseg() -> None:
    """Select mmseg's registries, and turn off mmengine's log of every parameter."""
    if not MMLogger.check_instance_created("protoseg"):
        MMLogger.get_instance("protoseg", log_level="ERROR")
    # mmseg's data sets print that an optional package is missing, at their first import.
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module("mmseg.datasets")
    init_default_scope("mmseg")


def build_model(model: dict[str, Any], weights: Path | None) -> nn.Module:
    """Build the segmentor with its initial weights, on the GPU if available.

    Raises:
        UsageError: settings that mmseg refuses.
        DataError: the weights do not fit the backbone.
    """
    segmentor = build_segmentor(model)
    segmentor.init_weights()
    if weights is not None:
        load_weights(segmentor.backbone, weights)
    module: nn.Module = segmentor.cuda() if torch.cuda.is_available() else segmentor
    return module


def build_segmentor(model: dict[str, Any]) -> Any:
    """Build the segmentor on the CPU, before its weights are initialised or loaded.

    Raises:
        UsageError: settings that mmseg refuses.
    """
    try:
        return MODELS.build(model)
    except (AssertionError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        # Otherwise only the config can make this fail.
        raise build_error("it", error) from error
