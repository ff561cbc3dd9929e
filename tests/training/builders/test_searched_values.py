"""A searched value changes what it names and nothing else: the optimiser settings of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

from protoseg.training.builders.components import build_model, use_mmseg
from protoseg.training.builders.config import build_config
from training.small import EXPERIMENTS, small_spec

Rule = Callable[[str, dict[str, Any]], dict[str, Any]]
"""(parameter, its settings before) -> the expected settings after."""

IGNORED = ("params", "lr_mult")
"""Parameters, and a note of mmengine about how it computed the learning rate."""
METHODS = {
    "parametric": ("method=parametric", "method.num_prototypes=1", "~method.momentum"),
    "paper": ("method=paper",),
    "released": ("method=released",),
}


def read_settings(overrides: Iterable[str]) -> tuple[dict[str, dict[str, Any]], Any]:
    """Parameter -> the settings of its group in the optimiser; and the schedulers."""
    fixed = ("decoder=segformer_64", "schedule.norm_decay=never")
    spec = small_spec(*fixed, *overrides)
    config = build_config(spec, data_root=EXPERIMENTS)
    use_mmseg()
    model: nn.Module = build_model(config.model, None)
    wrapper: Any = build_optim_wrapper(model, dict(config.optim_wrapper))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = {
        names[id(parameter)]: {key: value for key, value in group.items() if key not in IGNORED}
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(settings) == len(names)
    return settings, config.param_scheduler


def scale_rate(factor: float, only: str = "") -> Rule:
    """The learning rate is multiplied, of parameters whose name contains ``only``."""

    def expect(name: str, before: dict[str, Any]) -> dict[str, Any]:
        rate = before["lr"] * (factor if only in name else 1)
        return {**before, "lr": pytest.approx(rate), "initial_lr": pytest.approx(rate)}

    return expect


def scale_decay(factor: float) -> Rule:
    return lambda name, before: {
        **before,
        "weight_decay": pytest.approx(before["weight_decay"] * factor),
    }


def keep(name: str, before: dict[str, Any]) -> dict[str, Any]:
    return before


CHANGES: list[tuple[str, Any, Any, Rule]] = [
    ("schedule.learning_rate", 1e-3, 3e-3, scale_rate(3)),
    ("schedule.head_lr_mult", 1, 10, scale_rate(10, only="head")),
    ("schedule.head_lr_mult", 3, 10, scale_rate(10 / 3, only="head")),
    ("schedule.weight_decay", 0.01, 0.1, scale_decay(10)),
    ("schedule.iterations", 12, 24, keep),
    ("schedule.batch_size", 4, 8, keep),
    ("decoder.dropout", 0.1, 0.5, keep),
]
OF_PAPER: list[tuple[str, Any, Any, Rule]] = [
    ("method.score_temperature", 0.05, 0.2, keep),
    ("method.momentum", 0.9, 0.999, keep),
    ("contrast.weight", 0.1, 0.5, keep),
]
CASES = [(method, *change) for method in METHODS for change in CHANGES]
CASES += [("paper", *change) for change in OF_PAPER]


@pytest.mark.parametrize(("method", "key", "old", "new", "rule"), CASES)
def test_a_searched_value_changes_only_what_it_names(
    method: str, key: str, old: Any, new: Any, rule: Rule
) -> None:
    before, schedulers = read_settings((*METHODS[method], f"{key}={old}"))
    after, new_schedulers = read_settings((*METHODS[method], f"{key}={new}"))
    assert after.keys() == before.keys()
    for name, settings in after.items():
        expected = rule(name, before[name])
        assert settings == {k: expected[k] for k in settings}, name
    assert any(rule(name, before[name]) is not before[name] for name in before) or rule is keep
    if key != "schedule.iterations":
        assert new_schedulers == schedulers
