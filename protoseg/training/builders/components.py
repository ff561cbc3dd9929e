"""The objects of a training, built from a Config: model, optimiser, schedulers and loaders.

Only mmengine's builders are used, not its Runner, which would also create log folders, overwrite
checkpoints in place and replay past iterations on resume.
"""

from __future__ import annotations

import contextlib
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
from protoseg.core.collective import rank, world_size
from protoseg.training.builders import norm_decay  # noqa: F401  registers its constructor
from protoseg.training.builders.config import build_error
from protoseg.training.distributed import sync
from protoseg.training.failures import is_out_of_memory
from protoseg.training.rng import seed_generators
from protoseg.training.signals import accept_signals_from_parent_only
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

    @property
    def module(self) -> Any:
        """The segmentor without the DDP wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model


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


def build_components(config: Config, weights: Path | None) -> TrainingComponents:
    """Build all objects from a Config of `protoseg.training.builders.config.build_config`.

    All processes build the same model. Their later samples (dropout, Gumbel) differ by rank.

    Args:
        weights: file with the weights of the backbone, or None.

    Raises:
        DataError: the weights do not fit the backbone.
        UsageError: settings that mmseg refuses.
    """
    use_mmseg()
    seed = int(config.randomness.seed)
    set_random_seed(seed)
    model = build_model(config.model, weights)
    if world_size() > 1:
        sync.synchronise_model(model)
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
        train_loader=_build_loader(config.train_dataloader),
        test_loader=_build_loader(test_loader),
    )
    if rank() > 0:
        seed_generators(seed, rank())
    return parts


def build_optimizer(model: nn.Module, config: Config) -> OptimWrapper:
    """Build the optimiser wrapper for the precision of the Config.

    Half precision on a CPU also changes the memory format of the model to channels last, because
    bfloat16 convolutions are faster with it (docs/benchmarks.md).
    """
    wrapper = dict(config.optim_wrapper)
    if wrapper["type"] == "AmpOptimWrapper" and not torch.cuda.is_available():
        wrapper["type"] = "CPUAmpOptimWrapper"
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return build_optim_wrapper(model, wrapper)


def _build_loader(settings: dict[str, Any]) -> DataLoader[Any]:
    # Loader processes need no seed: each sample has one (`protoseg.datasets.folder_dataset`).
    loader: DataLoader[Any] = Runner.build_dataloader(
        {**settings, "worker_init_fn": {"type": accept_signals_from_parent_only}}
    )
    return loader


def use_mmseg() -> None:
    """Select mmseg's registries, and turn off mmengine's log of every parameter."""
    if not MMLogger.check_instance_created("protoseg"):
        MMLogger.get_instance("protoseg", log_level="ERROR")
    init_default_scope("mmseg")


def build_model(model: dict[str, Any], weights: Path | None) -> nn.Module:
    """Build the segmentor with its initial weights, on the GPU if available.

    Raises:
        UsageError: settings that mmseg refuses.
        DataError: the weights do not fit the backbone.
    """
    try:
        segmentor: Any = MODELS.build(model)
    except (AssertionError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        # Otherwise only the config can make this fail.
        raise build_error("it", error) from error
    segmentor.init_weights()
    if weights is not None:
        load_weights(segmentor.backbone, weights)
    module: nn.Module = segmentor.cuda() if torch.cuda.is_available() else segmentor
    return module
