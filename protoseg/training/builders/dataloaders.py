"""Loader settings of a run for mmengine: how images are loaded, augmented and batched.

In the task ``weak``, training reads no label map, also not for the selection of crops.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.datasets.labels import ignored_label
from protoseg.errors import UsageError
from protoseg.training.builders.transforms import build_pipeline, make_flip_settings

IMAGE_LABELS = ("image_labels",)
"""Metadata of a training sample of the task ``weak``; set by `LoadImageLabels`."""


def check_weak_task(spec: RunSpec) -> None:
    """Refuse settings that need label maps in a run of the task ``weak``.

    Raises:
        UsageError: the first such setting.
    """
    if spec.method.task != "weak":
        return
    reason = "the task weak has only image-level labels"
    if spec.decoder.auxiliary:
        raise UsageError(
            f"decoder.auxiliary: an auxiliary head needs label maps, but {reason}. "
            "Set decoder.auxiliary=false, or use decoder=cam."
        )
    if spec.contrast.weight:
        raise UsageError(
            f"contrast.weight: pixel contrast needs label maps, but {reason}. Set contrast=none."
        )
    if spec.augmentation.pipeline:
        raise UsageError(
            f"augmentation.pipeline: its transforms may need label maps, but {reason}. Remove it, "
            "or use augmentation=weak_256."
        )
    if spec.augmentation.cat_max_ratio < 1:
        raise UsageError(
            f"augmentation.cat_max_ratio: {spec.augmentation.cat_max_ratio} selects crops by label "
            f"maps, but {reason}. Set augmentation.cat_max_ratio=1, or use augmentation=weak_256."
        )
    if spec.evaluation.mode != "whole":
        raise UsageError(
            f"evaluation.mode: {spec.evaluation.mode} does not work for class activation maps, "
            "which are normalised over whole images. Set evaluation.mode=whole."
        )
    if len(spec.dataset.classes) < 2:
        raise UsageError(
            f"dataset {spec.dataset.name}: only one class, which is the background. Name at least "
            "one more class for the task weak."
        )


def build_train_loader(
    spec: RunSpec, data_root: Path, num_workers: int, world_size: int, start: int
) -> dict[str, Any]:
    """Build the ``train_dataloader`` of a run's config.

    Args:
        data_root: folder of the data set.
        num_workers: number of loader processes.
        world_size: number of processes that share a batch.
        start: number of iterations already trained.
    """
    augmentation = spec.augmentation
    weak = spec.method.task == "weak"
    pipeline: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadImageLabels" if weak else "LoadAnnotations"},
        *(build_pipeline(spec) if augmentation.pipeline else _make_augmentation(spec)),
    ]
    pipeline.append({"type": "PackSegInputs", **({"meta_keys": IMAGE_LABELS} if weak else {})})
    batch_size, iterations = spec.schedule.batch_size, spec.schedule.iterations
    return {
        "batch_size": batch_size // world_size,
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "drop_last": True,
        "sampler": {
            "type": "StatelessSampler",
            "seed": spec.seed,
            "batch_size": batch_size,
            "iterations": iterations,
            "start": start,
        },
        "dataset": _dataset(spec, data_root, spec.dataset.train_split, pipeline),
    }


def _make_augmentation(spec: RunSpec) -> list[dict[str, Any]]:
    """The transforms of the fields of ``augmentation``."""
    augmentation = spec.augmentation
    steps: list[dict[str, Any]] = [
        {
            "type": "RandomResize",
            "scale": augmentation.scale,
            "ratio_range": augmentation.ratio_range,
            "keep_ratio": True,
        },
        {
            "type": "RandomCrop",
            "crop_size": augmentation.crop_size,
            "cat_max_ratio": augmentation.cat_max_ratio,
            "ignore_index": ignored_label(spec.dataset),
        },
        {"type": "RandomFlip", "prob": augmentation.flip, **make_flip_settings(spec.dataset)},
    ]
    return [*steps, {"type": "PhotoMetricDistortion"}] if augmentation.photometric else steps


def build_test_loader(spec: RunSpec, data_root: Path, num_workers: int) -> dict[str, Any]:
    """Build the ``test_dataloader``: the images of the evaluation split, in order, batch size 1."""
    steps: list[dict[str, Any]] = []
    if spec.method.task == "weak":
        steps.append({"type": "LoadImageLabels"})
    if spec.evaluation.scale:
        steps.append({"type": "Resize", "scale": spec.evaluation.scale, "keep_ratio": True})
    keys = IMAGE_LABELS if spec.method.task == "weak" else ()
    pipeline = _make_test_pipeline(steps, keys)
    dataset = _dataset(spec, data_root, spec.evaluation.split, pipeline)
    return _make_test_settings(dataset, num_workers)


def make_test_loader(
    dataset: DatasetSpec, split: str, data_root: Path, steps: list[dict[str, Any]]
) -> dict[str, Any]:
    """Make the settings of a loader of a whole split, in order, batch size 1.

    Args:
        dataset: the data set.
        split: name of the split.
        data_root: folder of the data set.
        steps: mmseg transforms of an image between reading and packing.
    """
    settings = {
        "type": "SegmentationFolder",
        "root": str(data_root),
        "dataset": to_plain(dataset),
        "split": split,
        "pipeline": _make_test_pipeline(steps),
    }
    return _make_test_settings(settings, 0)


def _make_test_pipeline(
    steps: list[dict[str, Any]], further_keys: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    # Labels are loaded after the resize: scores are resized to the original image for the metric.
    keys = ("img_path", "ori_shape", "img_shape", "pad_shape", "sample_idx", *further_keys)
    pack = {"type": "PackSegInputs", "meta_keys": keys}
    return [{"type": "LoadImageFromFile"}, *steps, {"type": "LoadAnnotations"}, pack]


def _make_test_settings(dataset: dict[str, Any], num_workers: int) -> dict[str, Any]:
    return {
        "batch_size": 1,
        "num_workers": num_workers,
        "persistent_workers": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": dataset,
    }


def _dataset(
    spec: RunSpec, data_root: Path, split: str, pipeline: list[dict[str, Any]]
) -> dict[str, Any]:
    holdout = spec.evaluation.holdout
    return {
        "type": "SegmentationFolder",
        "root": str(data_root),
        "dataset": to_plain(spec.dataset),
        "split": split,
        "pipeline": pipeline,
        **({"holdout": to_plain(holdout)} if holdout.is_set else {}),
    }
