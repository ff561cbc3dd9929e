"""Optimiser and learning-rate schedulers of a run for mmengine."""

from __future__ import annotations

from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.recipes.values import read_values
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError


def build_optimizer(spec: RunSpec) -> dict[str, Any]:
    """Build the ``optim_wrapper`` part of the config, from the recipe of the schedule."""
    schedule = spec.schedule
    wrapper: dict[str, Any] = read_values(spec, "schedule")["optim_wrapper"]
    if not schedule.is_of_recipe:
        # mmengine gives the other name to a class of another package.
        name = {"Adafactor": "TorchAdafactor"}.get(schedule.optimizer, schedule.optimizer)
        wrapper["optimizer"] = {"type": name}
    wrapper["optimizer"].update(
        to_plain(schedule.optimizer_settings),
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
    )
    if schedule.clip_grad:
        wrapper["clip_grad"] = to_plain(schedule.clip_grad)
    if schedule.accumulative_counts > 1:
        wrapper["accumulative_counts"] = schedule.accumulative_counts
    if schedule.norm_decay == "never":
        wrapper["constructor"] = "NormsWithoutDecay"
        # Without any rule mmengine would not visit the modules.
        wrapper["paramwise_cfg"] = {"norm_decay_mult": 0.0, **(wrapper.get("paramwise_cfg") or {})}
    by_name = wrapper.get("paramwise_cfg") or {}
    keys = by_name.get("custom_keys") or {}
    if schedule.head_lr_mult != 1:
        keys["head"] = {"lr_mult": schedule.head_lr_mult}
    if keys:
        wrapper["paramwise_cfg"] = {**by_name, "custom_keys": keys}
    if spec.precision != "fp32":
        wrapper["type"] = "AmpOptimWrapper"
        wrapper["dtype"] = {"fp16": "float16", "bf16": "bfloat16"}[spec.precision]
        if spec.precision == "fp16":
            wrapper["loss_scale"] = "dynamic"
    return wrapper


def build_schedulers(spec: RunSpec) -> list[dict[str, Any]]:
    """Build the ``param_scheduler`` part of the config: linear warm-up, then a decay.

    Raises:
        UsageError: a warm-up as long as the run.
    """
    schedule = spec.schedule
    warmup = schedule.warmup_iterations
    if warmup >= schedule.iterations:
        raise UsageError(
            f"schedule.warmup_iterations: {warmup} is not less than the {schedule.iterations} "
            "iterations of the run. Lower it, or raise schedule.iterations."
        )
    if schedule.param_scheduler == "MultiStepLR":  # milestones count from `begin`
        settings = {"milestones": list(schedule.milestones), "gamma": schedule.gamma, "begin": 0}
    else:
        settings = {"eta_min": schedule.min_lr, "begin": warmup}
        if schedule.param_scheduler == "PolyLR":
            settings["power"] = schedule.power
    decay = {
        "type": schedule.param_scheduler,
        **settings,
        "end": schedule.iterations,
        "by_epoch": False,
    }
    linear = {
        "type": "LinearLR",
        "start_factor": 1e-6,
        "begin": 0,
        "end": warmup,
        "by_epoch": False,
    }
    return [linear, decay] if warmup else [decay]
