"""One split of a data set in a folder, as an mmengine data set with an mmseg pipeline.

Training requests samples with `protoseg.datasets.sampler.SampleRequest`, which also seeds the
augmentation.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmseg.registry import DATASETS, TRANSFORMS
from torch.utils.data import Dataset

from protoseg.config.fields import build
from protoseg.config.holdout.settings import HoldoutSpec
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.image_labels import ImageLabels
from protoseg.datasets.labels import NO_LABEL, ignored_label, label_table, map_to_classes
from protoseg.datasets.pairing.holdout_parts import find_samples
from protoseg.datasets.readers.colors import make_color_table
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.datasets.readers.photographs import read_photograph
from protoseg.datasets.sampler import SampleRequest
from protoseg.errors import DataError

CHECK = "To list all such files, run 'protoseg data check'."


@DATASETS.register_module()
class SegmentationFolder(Dataset[Any]):
    """One split of a data set, after an mmseg pipeline.

    Args:
        root: the folder of the data set.
        dataset: its spec, as plain data.
        split: the name of the split.
        pipeline: mmseg transforms.
        holdout: a `HoldoutSpec` as plain data; the training split is then without the held-out
            images, which are the split ``holdout``.
    """

    def __init__(
        self,
        root: str,
        dataset: dict[str, Any],
        split: str,
        pipeline: list[dict[str, Any]],
        holdout: dict[str, Any] | None = None,
    ) -> None:
        spec: DatasetSpec = build(DatasetSpec, dataset, "dataset")
        rule: HoldoutSpec = build(HoldoutSpec, holdout or {}, "evaluation.holdout")
        self.samples = find_samples(Path(root), spec, split, rule)
        self.transforms = [
            self._build_transform(transform, spec, Path(root)) for transform in pipeline
        ]
        self.metainfo = {"classes": spec.classes, "palette": None}
        self.reduce_zero_label = spec.reduce_zero_label

    @staticmethod
    def _build_transform(transform: dict[str, Any], spec: DatasetSpec, root: Path) -> Any:
        # The readers of `data check` replace those of mmcv and mmseg, which read other labels.
        if transform["type"] == "LoadImageFromFile":
            return LoadPhotograph()
        if transform["type"] == "LoadAnnotations":
            return LoadLabels(spec)
        if transform["type"] == "LoadImageLabels":
            return LoadImageLabels(spec, root)
        return TRANSFORMS.build(transform)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | SampleRequest) -> Any:
        """A sample after the pipeline; a `SampleRequest` also seeds its augmentation."""
        if not isinstance(key, SampleRequest):
            return self._load(key)
        # mmcv's transforms use the global generators. Without loader workers this code runs in
        # the training process, so the generators are restored for dropout and Gumbel noise.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seeds = np.random.SeedSequence([key.seed, key.number]).generate_state(3)
        random.seed(int(seeds[0]))
        np.random.seed(int(seeds[1]))
        # Only the CPU's generator: `torch.manual_seed` also seeds the GPUs' generators, which the
        # transforms do not use and which are not restored below.
        torch.default_generator.manual_seed(int(seeds[2]))
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
            try:
                results = transform(results)
            except cv2.error as error:
                raise DataError(_transform_message(transform, results, error)) from error
        return results


class LoadPhotograph:
    """Read ``img_path`` into ``img``, as mmcv's ``LoadImageFromFile`` does.

    Raises:
        DataError: the file cannot be read.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the photograph, (height, width, 3) uint8, blue first, and its size."""
        with _hint_to_check():
            results["img"] = read_photograph(Path(results["img_path"]))
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results


class LoadLabels:
    """Read ``seg_map_path`` into ``gt_seg_map``, as class numbers and the ignored label.

    Raises:
        DataError: a file that cannot be read, a label that is no class (later it would be an
            index out of bounds), or a label map and an image of different sizes.
    """

    def __init__(self, dataset: DatasetSpec) -> None:
        self.num_classes = len(dataset.classes)
        self.table = label_table(dataset)
        self.colors = make_color_table(dataset)
        self.dtype = np.uint8 if ignored_label(dataset) < 256 else np.uint16

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the label map, (height, width), uint8, or uint16 for more than 255 classes."""
        path = results["seg_map_path"]
        with _hint_to_check():
            raw = read_label_map(Path(path), colors=self.colors)
        if raw.shape != results["ori_shape"]:
            raise DataError(
                f"{path}: has the shape {raw.shape}, its image {results['ori_shape']}. {CHECK}"
            )
        classes = map_to_classes(raw, self.table)
        invalid = raw[classes == NO_LABEL]
        if invalid.size:
            raise DataError(
                f"{path}: label out of range: {int(invalid[0])} ({invalid.size} pixels are none "
                f"of the {self.num_classes} classes). {CHECK}"
            )
        results["gt_seg_map"] = classes.astype(self.dtype)
        results["seg_fields"].append("gt_seg_map")
        return results


class LoadImageLabels:
    """Add the classes of an image, without the background, as ``image_labels``.

    If they come from the label map, nothing else of the label map is kept.
    """

    def __init__(self, dataset: DatasetSpec, root: Path) -> None:
        self.labels = ImageLabels(dataset, root)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the image-level labels: class numbers from 1, ascending."""
        with _hint_to_check():
            results["image_labels"] = self.labels.find_classes(
                Path(results["img_path"]), Path(results["seg_map_path"])
            )
        return results


def _transform_message(transform: Any, results: dict[str, Any], error: cv2.error) -> str:
    """The error message for an image that a transform cannot change, e.g. a very thin one."""
    height, width = results["img"].shape[:2]
    reason = " ".join(str(error.err).split())
    return (
        f"{results['img_path']}: {type(transform).__name__} fails for its {width}×{height} pixels "
        f"({reason}), as a side would have no pixel. Increase augmentation.scale or "
        "evaluation.scale, or remove the image."
    )


@contextlib.contextmanager
def _hint_to_check() -> Iterator[None]:
    """Add to the error about one file how to find all such files."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error} {CHECK}") from error
