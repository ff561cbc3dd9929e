"""Values that do not go together, refused when a run is planned.

A worker refuses them too, but only once it has waited for its turn, and some only after training.
What needs mmseg or the data to be known (recipes, files) is left to the worker.
"""

from __future__ import annotations

from collections.abc import Iterator

from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, unknown


def check_values(spec: RunSpec, where: str) -> None:
    """Refuse what could not be trained or evaluated.

    Raises:
        UsageError: the first of it; it names ``where``.
    """
    for problem in (*_data(spec), *_inputs(spec), *_window(spec), *_schedule(spec)):
        raise UsageError(f"{where}: {problem}")


def _data(spec: RunSpec) -> Iterator[str]:
    counts = spec.dataset.counts
    splits = {
        "evaluation.split": spec.evaluation.split,
        "dataset.train_split": spec.dataset.train_split,
    }
    for key, split in splits.items():
        if counts and split not in counts:
            yield unknown(f"split of {spec.dataset.name}", split, key, counts)
    low, high = spec.augmentation.ratio_range
    if low > high:
        yield (
            f"augmentation.ratio_range: {low} is more than {high}; "
            "it is [smallest, largest]: swap them."
        )


def _inputs(spec: RunSpec) -> Iterator[str]:
    maps, chosen = len(spec.backbone.channels), spec.decoder.in_index
    if not chosen or not all(0 <= index < maps for index in chosen):
        yield (
            f"decoder.in_index: expected at least one of the feature maps 0 to {maps - 1} of "
            f"{spec.backbone.name}, found {list(chosen)}."
        )


def _window(spec: RunSpec) -> Iterator[str]:
    evaluation = spec.evaluation
    if evaluation.mode != "slide":
        return
    for key in ("crop_size", "stride"):
        if not getattr(evaluation, key):
            yield (
                f"evaluation.{key}: evaluation.mode=slide needs it, [height, width]; "
                "set it, or choose an evaluation that has a window, e.g. evaluation=slide_512."
            )
            return
    steps = zip(evaluation.stride, evaluation.crop_size, strict=True)
    if any(stride > side for stride, side in steps):
        yield (
            f"evaluation.stride: {list(evaluation.stride)} is more than the window "
            f"{list(evaluation.crop_size)}, so that pixels between two windows are never seen; "
            "choose at most evaluation.crop_size."
        )


def _schedule(spec: RunSpec) -> Iterator[str]:
    warmup, iterations = spec.schedule.warmup_iterations, spec.schedule.iterations
    if warmup >= iterations:
        yield (
            f"schedule.warmup_iterations: {warmup} is not less than the {iterations} iterations "
            "of the run; lower it, or set schedule.iterations higher."
        )
