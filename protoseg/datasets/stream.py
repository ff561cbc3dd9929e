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
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, TRANSFORMS
from torch.utils.data import Dataset, Sampler

from protoseg.datasets.layout import pairs
from protoseg.errors import DataError
from protoseg.spec.fields import build
from protoseg.spec.schema import DatasetSpec

IGNORE = 255
"""The ignored label inside training, whatever value the files use."""

CHECK = "'protoseg data check' names every such file."


@dataclass(frozen=True)
class Draw:
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
        self.transforms = [TRANSFORMS.build(transform) for transform in pipeline]
        self.metainfo = {"classes": spec.classes, "palette": None}
        self.reduce_zero_label = spec.reduce_zero_label
        self.num_classes = len(spec.classes)
        # mmseg maps labels after it has shifted them, when 0 and 255 are ignored already.
        ignored = spec.ignore_index - 1 if spec.reduce_zero_label else spec.ignore_index
        done = spec.ignore_index == IGNORE or ignored < 0
        self.label_map = None if done else {ignored: IGNORE}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | Draw) -> Any:
        """A sample after the pipeline; a `Draw` fixes the randomness, an int leaves it be."""
        if not isinstance(key, Draw):
            return self._load(key)
        # mmcv's transforms draw from the global generators. With no loader workers this is the
        # training process, whose own draws (dropout, Gumbel) must not see any of it.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        words = np.random.SeedSequence([key.seed, key.number]).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.manual_seed(int(words[2]))
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
            "label_map": self.label_map,
            "reduce_zero_label": self.reduce_zero_label,
            "seg_fields": [],
            "sample_idx": index,
        }
        for transform in self.transforms:
            if isinstance(transform, LoadImageFromFile):
                results = _read(transform, results, image)
            elif isinstance(transform, LoadAnnotations):
                results = _read(transform, results, annotation)
                self._check(results, annotation)
            else:
                results = transform(results)
        return results

    def _check(self, results: dict[str, Any], annotation: Path) -> None:
        """Refuse labels that are no class, which would be an index out of bounds much later."""
        labels = results["gt_seg_map"]
        if labels.shape != results["ori_shape"]:
            raise DataError(
                f"{annotation}: has the shape {labels.shape}, its image {results['ori_shape']}. "
                f"{CHECK}"
            )
        wrong = labels[(labels >= self.num_classes) & (labels != IGNORE)]
        if wrong.size:
            value = int(wrong[0]) + self.reduce_zero_label
            raise DataError(
                f"{annotation}: label out of range: {value} ({wrong.size} pixels in all that are "
                f"none of the {self.num_classes} classes). {CHECK}"
            )


def _read(transform: Any, results: Any, path: Path) -> Any:
    """Apply a transform that reads a file."""
    try:
        return transform(results)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: can not be read ({reason}). {CHECK}") from error


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray[Any, Any]:
    """The order of the images in an epoch, (size,)."""
    return np.random.Generator(np.random.PCG64([seed, epoch, size])).permutation(size)


@DATA_SAMPLERS.register_module()
class StatelessSampler(Sampler[Draw]):
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

    def __iter__(self) -> Iterator[Draw]:
        share = self.batch_size // self.world_size
        for iteration in range(self.start, self.iterations):
            for position in range(self.rank * share, (self.rank + 1) * share):
                number = iteration * self.batch_size + position
                epoch, place = divmod(number, self.size)
                image = int(permutation(self.seed, epoch, self.size)[place])
                yield Draw(image, self.seed, number)

    def __len__(self) -> int:
        return (self.iterations - self.start) * (self.batch_size // self.world_size)
