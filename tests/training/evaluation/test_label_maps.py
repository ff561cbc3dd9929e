"""Label maps of 16 bits, sparse and cut ones: the way from the file to the confusion counts."""

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

from protoseg.config.fields import plain
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.datasets.check import check
from protoseg.datasets.folder_dataset import LoadLabels, SegmentationFolder
from protoseg.errors import DataError
from protoseg.training.build.components import build_components
from protoseg.training.build.config import build_config
from protoseg.training.evaluation import confusion
from protoseg.training.run import evaluate
from protoseg.training.signals import StopRequest
from training.small import small_spec

NARROW = 6
IDS = (1089, 255, 3156, 6, 256, 2978)
"""Label values of the wide twin's classes; 255 and 256 among them on purpose."""
CLASSES = (299, 255, 0, 254, 256, 7)
"""Their class numbers among the wide twin's 300."""


def wide_dataset(narrow: DatasetSpec) -> DatasetSpec:
    """A data set of 300 classes whose files hold raw ids up to 3999, 0 for nothing."""
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
def twins(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> tuple[Path, Path]:
    """Roots of two data sets of the same images: labels of 8 bits, and of 16 under other ids.

    A large part of each image is ignored, so that what counts as a class in a crop matters.
    """
    place = tmp_path_factory.mktemp("twins")
    roots = place / "narrow", place / "wide"
    ids = np.zeros(256, np.uint16)
    ids[: len(IDS)] = IDS
    for split in ("train", "val"):
        for root in roots:
            for kind in ("images", "annotations"):
                (root / kind / split).mkdir(parents=True)
        for path in sorted((shapes_root / "images" / split).iterdir()):
            labels = np.array(Image.open(shapes_root / "annotations" / split / path.name))
            labels[:, 10:] = 255
            for root, values in zip(roots, (labels, ids[labels]), strict=True):
                (root / "images" / split / path.name).write_bytes(path.read_bytes())
                Image.fromarray(values).save(root / "annotations" / split / path.name)
    return roots


def spec_of(narrow: bool, *overrides: str) -> RunSpec:
    strong = (
        "augmentation.cat_max_ratio=0.6",
        "augmentation.ratio_range=[0.5,1.5]",
        "augmentation.crop_size=[40,44]",
    )
    spec = small_spec(*strong, *overrides)
    plain_set = dataclasses.replace(
        spec.dataset, name="narrow", generator={}, counts={}, digest="unpinned"
    )
    return dataclasses.replace(spec, dataset=plain_set if narrow else wide_dataset(plain_set))


def to_wide(labels: np.ndarray) -> np.ndarray:
    """Classes of the narrow twin as those of the wide one, 255 as 65535."""
    table = np.full(256, 65535)
    table[:NARROW] = CLASSES
    return table[labels]


def test_sixteen_bits_train_on_what_eight_bits_would(twins: tuple[Path, Path]) -> None:
    """Loading, resizing, the choice of crops, flips and padding: the same pixels and classes."""
    batches, models = [], []
    for root, narrow in zip(twins, (True, False), strict=True):
        spec = spec_of(narrow)
        check(root, spec.dataset)
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
            np.testing.assert_array_equal(to_wide(labels), b.gt_sem_seg.data.numpy())
            padded += a.img_shape != (40, 44)
            redrawn += (labels == 255).mean() > 0.6
    assert padded > 5, "too few samples were padded to show anything"
    assert redrawn > 5, "too few crops with mostly ignored pixels to show anything"


def test_evaluation_counts_what_eight_bits_would(twins: tuple[Path, Path]) -> None:
    """The same predictions, under other class numbers, give the same counts."""
    found = []
    for root, narrow in zip(twins, (True, False), strict=True):
        spec = spec_of(narrow)
        parts = build_components(build_config(spec, data_root=root), None)
        numbers = torch.arange(NARROW) if narrow else torch.tensor(CLASSES)

        def predict(logits: torch.Tensor, numbers: torch.Tensor = numbers) -> torch.Tensor:
            """Six columns of the image, each of one class, whatever the network says."""
            scores = torch.zeros_like(logits)
            width = -(-logits.shape[3] // NARROW)
            for column in range(logits.shape[3]):
                scores[:, numbers[column // width], :, column] = 1
            return scores

        head = parts.model.decode_head
        original = head.predict
        head.predict = lambda *a, original=original, predict=predict: predict(original(*a))
        overall, per_class, *_ = evaluate(parts, spec, StopRequest())
        found.append((overall, [row for row in per_class if row["iou"] is not None]))
    (narrow_overall, narrow_rows), (wide_overall, wide_rows) = found
    assert narrow_overall == pytest.approx(wide_overall)
    assert narrow_overall["aacc"] > 0
    by_name = {row["name"]: row for row in wide_rows}
    assert len(by_name) == len(narrow_rows) > 3
    names = spec_of(True).dataset.classes
    for row in narrow_rows:
        twin = by_name[f"c{CLASSES[names.index(row['name'])]}"]
        assert (twin["iou"], twin["pixels"]) == (pytest.approx(row["iou"]), row["pixels"])


def test_confusion_counts_of_many_classes_survive_packing(tmp_path: Path) -> None:
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
    np.testing.assert_array_equal(confusion.total(counter.results, count), expected)
    path = tmp_path / "counts.npz"
    path.write_bytes(confusion.pack(counter.results, count))
    with np.load(path) as file:
        again = np.zeros(count * count, np.int64)
        np.add.at(again, file["cell"], file["count"])
    np.testing.assert_array_equal(again.reshape(count, count), expected)


@pytest.fixture
def one(tmp_path: Path) -> Callable[..., SegmentationFolder]:
    """A data set of one image with the given label map."""

    def make(labels: np.ndarray, **settings: Any) -> SegmentationFolder:
        for kind in ("images", "annotations"):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((*labels.shape, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images/train/a.png")
        Image.fromarray(labels).save(tmp_path / "annotations/train/a.png")
        spec = DatasetSpec("toy", "unpinned", image_suffix=".png", **settings)
        load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
        return SegmentationFolder(str(tmp_path), plain(spec), "train", load)

    return make


def test_a_wide_label_out_of_range_is_named(one: Callable[..., SegmentationFolder]) -> None:
    classes = tuple(map(str, range(300)))
    labels = np.array([[0, 299], [65535, 300]], np.uint16)
    dataset = one(labels, classes=classes, ignore_index=65535)
    with pytest.raises(DataError, match=r"a\.png: label out of range: 300 \(1 pixels"):
        dataset[0]
    Image.fromarray(labels[:1]).save(dataset.samples[0].annotation)
    with pytest.raises(DataError, match=r"a\.png: has the shape \(1, 2\), its image \(2, 2\)"):
        dataset[0]


@pytest.mark.parametrize("reduce_zero_label", [False, True])
def test_eight_bits_are_read_as_mmseg_reads_them(
    one: Callable[..., SegmentationFolder], reduce_zero_label: bool
) -> None:
    labels = np.random.default_rng(0).choice([*range(1, 150), 255], (20, 30)).astype(np.uint8)
    labels[0, :9] = 0
    classes = tuple(map(str, range(150)))
    dataset = one(labels, classes=classes, reduce_zero_label=reduce_zero_label)
    (ours,) = (t for t in dataset.transforms if isinstance(t, LoadLabels))
    sample = {
        "seg_map_path": str(dataset.samples[0].annotation),
        "ori_shape": labels.shape,
        "reduce_zero_label": reduce_zero_label,
    }
    found = ours({**sample, "seg_fields": []})
    expected = LoadAnnotations().transform({**sample, "seg_fields": []})
    np.testing.assert_array_equal(found["gt_seg_map"], expected["gt_seg_map"])
    assert found["gt_seg_map"].dtype == expected["gt_seg_map"].dtype
    assert found["seg_fields"] == expected["seg_fields"]
