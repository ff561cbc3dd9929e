"""Checks that the values of a spec fit together, before a run is queued.

A worker checks them too, but only after it has waited in the queue, and some only after training.
Checks that need mmseg or the data are made by the worker alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from protoseg.config.holdout.problems import find_holdout_problems
from protoseg.config.holdout.settings import HOLDOUT
from protoseg.config.plugins import list_packages
from protoseg.config.recipes.ignored import find_ignored_settings, find_settings_without_effect
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, describe_unknown_name

SMALLEST_STRIDE = 4
"""Stride of the finest feature map of the backbones in experiments/backbone."""


def check_values(spec: RunSpec, where: str) -> None:
    """Check that a spec can be trained and evaluated.

    Args:
        spec: the spec of a run.
        where: place named in error messages.

    Raises:
        UsageError: values that do not fit together; the message names the first problem.
    """
    checks = (
        *(_check_data, _check_holdout, _check_inputs, _check_window, _check_schedule),
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


def _check_plugins(spec: RunSpec) -> Iterator[str]:
    if spec.plugin_version != 1 and not list_packages(spec):
        yield (
            f"plugin_version: {spec.plugin_version} has no effect, because the run uses no class "
            "of your own; remove it."
        )
