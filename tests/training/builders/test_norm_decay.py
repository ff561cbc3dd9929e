"""``schedule.norm_decay=never``: the optimiser settings of every parameter."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

from protoseg.training.builders.components import build_model, use_mmseg
from protoseg.training.builders.config import build_config
from protoseg.training.builders.norm_decay import NORMS
from training.small import EXPERIMENTS, small_spec

HEAD = ("method=released", "decoder=segformer_64")
SGD = (
    "schedule.recipe=fcn/fcn_r101-d8_4xb4-160k_ade20k-512x512.py",
    "schedule.optimizer=SGD",
    "schedule.weight_decay=0.0005",
)


def read_settings(*overrides: str) -> tuple[dict[str, tuple[float, float]], set[str]]:
    """Parameter -> (learning rate, weight decay), and the names of the parameters of norms."""
    config = build_config(small_spec(*HEAD, *overrides), data_root=EXPERIMENTS)
    use_mmseg()
    model: nn.Module = build_model(config.model, None)
    wrapper: Any = build_optim_wrapper(model, dict(config.optim_wrapper))
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }
    norms = {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if isinstance(module, NORMS)
        for key, _ in module.named_parameters(recurse=False)
    }
    return {name: groups[id(p)] for name, p in model.named_parameters()}, norms


@pytest.mark.parametrize("recipe", [(), SGD], ids=["AdamW", "SGD"])
@pytest.mark.parametrize("mult", [1, 3, 10])
def test_norms_never_decay_whatever_the_multiplier_of_the_head(
    recipe: tuple[str, ...], mult: int
) -> None:
    never = ("schedule.norm_decay=never", f"schedule.head_lr_mult={mult}")
    settings, norms = read_settings(*recipe, *never)
    assert any("head" in name for name in norms)
    assert any("backbone" in name for name in norms)
    assert {settings[name][1] for name in norms} == {0.0}
    one, _ = read_settings(*recipe, "schedule.norm_decay=never")
    for name, (rate, decay) in settings.items():
        is_head = "head" in name
        # The only difference to a multiplier of 1 is the learning rate of the head.
        assert rate == pytest.approx(one[name][0] * (mult if is_head else 1)), name
        assert decay == one[name][1], name


def test_the_recipes_rule_is_kept_for_old_runs() -> None:
    """With ``norm_decay=recipe`` a multiplier brings back the decay of the head's norms."""
    for mult, expected in ((1, 0.0), (10, 0.01)):
        settings, _ = read_settings(f"schedule.head_lr_mult={mult}")
        decays = {decay for name, (_, decay) in settings.items() if "embedding_norm" in name}
        assert decays == {expected}, mult
