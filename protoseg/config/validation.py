"""Checks that the values of a spec fit together, before a run is queued.

A worker checks them too, but only after it has waited in the queue, and some only after training.
Checks that need mmseg or the data (recipes, files) are made by the worker alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, describe_unknown_name


def check_values(spec: RunSpec, where: str) -> None:
    """Check that a spec can be trained and evaluated.

    Args:
        spec: the spec of a run.
        where: place named in error messages.

    Raises:
        UsageError: values that do not fit together; the message names the first problem.
    """
    checks = (_check_data, _check_inputs, _check_window, _check_schedule)
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
        if known and split not in known:
            yield describe_unknown_name(f"split of {spec.dataset.name}", split, key, known)
    low, high = spec.augmentation.ratio_range
    if low > high:
        yield (
            f"augmentation.ratio_range: {low} is more than {high}; the order is "
            "[smallest, largest]: swap them."
        )


def _check_inputs(spec: RunSpec) -> Iterator[str]:
    num_maps, indices = len(spec.backbone.channels), spec.decoder.in_index
    if not indices or not all(0 <= index < num_maps for index in indices):
        yield (
            f"decoder.in_index: expected at least one of the feature maps 0 to {num_maps - 1} of "
            f"{spec.backbone.name}, found {list(indices)}."
        )


def _check_window(spec: RunSpec) -> Iterator[str]:
    evaluation = spec.evaluation
    if evaluation.mode != "slide":
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
    if warmup >= iterations:
        yield (
            f"schedule.warmup_iterations: {warmup} is not less than the {iterations} iterations "
            "of the run; lower it, or set schedule.iterations higher."
        )
