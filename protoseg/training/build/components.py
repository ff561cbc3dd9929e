"""The objects of a training, built by mmengine from a Config: model, optimiser, schedules, loaders.

mmengine's Runner would build them too, and with them its log folders, its in-place checkpoints and
its replay on resume; its builders alone are what is wanted here.
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
import protoseg.models  # noqa: F401  both register what they define
from protoseg.core.collective import rank, world_size
from protoseg.errors import UsageError
from protoseg.training.build.config import reason
from protoseg.training.distributed import sync
from protoseg.training.rng import seed_apart
from protoseg.training.signals import keep_loading
from protoseg.training.weights.load import load_weights


@dataclass(frozen=True)
class TrainingComponents:
    """What a training loop works on."""

    model: Any
    """An mmseg segmentor, perhaps wrapped for several processes."""
    optimizer: OptimWrapper
    schedulers: list[Any]
    train_loader: DataLoader[Any]
    test_loader: DataLoader[Any]

    @property
    def module(self) -> Any:
        """The segmentor itself."""
        return self.model.module if is_model_wrapper(self.model) else self.model


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Half precision on a CPU, where mmengine's ``AmpOptimWrapper`` refuses to work.

    Args:
        dtype: ``bfloat16``, whose range needs no loss scaling.
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
    """Build everything from a Config of `protoseg.training.build.config.build_config`.

    Every process builds the same; what they draw afterwards (dropout, Gumbel) differs by rank.

    Args:
        weights: file for the backbone, or None.

    Raises:
        DataError: weights that do not fit.
        UsageError: settings that mmseg refuses.
    """
    use_mmseg()
    seed = int(config.randomness.seed)
    set_random_seed(seed)
    model = build_model(config.model, weights)
    if world_size() > 1:
        sync.share(model)
    optimizer = build_optimizer(model, config)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(schedule), default_args={"optimizer": optimizer})
        for schedule in config.param_scheduler
    ]
    test_loader = dict(config.test_dataloader)
    if world_size() > 1:  # mmengine would count images twice, to make the shares even
        test_loader["sampler"] = {**test_loader["sampler"], "round_up": False}
    parts = TrainingComponents(
        model=sync.wrap(model) if world_size() > 1 else model,
        optimizer=optimizer,
        schedulers=schedulers,
        train_loader=_loader(config.train_dataloader),
        test_loader=_loader(test_loader),
    )
    if rank() > 0:
        seed_apart(seed, rank())
    return parts


def build_optimizer(model: nn.Module, config: Config) -> OptimWrapper:
    """The optimiser with its precision; half precision on a CPU also lays the weights out anew.

    Convolutions in bfloat16 are faster there when channels come last (docs/benchmarks.md).
    """
    wrapper = dict(config.optim_wrapper)
    if wrapper["type"] == "AmpOptimWrapper" and not torch.cuda.is_available():
        wrapper["type"] = "CPUAmpOptimWrapper"
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return build_optim_wrapper(model, wrapper)


def _loader(settings: dict[str, Any]) -> DataLoader[Any]:
    # Loader processes need no seeds: each sample has its own (`protoseg.datasets.folder_dataset`).
    loader: DataLoader[Any] = Runner.build_dataloader(
        {**settings, "worker_init_fn": {"type": keep_loading}}
    )
    return loader


def use_mmseg() -> None:
    """Build from mmseg's registries, and without mmengine's log of every single parameter."""
    if not MMLogger.check_instance_created("protoseg"):
        MMLogger.get_instance("protoseg", log_level="ERROR")
    init_default_scope("mmseg")


def build_model(model: dict[str, Any], weights: Path | None) -> nn.Module:
    """The segmentor with its starting weights, on the GPU where there is one.

    Raises:
        UsageError: settings that mmseg refuses.
        DataError: weights that do not fit.
    """
    try:
        segmentor: Any = MODELS.build(model)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        # Nothing but the config decides whether a model can be built.
        raise UsageError(
            f"model: mmseg can not build it: {reason(error)}. Look at backbone.settings, "
            "decoder.settings and the recipes."
        ) from error
    segmentor.init_weights()
    if weights is not None:
        load_weights(segmentor.backbone, weights)
    module: nn.Module = segmentor.cuda() if torch.cuda.is_available() else segmentor
    return module
