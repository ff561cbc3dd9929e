"""Checks that the values of a spec fit together, before a run is queued.

A worker checks them too, but only after it has waited in the queue, and some only after training.
Checks that need mmseg or the data are made by the worker alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from protoseg.config.hierarchy.problems import find_hierarchy_problems
from protoseg.config.holdout.problems import find_holdout_problems
from protoseg.config.holdout.settings import HOLDOUT
from protoseg.config.plugins import list_packages
from protoseg.config.recipes.ignored import find_ignored_settings, find_settings_without_effect
from protoseg.config.schedule import EmaSpec
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, describe_unknown_name

SMALLEST_STRIDE = 4
"""Stride of the finest feature map of the backbones in experiments/backbone."""

CLIPPING = {"norm": ("max_norm", "norm_type", "error_if_nonfinite"), "value": ("clip_value",)}
"""Type of gradient clipping in mmengine -> its keys, first the limit."""


def check_values(spec: RunSpec, where: str) -> None:
    """Check that a spec can be trained and evaluated.

    Args:
        spec: the spec of a run.
        where: place named in error messages.

    Raises:
        UsageError: values that do not fit together; the message names the first problem.
    """
    checks = (
        *(_check_data, find_hierarchy_problems, _check_holdout, _check_inputs),
        *(_check_window, _check_schedule),
        *(_check_clipping, _check_accumulation, _check_ema, _check_decay),
        *(_check_projection, _check_contrast, _check_plugins),
        *(find_ignored_settings, find_settings_without_effect),
    )
    for problem in (problem for check in checks for problem in check(spec)):
        raise UsageError(f"{where}: {problem}")


def _check_data(spec: RunSpec) -> Iterator[str]:
    classes = spec.dataset.classes
    known = spec.dataset.counts or spec.dataset.split_files
    if len(classes) < 2:
        yield (
            f"dataset.classes: {spec.dataset.name} has one class, '{classes[0]}', so every "
            "prediction is right. Name at least two, e.g. the background too."
        )
    splits = {
        "evaluation.split": spec.evaluation.split,
        "dataset.train_split": spec.dataset.train_split,
    }
    for key, split in splits.items():
        is_holdout = key == "evaluation.split" and split == HOLDOUT  # see `_check_holdout`
        if known and split not in known and not is_holdout:
            yield describe_unknown_name(f"split of {spec.dataset.name}", split, key, known)
    if spec.class_weights == "dataset" and not spec.dataset.class_weights:
        yield (
            f"class_weights=dataset: {spec.dataset.name} has no class_weights; add one weight per "
            "class to its YAML file, or set class_weights=none."
        )
    if spec.class_weights == "dataset" and spec.method.task == "weak":
        yield (
            "class_weights=dataset: has no effect, because the task weak has no L_CE on label "
            "maps; set class_weights=none."
        )
    mirrors = spec.augmentation.flip or getattr(spec.method, "flip", False)
    if spec.dataset.flip_pairs and spec.method.task == "weak" and mirrors:
        yield (
            "dataset.flip_pairs: the task weak mirrors images without swapping classes. Set "
            "augmentation.flip=0 and method.flip=false."
        )
    low, high = spec.augmentation.ratio_range
    if low > high:
        yield (
            f"augmentation.ratio_range: {low} is more than {high}; the order is "
            "[smallest, largest]: swap them."
        )


def _check_holdout(spec: RunSpec) -> Iterator[str]:
    yield from find_holdout_problems(spec.dataset, spec.evaluation)


def _check_projection(spec: RunSpec) -> Iterator[str]:
    width = spec.augmentation.crop_size[1]
    if getattr(spec.method, "projection", None) == "released" and width <= SMALLEST_STRIDE:
        yield (
            f"method.projection: released normalises over the width of the feature map, which has "
            f"one column at augmentation.crop_size {list(spec.augmentation.crop_size)}; choose a "
            f"width above {SMALLEST_STRIDE}, or projection=conv_no_norm."
        )


def _check_contrast(spec: RunSpec) -> Iterator[str]:
    contrast = spec.contrast
    if not contrast.weight:
        return
    has_memory = contrast.pixel_queue or contrast.region_queue
    needs = {
        "memory_contrast=all": contrast.memory_contrast == "all",
        "memory_start=random": contrast.memory_start == "random",
        "slips": bool(contrast.slips),
    }
    for name, is_set in needs.items():
        if is_set and not has_memory:
            yield (
                f"contrast.{name} needs a memory, but pixel_queue and region_queue are 0; set one "
                "of them, or remove it."
            )
    if contrast.sample_gradient and has_memory:
        yield (
            "contrast.sample_gradient: entries of the memory have no gradient; set pixel_queue=0 "
            "and region_queue=0, or sample_gradient=false."
        )
    if "pointer_by_one" in contrast.slips and (
        contrast.memory_start != "random" or contrast.pixel_queue < contrast.pixels_per_image
    ):
        yield (
            "contrast.slips: pointer_by_one needs memory_start=random and a pixel_queue of at "
            f"least pixels_per_image ({contrast.pixels_per_image}), because no slot may stay "
            "empty; set both, or remove it."
        )


def _check_inputs(spec: RunSpec) -> Iterator[str]:
    if spec.decoder.align_corners is not None and "align_corners" in spec.decoder.settings:
        yield "decoder.align_corners: decoder.settings has align_corners too; set one of them."
    num_maps, indices = len(spec.backbone.channels), spec.decoder.in_index
    if not num_maps:
        if not spec.backbone.timm_model:
            yield "backbone.channels: needs at least one value, found none; name those of its maps."
        elif not indices or min(indices) < 0:  # the worker compares them with the maps of timm
            yield (
                "decoder.in_index: expected at least one feature map, counted from 0; found "
                f"{list(indices)}; name some."
            )
        return
    if not indices or not all(0 <= index < num_maps for index in indices):
        yield (
            f"decoder.in_index: expected at least one of the feature maps 0 to {num_maps - 1} of "
            f"{spec.backbone.name}, found {list(indices)}."
        )


def _check_window(spec: RunSpec) -> Iterator[str]:
    evaluation = spec.evaluation
    if evaluation.mode != "slide":
        if evaluation.crop_size or evaluation.stride:
            yield (
                "evaluation.crop_size and evaluation.stride: evaluation.mode=whole has no window. "
                "Set evaluation.mode=slide, or leave both empty."
            )
        return
    for key in ("crop_size", "stride"):
        if not getattr(evaluation, key):
            yield (
                f"evaluation.{key}: evaluation.mode=slide needs it, [height, width]; "
                "set it, or choose an evaluation with a window, e.g. evaluation=slide_512."
            )
            return
    pairs = zip(evaluation.stride, evaluation.crop_size, strict=True)
    if any(stride > side for stride, side in pairs):
        yield (
            f"evaluation.stride: {list(evaluation.stride)} is more than the window "
            f"{list(evaluation.crop_size)}, which skips pixels between windows; "
            "choose at most evaluation.crop_size."
        )


def _check_schedule(spec: RunSpec) -> Iterator[str]:
    warmup, iterations = spec.schedule.warmup_iterations, spec.schedule.iterations
    if spec.schedule.stop_after >= iterations:
        yield (
            f"schedule.stop_after: {spec.schedule.stop_after} is not less than the {iterations} "
            "iterations of the run; lower it, or set 0 to train all of them."
        )
    if warmup >= iterations:
        yield (
            f"schedule.warmup_iterations: {warmup} is not less than the {iterations} iterations "
            "of the run; lower it, or set schedule.iterations higher."
        )
    every = spec.evaluation.every
    last = spec.schedule.last_iteration
    if every > last:
        yield (
            f"evaluation.every: {every} is more than the {last} iterations of the run; "
            "lower it, or set 0 to evaluate at the end alone."
        )


def _check_clipping(spec: RunSpec) -> Iterator[str]:
    clipping = spec.schedule.clip_grad
    clip_type = str(clipping.get("type", "norm"))
    if clip_type not in CLIPPING:
        yield describe_unknown_name("type", clip_type, "schedule.clip_grad", CLIPPING)
        return
    for key in clipping:
        if key not in ("type", *CLIPPING[clip_type]):
            yield describe_unknown_name("key", key, "schedule.clip_grad", CLIPPING[clip_type])
    limit = CLIPPING[clip_type][0]
    value = clipping.get(limit)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if clipping and (not is_number or not value or value < 0):
        yield (
            f"schedule.clip_grad.{limit}: {value!r} is no limit; set a number above 0, e.g. "
            f"+schedule.clip_grad.{limit}=1.0."
        )
    norm_type = clipping.get("norm_type", 2.0)
    if norm_type != "inf" and not (isinstance(norm_type, int | float) and norm_type > 0):
        yield (
            f"schedule.clip_grad.norm_type: {norm_type!r} is no norm; set a number above 0, or inf."
        )
    is_strict = clipping.get("error_if_nonfinite", False)
    if not isinstance(is_strict, bool) or (is_strict and spec.precision == "fp16"):
        yield (
            f"schedule.clip_grad.error_if_nonfinite: {is_strict!r} is not possible with precision="
            f"{spec.precision}; set true or false, and false with fp16, whose loss scaling starts "
            "with such gradients."
        )


def _check_accumulation(spec: RunSpec) -> Iterator[str]:
    counts = spec.schedule.accumulative_counts
    iterations = {
        "schedule.iterations": spec.schedule.iterations,
        "schedule.stop_after": spec.schedule.stop_after,
        "evaluation.every": spec.evaluation.every,
    }
    for key, value in iterations.items():
        if value % counts:
            below = value - value % counts
            nearest = [below, below + counts] if below else [counts]
            yield (
                f"{key}: {value} is not a multiple of schedule.accumulative_counts ({counts}), the "
                f"iterations of one step; set {' or '.join(map(str, nearest))}."
            )


def _check_ema(spec: RunSpec) -> Iterator[str]:
    ema, iterations = spec.schedule.ema, spec.schedule.last_iteration
    if not ema.momentum and ema != EmaSpec():
        yield (
            "schedule.ema: its settings have no effect, because schedule.ema.momentum is 0; set "
            "it, e.g. to 0.0002, or remove them."
        )
    # The first update copies the weights.
    if ema.momentum and max(ema.begin_iter, 1) + ema.interval > iterations:
        yield (
            f"schedule.ema: begin_iter {ema.begin_iter} and interval {ema.interval} average "
            f"nothing within the {iterations} iterations of the run; lower them."
        )


def _check_decay(spec: RunSpec) -> Iterator[str]:
    schedule = spec.schedule
    steps = list(schedule.milestones)
    has_steps = schedule.param_scheduler == "MultiStepLR"
    if not has_steps and (steps or schedule.gamma != 0.1):
        yield (
            f"schedule.milestones and schedule.gamma: {schedule.param_scheduler} has no steps; set "
            "schedule.param_scheduler=MultiStepLR, or remove them."
        )
    first, last = schedule.warmup_iterations, schedule.iterations
    is_ordered = steps == sorted(set(steps)) and all(max(first, 1) <= step < last for step in steps)
    if has_steps and not (steps and is_ordered):
        yield (
            "schedule.milestones: MultiStepLR needs ascending iterations after the warm-up, from "
            f"{max(first, 1)} to {last - 1}, found {steps}; set them."
        )
    if has_steps and schedule.min_lr:
        yield (
            f"schedule.min_lr: {schedule.min_lr} has no effect, because MultiStepLR multiplies by "
            "schedule.gamma; set schedule.min_lr=0."
        )
    for key in {"lr", "weight_decay", "type", "params"} & schedule.optimizer_settings.keys():
        name = "learning_rate" if key == "lr" else key
        field = f"set schedule.{name} and remove it" if key != "params" else "remove it"
        yield f"schedule.optimizer_settings.{key}: another field sets it; {field}."


def _check_plugins(spec: RunSpec) -> Iterator[str]:
    if spec.plugin_version != 1 and not list_packages(spec):
        yield (
            f"plugin_version: {spec.plugin_version} has no effect, because the run uses no class "
            "of your own; remove it."
        )
