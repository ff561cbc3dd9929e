"""Refuses values of a spec or recipe that protoseg would drop or replace by others.

The worker checks them too, because a record or a run folder may be older than these checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.recipes.sections import (
    REPLACED,
    REPLACED_BY_FORM,
    find_value,
    list_leaves,
    names_weights,
)
from protoseg.config.recipes.values import read_values
from protoseg.config.schema import RunSpec

WEIGHTS_ADVICE = (
    "but a run loads only the weights that backbone.weights names. Remove it, and set "
    "backbone.weights and backbone.weights_sha256."
)
HEADS_WITHOUT_DROPOUT = ("SegmenterMaskTransformerHead",)
"""Heads of mmseg that accept a dropout ratio and do not use it."""
CONSTRUCTORS_BY_LAYER = ("LayerDecayOptimizerConstructor", "LearningRateDecayOptimizerConstructor")
"""Constructors of mmseg's optimisers that do not use learning rates by name."""
BY_NAME = ".custom_keys."
"""In the path of settings for parameters by name; the name may have dots, e.g. ``head.norm``."""
SETTINGS = {"backbone": "model.backbone", "decoder": "model.decode_head"}
"""Group -> section of a recipe that its settings change."""


def find_ignored_settings(spec: RunSpec) -> Iterator[str]:
    """Describe the values of a spec that no run would use, one sentence each."""
    plain = to_plain(spec)
    for group, section in SETTINGS.items():
        for path, value in list_leaves(plain[group]["settings"], section):
            if problem := find_replaced_value(plain, path, value):
                yield problem.replace(section, f"{group}.settings", 1)
    yield from _find_optimizer_problem(spec)


def _find_optimizer_problem(spec: RunSpec) -> Iterator[str]:
    schedule = spec.schedule
    wrapper = read_values(spec, "schedule")["optim_wrapper"]
    optimizer = (wrapper.get("optimizer") or {}).get("type")
    if schedule.is_of_recipe and optimizer != schedule.optimizer:
        yield (
            f"schedule.optimizer: {schedule.recipe} trains with {optimizer}, not "
            f"{schedule.optimizer}. Name a recipe that uses {schedule.optimizer}."
        )
    name = wrapper.get("type", "OptimWrapper")
    if name != "OptimWrapper" and not (name == "AmpOptimWrapper" and spec.precision != "fp32"):
        yield (
            f"schedule.recipe: {schedule.recipe} trains with {name}, but precision is "
            f"{spec.precision}. Set precision=bf16 or precision=fp16 for AmpOptimWrapper, or name "
            "another recipe."
        )


def find_settings_without_effect(spec: RunSpec) -> Iterator[str]:
    """Describe values that reach mmseg but have no effect there; planning refuses them.

    A worker does not: results of earlier runs with such values are correct.
    """
    head = {**read_values(spec, "decoder")["decode_head"], **spec.decoder.settings}.get("type")
    if head in HEADS_WITHOUT_DROPOUT and spec.decoder.dropout:
        yield (
            f"decoder.dropout: {spec.decoder.dropout} has no effect, because {head} has no "
            "dropout. Set decoder.dropout=0."
        )
    schedule = spec.schedule
    constructor = read_values(spec, "schedule")["optim_wrapper"].get("constructor", "")
    if constructor not in ("", "DefaultOptimWrapperConstructor") and schedule.norm_decay == "never":
        yield (
            f"schedule.norm_decay: never would replace the rules of {schedule.recipe} "
            f"({constructor}). Set schedule.norm_decay=recipe, or name another recipe."
        )
    if constructor in CONSTRUCTORS_BY_LAYER and schedule.head_lr_mult != 1:
        yield (
            f"schedule.head_lr_mult: {schedule.head_lr_mult} has no effect, because "
            f"{schedule.recipe} sets learning rates by layer ({constructor}). Set "
            "schedule.head_lr_mult=1, or name another recipe."
        )


def find_replaced_value(spec: Mapping[str, Any], path: str, value: Any) -> str:
    """Describe a given value that a run would replace or drop.

    Args:
        spec: the spec as plain data.
        path: dotted path of the value in a complete recipe.
        value: the given value; None for a value that was deleted.

    Returns:
        One or two sentences; empty if the run uses the value.
    """
    key = path.rpartition(".")[2]
    problem = _find_weights_problem(path, value, spec["backbone"]["weights"])
    if problem := problem or _find_initialisation_problem(path, value):
        return problem
    losses = value if key == "loss_decode" and isinstance(value, list | tuple) else []
    if (key == "avg_non_ignore" and value is False) or any(
        isinstance(loss, Mapping) and loss.get("avg_non_ignore") is False for loss in losses
    ):
        return (
            f"{path}: avg_non_ignore is false, but L_CE is a mean over the pixels that are not "
            "ignored (Eq. 13). Remove it."
        )
    if value is None:
        return ""
    if path in ("optim_wrapper.dtype", "optim_wrapper.loss_scale"):
        return f"{path} is {value!r}, but 'precision' selects it. Remove it, and set precision."
    if path == "model.decode_head.threshold" or (
        path == "model.decode_head.out_channels" and value != len(spec["dataset"]["classes"])
    ):
        return f"{path} is {value!r}, but each class has one score here. Remove it."
    for replaced, field in {**REPLACED, **REPLACED_BY_FORM}.items():
        rest = path.removeprefix(f"{replaced}.")
        if path == replaced or (rest != path and not (BY_NAME in path and "." in rest)):
            if path.endswith("in_channels") and not spec["backbone"]["channels"]:
                return ""  # of a model of timm, which only the worker asks
            used = _list_used_values(spec, path, field)
            return "" if value in used else f"{path} is {value!r}, but {_explain(field, used)}"
    return ""


def _find_weights_problem(path: str, value: Any, weights: str) -> str:
    parent, _, key = path.rpartition(".")
    is_file = parent.endswith("init_cfg") and (
        (key == "type" and value == "Pretrained") or (key == "checkpoint" and value is not None)
    )
    if is_file or names_weights(key, value):
        return f"{path} is {value!r}, {WEIGHTS_ADVICE}"
    if path.startswith("model.backbone.init_cfg") and weights and value is not None:
        return f"{path} is {value!r}, but backbone.weights={weights} is used. Remove one of them."
    return ""


def _find_initialisation_problem(path: str, value: Any) -> str:
    """A head without its classifier loses the whole ``init_cfg`` that names the classifier."""
    section, _, rest = path.partition(".init_cfg")
    if section != "model.decode_head" or not rest.startswith(".override"):
        return ""
    return (
        f"{path} is {value!r}, but init_cfg.override is for the classifier, which the method "
        "replaces. Remove 'override'."
    )


def _list_used_values(spec: Mapping[str, Any], path: str, field: str) -> list[Any]:
    """The values that agree with the spec, first the one to show."""
    channels, indices = spec["backbone"]["channels"], spec["decoder"]["in_index"]
    if field == "dataset.classes":
        return [len(spec["dataset"]["classes"])]
    if path.endswith(".c1_in_channels"):
        return [channels[0]]
    if field == "decoder.in_index":
        return [indices, *indices] if len(indices) == 1 else [indices]
    if path == "model.decode_head.in_channels":
        inputs = [channels[index] for index in indices if 0 <= index < len(channels)]
        return [inputs, *inputs] if len(inputs) == 1 else [inputs]
    if field == "backbone.channels":  # of an auxiliary head, which names its own map
        return channels
    if field == "dataset.ignore_index":  # label maps are read so that this value is ignored
        return [255 if len(spec["dataset"]["classes"]) <= 255 else 2**16 - 1]
    if field == "schedule.head_lr_mult" and not path.endswith(".lr_mult"):
        return []
    value = find_value(spec, field) if field else None
    return [] if value is None else [value]


def _explain(field: str, used: list[Any]) -> str:
    if not field:
        return "no run uses it. Remove it."
    if not used:
        return f"only {field} sets values here. Remove it."
    return f"{field} is used, which gives {used[0]!r}. Remove it, or change {field}."
