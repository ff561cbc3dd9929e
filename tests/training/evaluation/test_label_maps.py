"""Label maps of 16 bits, from the file to the confusion counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from protoseg.config.fields import to_plain
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.datasets.check import check_data_set
from protoseg.datasets.folder_dataset import LoadLabels, SegmentationFolder
from protoseg.errors import DataError
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation import confusion
from protoseg.training.evaluation.evaluate import evaluate
from protoseg.training.signals import StopRequest
from training.small import small_spec

NARROW = 6
IDS = (1089, 255, 3156, 6, 256, 2978)
"""Label values in the wide data set; 255 and 256 are edge cases of 8 bits."""
CLASSES = (299, 255, 0, 254, 256, 7)
"""The class numbers of `IDS` among the 300 classes of the wide data set."""


def make_wide_dataset(narrow: DatasetSpec) -> DatasetSpec:
    """A data set of 300 classes with label values up to 3999, of which 0 is ignored."""
    others = iter(i for i in range(1, 4000) if i not in IDS)
    labels = [next(others) for _ in range(300)]
    for number, value in zip(CLASSES, IDS, strict=True):
        labels[number] = value
    return dataclasses.replace(
        narrow,
        name="wide",
        classes=tuple(f"c{i}" for i in range(300)),
        labels=tuple(labels),
        label_count=4000,
        ignore_index=0,
        generator={},
        counts={},
        digest="unpinned",
    )


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> tuple[Path, Path]:
    """Roots of two data sets with the same images: labels of 8 bits, and of 16 bits.

    Most of each image is ignored, so that the selection of crops depends on ignored pixels.
    """
    parent = tmp_path_factory.mktemp("roots")
    roots = parent / "narrow", parent / "wide"
    ids = np.zeros(256, np.uint16)
    ids[: len(IDS)] = IDS
    for split in ("train", "val"):
        for root in roots:
            for folder in ("images", "annotations"):
                (root / folder / split).mkdir(parents=True)
        for path in sorted((shapes_root / "images" / split).iterdir()):
            labels = np.array(Image.open(shapes_root / "annotations" / split / path.name))
            labels[:, 10:] = 255
            for root, values in zip(roots, (labels, ids[labels]), strict=True):
                (root / "images" / split / path.name).write_bytes(path.read_bytes())
                Image.fromarray(values).save(root / "annotations" / split / path.name)
    return roots


def spec_of(narrow: bool, *overrides: str) -> RunSpec:
    augmentation = (
        "augmentation.cat_max_ratio=0.6",
        "augmentation.ratio_range=[0.5,1.5]",
        "augmentation.crop_size=[40,44]",
    )
    spec = small_spec(*augmentation, *overrides)
    narrow_dataset = dataclasses.replace(
        spec.dataset, name="narrow", generator={}, counts={}, digest="unpinned"
    )
    dataset = narrow_dataset if narrow else make_wide_dataset(narrow_dataset)
    return dataclasses.replace(spec, dataset=dataset)


def map_to_wide(labels: np.ndarray) -> np.ndarray:
    """Map class numbers of the narrow data set to those of the wide one, and 255 to 65535."""
    table = np.full(256, 65535)
    table[:NARROW] = CLASSES
    return table[labels]


def test_training_batches_of_16_bits_equal_those_of_8_bits(roots: tuple[Path, Path]) -> None:
    """Loading, resizing, crops, flips and padding give the same pixels and classes."""
    batches, models = [], []
    for root, narrow in zip(roots, (True, False), strict=True):
        spec = spec_of(narrow)
        check_data_set(root, spec.dataset)
        config = build_config(spec, data_root=root)
        loader = Runner.build_dataloader(config.train_dataloader, seed=0)
        batches.append(list(loader))
        models.append(build_components(config, None).model)
    padded = redrawn = 0
    for first, second in zip(*batches, strict=True):
        ready = [
            model.data_preprocessor(b, True)
            for model, b in zip(models, (first, second), strict=True)
        ]
        assert torch.equal(ready[0]["inputs"], ready[1]["inputs"])
        for a, b in zip(ready[0]["data_samples"], ready[1]["data_samples"], strict=True):
            labels = a.gt_sem_seg.data.numpy()
            np.testing.assert_array_equal(map_to_wide(labels), b.gt_sem_seg.data.numpy())
            padded += a.img_shape != (40, 44)
            redrawn += (labels == 255).mean() > 0.6
    assert padded > 5, "too few padded samples for this test"
    assert redrawn > 5, "too few crops with mostly ignored pixels for this test"


def test_evaluation_of_16_bits_equals_that_of_8_bits(roots: tuple[Path, Path]) -> None:
    """The same predictions, with other class numbers, give the same counts."""
    results = []
    for root, narrow in zip(roots, (True, False), strict=True):
        spec = spec_of(narrow)
        parts = build_components(build_config(spec, data_root=root), None)
        numbers = torch.arange(NARROW) if narrow else torch.tensor(CLASSES)

        def predict(logits: torch.Tensor, numbers: torch.Tensor = numbers) -> torch.Tensor:
            """Predict six vertical stripes of one class each, independent of the network."""
            scores = torch.zeros_like(logits)
            width = -(-logits.shape[3] // NARROW)
            for column in range(logits.shape[3]):
                scores[:, numbers[column // width], :, column] = 1
            return scores

        head = parts.model.decode_head
        original = head.predict
        head.predict = lambda *a, original=original, predict=predict: predict(original(*a))
        overall, per_class, *_ = evaluate(parts, spec, StopRequest())
        results.append((overall, [row for row in per_class if row["iou"] is not None]))
    (narrow_overall, narrow_rows), (wide_overall, wide_rows) = results
    assert narrow_overall == pytest.approx(wide_overall)
    assert narrow_overall["aacc"] > 0
    by_name = {row["name"]: row for row in wide_rows}
    assert len(by_name) == len(narrow_rows) > 3
    names = spec_of(True).dataset.classes
    for row in narrow_rows:
        wide_row = by_name[f"c{CLASSES[names.index(row['name'])]}"]
        assert (wide_row["iou"], wide_row["pixels"]) == (pytest.approx(row["iou"]), row["pixels"])


def test_confusion_counts_of_many_classes_can_be_packed(tmp_path: Path) -> None:
    count = 847
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 254, 255, 256, 846, 65535], (30, 40))
    guess = rng.choice([0, 255, 846], (30, 40))
    counter = confusion.ConfusionCounts(count)
    tensors = [{"data": torch.from_numpy(labels)} for labels in (truth, guess)]
    counter.process(None, [{"gt_sem_seg": tensors[0], "pred_sem_seg": tensors[1], "sample_idx": 0}])
    expected = np.zeros((count, count), np.int64)
    for t, g in zip(truth.ravel(), guess.ravel(), strict=True):
        if t != 65535:
            expected[t, g] += 1
    np.testing.assert_array_equal(confusion.sum_counts(counter.results, count), expected)
    path = tmp_path / "counts.npz"
    path.write_bytes(confusion.pack_counts(counter.results, count))
    with np.load(path) as file:
        unpacked = np.zeros(count * count, np.int64)
        np.add.at(unpacked, file["cell"], file["count"])
    np.testing.assert_array_equal(unpacked.reshape(count, count), expected)


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., SegmentationFolder]:
    """A function that makes a data set of one image with a given label map."""

    def make(labels: np.ndarray, **settings: Any) -> SegmentationFolder:
        for folder in ("images", "annotations"):
            (tmp_path / folder / "train").mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((*labels.shape, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images/train/a.png")
        Image.fromarray(labels).save(tmp_path / "annotations/train/a.png")
        spec = DatasetSpec("toy", "unpinned", image_suffix=".png", **settings)
        load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
        return SegmentationFolder(str(tmp_path), to_plain(spec), "train", load)

    return make


def test_a_16_bit_label_out_of_range_is_reported(
    make_dataset: Callable[..., SegmentationFolder],
) -> None:
    classes = tuple(map(str, range(300)))
    labels = np.array([[0, 299], [65535, 300]], np.uint16)
    dataset = make_dataset(labels, classes=classes, ignore_index=65535)
    with pytest.raises(DataError, match=r"a\.png: label out of range: 300 \(1 pixels"):
        dataset[0]
    Image.fromarray(labels[:1]).save(dataset.samples[0].annotation)
    with pytest.raises(DataError, match=r"a\.png: has the shape \(1, 2\), its image \(2, 2\)"):
        dataset[0]


@pytest.mark.parametrize("reduce_zero_label", [False, True])
def test_labels_of_8_bits_equal_those_of_mmsegs_loader(
    make_dataset: Callable[..., SegmentationFolder], reduce_zero_label: bool
) -> None:
    labels = np.random.default_rng(0).choice([*range(1, 150), 255], (20, 30)).astype(np.uint8)
    labels[0, :9] = 0
    classes = tuple(map(str, range(150)))
    dataset = make_dataset(labels, classes=classes, reduce_zero_label=reduce_zero_label)
    (loader,) = (t for t in dataset.transforms if isinstance(t, LoadLabels))
    sample = {
        "seg_map_path": str(dataset.samples[0].annotation),
        "ori_shape": labels.shape,
        "reduce_zero_label": reduce_zero_label,
    }
    actual = loader({**sample, "seg_fields": []})
    expected = LoadAnnotations().transform({**sample, "seg_fields": []})
    np.testing.assert_array_equal(actual["gt_seg_map"], expected["gt_seg_map"])
    assert actual["gt_seg_map"].dtype == expected["gt_seg_map"].dtype
    assert actual["seg_fields"] == expected["seg_fields"]
