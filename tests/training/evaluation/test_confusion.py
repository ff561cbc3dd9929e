"""Confusion counts and metrics compared with mmseg's IoUMetric, and the packed counts."""

from __future__ import annotations

import io
import time
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from protoseg.training.evaluation import confusion

C = 7
Images = list[tuple[np.ndarray, np.ndarray]]


def random_images(seed: int, *, classes: Any = range(C), count: int = 5) -> Images:
    """(truth, guess) of images of different sizes; half of the guesses are correct."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        size = tuple(rng.integers(3, 40, 2))
        truth = rng.choice([*classes, 255], size)
        guess = np.where(rng.random(size) < 0.5, truth, rng.choice([*classes], size))
        images.append((truth, np.where(guess == 255, 0, guess)))
    return images


def make_sample(truth: np.ndarray, guess: np.ndarray, index: int) -> dict[str, Any]:
    sample = SegDataSample(metainfo={"sample_idx": index})
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(truth)[None])
    sample.pred_sem_seg = PixelData(data=torch.from_numpy(guess)[None])
    return sample.to_dict()


def count_images(images: Images) -> confusion.ConfusionCounts:
    counter = confusion.ConfusionCounts(C)
    for index, (truth, guess) in enumerate(images):
        counter.process({}, [make_sample(truth, guess, index)])
    counter.evaluate(len(images))
    return counter


def compute_with_mmseg(images: Images) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Overall and per-class values of mmseg's metric, in percent."""
    metric = IoUMetric(ignore_index=255, iou_metrics=["mIoU"])
    metric.dataset_meta = {"classes": [str(c) for c in range(C)]}
    for index, (truth, guess) in enumerate(images):
        metric.process({}, [make_sample(truth, guess, index)])
    areas = [torch.stack(part).sum(0) for part in zip(*metric.results, strict=True)]
    values = metric.total_area_to_metrics(*areas, metrics=["mIoU"])
    mean = {key: 100 * float(np.nanmean(value)) for key, value in values.items()}
    per_class = {key: 100 * np.asarray(values[key]) for key in ("IoU", "Acc")}
    return mean, per_class


@pytest.mark.parametrize("classes", [range(C), (0, 2, 5), (3,)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_metrics_equal_those_of_mmseg(seed: int, classes: Any) -> None:
    images = random_images(seed, classes=classes)
    counter = count_images(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns about classes without pixels
        mean, mmseg_per_class = compute_with_mmseg(images)
    names = [str(c) for c in range(C)]
    overall, per_class = confusion.summarise_matrix(confusion.sum_counts(counter.images, C), names)
    assert overall["miou"] == pytest.approx(mean["IoU"], rel=1e-6)
    assert overall["macc"] == pytest.approx(mean["Acc"], rel=1e-6)
    assert overall["aacc"] == pytest.approx(mean["aAcc"], rel=1e-6)
    for c, row in enumerate(per_class):
        assert row["name"] == str(c)
        for key in ("iou", "acc"):
            expected = mmseg_per_class[{"iou": "IoU", "acc": "Acc"}[key]][c]
            if np.isnan(expected):
                assert row[key] is None
            else:
                assert row[key] == pytest.approx(expected, rel=1e-6)


def test_evaluate_returns_the_overall_values() -> None:
    images = random_images(4)
    counter = confusion.ConfusionCounts(C)
    for index, (truth, guess) in enumerate(images):
        counter.process({}, [make_sample(truth, guess, index)])
    overall, _ = confusion.summarise_matrix(confusion.sum_counts(count_images(images).images, C))
    assert counter.evaluate(len(images)) == overall


def test_the_metrics_of_a_small_matrix() -> None:
    # Class 0: 3 hits, 1 predicted as class 1. Class 1: 2 hits. Class 2: predicted. Class 3: absent.
    matrix = np.array([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    overall, per_class = confusion.summarise_matrix(matrix, ["a", "b", "c", "d"])
    assert per_class == [
        {"name": "a", "iou": 75.0, "acc": 75.0, "pixels": 4},
        {"name": "b", "iou": 40.0, "acc": 50.0, "pixels": 4},
        {"name": "c", "iou": 0.0, "acc": None, "pixels": 0},
        {"name": "d", "iou": None, "acc": None, "pixels": 0},
    ]
    assert overall == {
        "miou": pytest.approx((75 + 40 + 0) / 3),
        "macc": pytest.approx((75 + 50) / 2),
        "aacc": pytest.approx(100 * 5 / 8),
    }


def test_metrics_without_labelled_pixels_are_zero() -> None:
    image = (np.full((4, 4), 255), np.zeros((4, 4), np.int64))
    counter = count_images([image])
    overall, per_class = confusion.summarise_matrix(
        confusion.sum_counts(counter.images, C), ["x"] * C
    )
    assert overall == {"miou": 0.0, "macc": 0.0, "aacc": 0.0}
    assert all(row["iou"] is None and row["pixels"] == 0 for row in per_class)


def test_the_counts_of_each_image_are_kept_in_order() -> None:
    images = random_images(1, count=6)
    counter = confusion.ConfusionCounts(C)
    for index in (4, 0, 5, 2, 1, 3):
        counter.process({}, [make_sample(*images[index], index)])
    counter.evaluate(6)
    assert [number for number, _, _ in counter.images] == list(range(6))
    for (_, cells, counts), (truth, guess) in zip(counter.images, images, strict=True):
        matrix = np.zeros((C, C), int)
        for t, g in zip(truth.ravel(), guess.ravel(), strict=True):
            if t != 255:
                matrix[t, g] += 1
        assert np.array_equal(matrix.ravel()[cells], counts)
        assert counts.sum() == matrix.sum()
        assert counts.min() > 0


def unpack_counts(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return dict(file)


def test_packed_counts_can_be_unpacked() -> None:
    images = [*random_images(2), (np.full((3, 3), 255), np.zeros((3, 3), int))]
    counter = count_images(images)
    arrays = unpack_counts(confusion.pack_counts(counter.images, C))
    assert (int(arrays["num_classes"]), int(arrays["num_images"])) == (C, 6)
    matrix = np.zeros(C * C, np.int64)
    np.add.at(matrix, arrays["cell"], arrays["count"])
    assert np.array_equal(matrix.reshape(C, C), confusion.sum_counts(counter.images, C))
    for number, cells, counts in counter.images:
        of_image = arrays["image"] == number
        assert np.array_equal(arrays["cell"][of_image], cells)
        assert np.array_equal(arrays["count"][of_image], counts)


def test_equal_counts_give_equal_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = count_images(random_images(3)).images
    first = confusion.pack_counts(images, C)
    later = time.time() + 1e8
    monkeypatch.setattr(time, "time", lambda: later)
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        archive.writestr("x", b"")
        assert archive.infolist()[0].date_time[0] >= 2028, "a zip archive holds the current time"
    assert confusion.pack_counts(images, C) == first
    assert confusion.hash_bytes(first) != confusion.hash_bytes(
        confusion.pack_counts(images[:-1], C)
    )
