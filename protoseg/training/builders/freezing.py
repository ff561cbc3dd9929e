"""Freezes modules of a network: their weights and statistics stay what they are."""

from __future__ import annotations

import types
from collections.abc import Sequence

from torch import nn

from protoseg.errors import UsageError, find_nearest_name


def freeze_modules(network: nn.Module, names: Sequence[str]) -> None:
    """Freeze modules: no gradients, and evaluation mode, so that norms keep their statistics.

    Args:
        network: the segmentor, without DDP's wrapper.
        names: names of modules in it, e.g. ``backbone`` or ``backbone.layer1``.

    Raises:
        UsageError: a name that the network does not have, or nothing is left to train.
    """
    modules = dict(network.named_modules())
    for name in names:
        if not name or name not in modules:
            guess = find_nearest_name(name, modules)
            hint = f" Did you mean '{guess}'?" if guess else ""
            parts = ", ".join(key for key, _ in network.named_children())
            raise UsageError(
                f"schedule.frozen: the network has no module '{name}'.{hint} Name one of {parts}, "
                "or a module below."
            )
        if not modules[name].state_dict():
            raise UsageError(
                f"schedule.frozen: {name} has no weights or statistics. Name a module that has."
            )
        modules[name].requires_grad_(False)
        modules[name].eval()
        modules[name].train = types.MethodType(_stay_in_evaluation, modules[name])
    if names and not any(p.requires_grad for p in network.parameters()):
        raise UsageError(
            f"schedule.frozen: {', '.join(names)} leave nothing to train. Remove one of them."
        )


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)
