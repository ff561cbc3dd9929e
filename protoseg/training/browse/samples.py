"""Training samples as they go into the network: those of the loader, after its preprocessing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmseg.registry import MODELS

from protoseg.config.schema import RunSpec
from protoseg.datasets.layout import find_root, find_splits
from protoseg.errors import UsageError, describe_unknown_name
from protoseg.training.builders.components import build_loader, use_mmseg
from protoseg.training.builders.config import build_config


@dataclass(frozen=True)
class Sample:
    """One sample of a training batch."""

    iteration: int
    """Of the training, from 1."""
    position: int
    """In the batch, from 1."""
    path: Path
    """The file of the image."""
    image: np.ndarray
    """(height, width, 3) uint8, red first: the input of the network without its normalisation."""
    labels: np.ndarray
    """(height, width), class numbers and the ignored label."""


def load_samples(spec: RunSpec, data: Path, split: str, count: int) -> Iterator[Sample]:
    """Load the first samples of a run's training, with the order and augmentation of its seed.

    Args:
        spec: the run.
        data: folder with the data sets.
        split: the split whose images are read; another one than the training split gets the same
            augmentation.
        count: number of samples.

    Raises:
        UsageError: an unknown split, or a run that trains without label maps.
        DataError: an image or label map is missing or cannot be read.
    """
    if spec.method.task == "weak":
        raise UsageError(
            "data browse: a run of the task weak trains without label maps. Use another method, "
            "e.g. method=paper."
        )
    root = find_root(spec.dataset, data)
    splits = find_splits(root, spec.dataset)
    known = [*splits, *(["holdout"] if spec.evaluation.holdout.is_set else [])]
    if split not in known:
        where = f"data browse {spec.dataset.name}"
        raise UsageError(describe_unknown_name("split", split, where, known))
    use_mmseg()
    config = build_config(spec, data_root=root)
    loader = config.train_dataloader
    loader["dataset"]["split"] = split
    # The order of the samples does not depend on the length of the training.
    loader["sampler"]["iterations"] = -(-count // spec.schedule.batch_size)
    preprocess = MODELS.build(config.model["data_preprocessor"])
    batches = build_loader(loader)
    number = 0
    for iteration, batch in enumerate(batches, 1):
        paths = [sample.img_path for sample in batch["data_samples"]]
        inputs = preprocess(batch, training=True)
        images = remove_normalisation(inputs["inputs"], preprocess)
        for position, path in enumerate(paths):
            number += 1
            if number > count:
                return
            labels = inputs["data_samples"][position].gt_sem_seg.data[0].cpu().numpy()
            yield Sample(iteration, position + 1, Path(path), images[position], labels)


def remove_normalisation(inputs: torch.Tensor, preprocess: Any) -> np.ndarray:
    """The images of a batch of inputs.

    Args:
        inputs: (batch, 3, height, width), normalised, in the order of channels of the network.
        preprocess: mmseg's ``SegDataPreProcessor`` that made them.

    Returns:
        (batch, height, width, 3) uint8, red first. Padding, which is 0 in the input, has the mean
        colour.
    """
    values = inputs.detach().cpu().float()
    if getattr(preprocess, "_enable_normalize", False):
        values = values * preprocess.std.cpu() + preprocess.mean.cpu()
    pixels = values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    is_red_first = bool(getattr(preprocess, "_channel_conversion", False))
    return np.ascontiguousarray(pixels if is_red_first else pixels[..., ::-1])
