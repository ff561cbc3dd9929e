"""The data set as mmengine reads it, and the order in which training sees it.

What a training step sees is a function of (seed, iteration, position in the batch) alone: sample
number ``n = iteration * batch_size + position`` names an image (a fresh permutation each epoch) and
a seed for every random choice of its augmentation. Nothing depends on the number of loader workers,
on prefetching, or on when a run was restarted.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from mmseg.registry import DATASETS, TRANSFORMS
from PIL import Image
from torch.utils.data import Dataset, Sampler

from protoseg.config.fields import build
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.image_labels import ImageLabels
from protoseg.datasets.labels import NO_LABEL, ignored_label, label_table, to_classes
from protoseg.datasets.layout import pairs
from protoseg.errors import DataError

CHECK = "'protoseg data check' names every such file."


@dataclass(frozen=True)
class SampleRequest:
    """What training asks of the data set: an image, and what seeds its augmentation."""

    image: int
    seed: int
    number: int


@DATASETS.register_module()
class SegmentationFolder(Dataset[Any]):
    """One split of a folder data set behind an mmseg pipeline.

    Args:
        root: the data folder.
        dataset: its spec, as plain data.
        split: which split.
        pipeline: mmseg transforms.
    """

    def __init__(
        self, root: str, dataset: dict[str, Any], split: str, pipeline: list[dict[str, Any]]
    ) -> None:
        spec: DatasetSpec = build(DatasetSpec, dataset, "dataset")
        self.samples = pairs(Path(root), spec, split)
        self.transforms = [self._transform(transform, spec, Path(root)) for transform in pipeline]
        self.metainfo = {"classes": spec.classes, "palette": None}
        self.reduce_zero_label = spec.reduce_zero_label

    @staticmethod
    def _transform(transform: dict[str, Any], spec: DatasetSpec, root: Path) -> Any:
        # mmseg's own loader cuts labels to 8 bits; ours takes its place, with the spec's values.
        if transform["type"] == "LoadAnnotations":
            return LoadLabels(spec)
        if transform["type"] == "LoadImageLabels":
            return LoadImageLabels(spec, root)
        return TRANSFORMS.build(transform)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | SampleRequest) -> Any:
        """A sample after the pipeline; a `SampleRequest` fixes its randomness."""
        if not isinstance(key, SampleRequest):
            return self._load(key)
        # mmcv's transforms draw from the global generators. With no loader workers this is the
        # training process, whose own draws (dropout, Gumbel) must not see any of it.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        words = np.random.SeedSequence([key.seed, key.number]).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        # The generator of the CPU alone: `torch.manual_seed` also seeds those of GPUs, which the
        # transforms do not use and which are not restored below.
        torch.default_generator.manual_seed(int(words[2]))
        try:
            return self._load(key.image)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])

    def _load(self, index: int) -> Any:
        image, annotation = self.samples[index]
        results: Any = {
            "img_path": str(image),
            "seg_map_path": str(annotation),
            "reduce_zero_label": self.reduce_zero_label,
            "seg_fields": [],
            "sample_idx": index,
        }
        for transform in self.transforms:
            if isinstance(transform, LoadImageFromFile):
                results = _read(transform, results, image)
            elif isinstance(transform, LoadLabels | LoadImageLabels):
                results = _read(transform, results, annotation)
            else:
                results = transform(results)
        return results


class LoadLabels:
    """Reads ``seg_map_path`` into ``gt_seg_map``: classes, and the ignored label, as in training.

    Raises:
        DataError: labels that are no class, which would be an index out of bounds much later, or
            another size than the image's.
    """

    def __init__(self, dataset: DatasetSpec) -> None:
        self.num_classes = len(dataset.classes)
        self.table = label_table(dataset)
        self.kind = np.uint8 if ignored_label(dataset) < 256 else np.uint16

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """A sample with its label map, (height, width), uint8, or uint16 for many classes."""
        path = results["seg_map_path"]
        with Image.open(path) as file:
            raw = np.asarray(file)
        if raw.shape != results["ori_shape"]:
            raise DataError(
                f"{path}: has the shape {raw.shape}, its image {results['ori_shape']}. {CHECK}"
            )
        classes = to_classes(raw, self.table)
        wrong = raw[classes == NO_LABEL]
        if wrong.size:
            raise DataError(
                f"{path}: label out of range: {int(wrong[0])} ({wrong.size} pixels in all that "
                f"are none of the {self.num_classes} classes). {CHECK}"
            )
        results["gt_seg_map"] = classes.astype(self.kind)
        results["seg_fields"].append("gt_seg_map")
        return results


class LoadImageLabels:
    """Puts the classes of an image, without the background, into ``image_labels``.

    Of the label map, where they come from one, nothing else is left.
    """

    def __init__(self, dataset: DatasetSpec, root: Path) -> None:
        self.labels = ImageLabels(dataset, root)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """A sample with its image-level labels, ascending numbers of classes from 1."""
        found = self.labels.of(Path(results["img_path"]), Path(results["seg_map_path"]))
        results["image_labels"] = found
        return results


def _read(transform: Any, results: Any, path: Path) -> Any:
    """Apply a transform that reads a file."""
    try:
        return transform(results)
    except (MemoryError, DataError):
        raise
    except Exception as error:  # decoders raise whatever they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: can not be read ({reason}). {CHECK}") from error


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray[Any, Any]:
    """The order of the images in an epoch, (size,)."""
    return np.random.Generator(np.random.PCG64([seed, epoch, size])).permutation(size)


@DATA_SAMPLERS.register_module()
class StatelessSampler(Sampler[SampleRequest]):
    """The draws of this process from iteration ``start`` to ``iterations``.

    Args:
        dataset: gives the number of images.
        seed: of the run.
        batch_size: images an iteration, over all processes together.
        iterations: length of the training.
        start: first iteration, when a run goes on from a checkpoint.
    """

    def __init__(
        self, dataset: Any, seed: int, batch_size: int, iterations: int, start: int = 0
    ) -> None:
        self.size = len(dataset)
        self.seed = seed
        self.batch_size = batch_size
        self.iterations = iterations
        self.start = start
        self.rank, self.world_size = get_dist_info()

    def __iter__(self) -> Iterator[SampleRequest]:
        share = self.batch_size // self.world_size
        for iteration in range(self.start, self.iterations):
            for position in range(self.rank * share, (self.rank + 1) * share):
                number = iteration * self.batch_size + position
                epoch, place = divmod(number, self.size)
                image = int(permutation(self.seed, epoch, self.size)[place])
                yield SampleRequest(image, self.seed, number)

    def __len__(self) -> int:
        return (self.iterations - self.start) * (self.batch_size // self.world_size)
