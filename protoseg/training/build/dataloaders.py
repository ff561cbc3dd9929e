"""How a run's images are loaded, augmented and brought together: mmengine's settings of loaders.

In the task ``weak`` training sees no label map, not even to choose a crop by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protoseg.config.fields import plain
from protoseg.config.schema import RunSpec
from protoseg.datasets.labels import ignored_label
from protoseg.errors import UsageError

IMAGE_LABELS = ("image_labels",)
"""What a sample of the task ``weak`` brings besides its image: see `LoadImageLabels`."""


def check_task(spec: RunSpec) -> None:
    """Refuse settings that need label maps in a run that is trained on image-level labels.

    Raises:
        UsageError: the first of them.
    """
    if spec.method.task != "weak":
        return
    why = "the task weak is trained on image-level labels alone"
    if spec.decoder.auxiliary:
        raise UsageError(
            f"decoder.auxiliary: an auxiliary head learns from label maps, and {why}; "
            "set decoder.auxiliary=false, or use decoder=cam."
        )
    if spec.contrast.weight:
        raise UsageError(
            f"contrast.weight: pixel contrast learns from label maps, and {why}; set contrast=none."
        )
    if spec.augmentation.cat_max_ratio < 1:
        raise UsageError(
            f"augmentation.cat_max_ratio: {spec.augmentation.cat_max_ratio} chooses crops by label "
            f"maps, and {why}; set augmentation.cat_max_ratio=1, or use augmentation=weak_256."
        )
    if spec.evaluation.mode != "whole":
        raise UsageError(
            "evaluation.mode: class activation maps are normalised over whole images; set "
            "evaluation.mode=whole."
        )
    if len(spec.dataset.classes) < 2:
        raise UsageError(
            f"dataset {spec.dataset.name}: the first class is the background; name at least one "
            "more for the task weak."
        )


def train_loader(
    spec: RunSpec, data_root: Path, num_workers: int, world_size: int, start: int
) -> dict[str, Any]:
    """The ``train_dataloader`` of a run's config; see `training.build.config.build_config`."""
    augmentation = spec.augmentation
    weak = spec.method.task == "weak"
    pipeline: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadImageLabels" if weak else "LoadAnnotations"},
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
        {"type": "RandomFlip", "prob": augmentation.flip},
    ]
    if augmentation.photometric:
        pipeline.append({"type": "PhotoMetricDistortion"})
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


def test_loader(spec: RunSpec, data_root: Path, num_workers: int) -> dict[str, Any]:
    """The ``test_dataloader``: the images of the evaluation's split, one at a time, in order."""
    pipeline: list[dict[str, Any]] = [{"type": "LoadImageFromFile"}]
    if spec.method.task == "weak":
        pipeline.append({"type": "LoadImageLabels"})
    if spec.evaluation.scale:
        pipeline.append({"type": "Resize", "scale": spec.evaluation.scale, "keep_ratio": True})
    # Labels after the resize: scores are brought back to the size of the image for the metric.
    keys: tuple[str, ...] = ("img_path", "ori_shape", "img_shape", "pad_shape", "sample_idx")
    keys += IMAGE_LABELS if spec.method.task == "weak" else ()
    pipeline += [{"type": "LoadAnnotations"}, {"type": "PackSegInputs", "meta_keys": keys}]
    return {
        "batch_size": 1,
        "num_workers": num_workers,
        "persistent_workers": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": _dataset(spec, data_root, spec.evaluation.split, pipeline),
    }


def _dataset(
    spec: RunSpec, data_root: Path, split: str, pipeline: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "type": "SegmentationFolder",
        "root": str(data_root),
        "dataset": plain(spec.dataset),
        "split": split,
        "pipeline": pipeline,
    }
