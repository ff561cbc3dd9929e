"""The exponential moving average of the weights, which is evaluated instead of the trained ones.

The average is mmengine's, updated after each iteration as its ``EMAHook`` does. Buffers, also the
prototypes, are those of the trained network: prototypes have a moving average already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn

from protoseg.config.schedule import EmaSpec


class AveragedWeights:
    """The average of the weights of a segmentor.

    Args:
        module: the segmentor, without DDP's wrapper.
        settings: ``momentum`` above 0.
    """

    def __init__(self, module: nn.Module, settings: EmaSpec) -> None:
        self.module = module
        self.begin_iter = settings.begin_iter
        self.average = ExponentialMovingAverage(
            module, momentum=settings.momentum, interval=settings.interval
        )
        self._is_in_module = False

    def update(self, iteration: int) -> None:
        """Update the average after ``iteration`` finished iterations."""
        if iteration >= self.begin_iter:
            self.average.update_parameters(self.module)
            return
        trained = self.module.state_dict()
        for name, value in self.average.module.state_dict().items():
            value.copy_(trained[name])

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights of the segmentor and their average, without a change of bits."""
        averaged = self.average.module.parameters()
        for average, parameter in zip(averaged, self.module.parameters(), strict=True):
            copy = average.clone()
            average.copy_(parameter)
            parameter.copy_(copy)
        self._is_in_module = not self._is_in_module

    @contextlib.contextmanager
    def use_average(self) -> Iterator[None]:
        """A context in which the segmentor has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def read_state(self) -> dict[str, Tensor]:
        """The state of the segmentor with averaged weights; its tensors are not copied."""
        state: dict[str, Tensor] = self.module.state_dict()
        if not self._is_in_module:
            averaged = self.average.module.named_parameters()
            state.update((name, value.detach()) for name, value in averaged)
        return state

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides `read_state`: the trained weights and the steps."""
        trained = dict(self.module.named_parameters())
        return {
            "trained": {name: value.detach() for name, value in trained.items()},
            "steps": self.average.steps,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any], evaluated: dict[str, Tensor]) -> None:
        """Restore a checkpoint.

        Args:
            state: result of `state_dict`.
            evaluated: result of `read_state`.
        """
        self.average.module.load_state_dict(evaluated)
        self.average.steps.copy_(state["steps"])
        for name, parameter in self.module.named_parameters():
            parameter.copy_(state["trained"][name])
