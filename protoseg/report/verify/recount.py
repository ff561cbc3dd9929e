"""Recomputes the metrics of a record from its confusion counts per image.

It shares no code with `protoseg.training.evaluation.confusion`, which computes the recorded values,
nor with `protoseg.report.statistics.counts`: an error there is not repeated here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from protoseg.report.metrics import read_number

TOLERANCE = 1e-9
"""Percentage points. The sums are integers; only a division and a mean are rounded."""


class CountsError(ValueError):
    """A file of confusion counts is damaged or contradicts itself."""


def read_counts(path: Path) -> tuple[pd.DataFrame, int, int]:
    """Read rows (image, truth, guess, pixels), the number of classes and the number of images.

    Raises:
        CountsError: the file is damaged, or its parts contradict each other.
    """
    names = ("image", "cell", "count", "num_classes", "num_images")
    try:
        with np.load(path, allow_pickle=False) as file:
            image, cell, count, classes, images = (file[name] for name in names)
        classes, images = int(classes), int(images)
    except Exception as error:  # a damaged archive can raise any error of zipfile or numpy
        raise CountsError(f"cannot be read: {error or type(error).__name__}") from error
    if not image.shape == cell.shape == count.shape or image.ndim != 1:
        raise CountsError("its columns differ in length")
    if classes < 1 or not np.all((cell >= 0) & (cell < classes**2)):
        raise CountsError(f"it has cells outside its {classes}×{classes} matrix")
    if not np.all(count > 0):
        raise CountsError("it has counts that are not positive")
    frame = pd.DataFrame(
        {"image": image, "truth": cell // classes, "guess": cell % classes, "pixels": count}
    ).astype("int64")
    if frame.duplicated(["image", "truth", "guess"]).any():
        raise CountsError("it has two counts for one cell of an image")
    if frame["image"].nunique() > images:
        raise CountsError(f"it has counts of more than its {images} images")
    return frame, classes, images


def recount(frame: pd.DataFrame, classes: int) -> tuple[dict[str, float], pd.DataFrame]:
    """Compute the overall metrics, and iou, acc and pixels per class, all in percent but pixels.

    IoU = TP / (TP + FP + FN), Acc = TP / (TP + FN); NaN where undefined. Means are taken over the
    classes where the value is defined.
    """
    class_indices = range(classes)

    def pixels(part: pd.DataFrame, by: str) -> pd.Series:
        return part.groupby(by)["pixels"].sum().reindex(class_indices, fill_value=0)

    correct = pixels(frame[frame["truth"] == frame["guess"]], "truth")
    truth, guess = pixels(frame, "truth"), pixels(frame, "guess")
    missed, false = truth - correct, guess - correct
    per_class = pd.DataFrame(
        {
            "iou": 100.0 * correct / (correct + missed + false).where(lambda n: n > 0),
            "acc": 100.0 * correct / truth.where(truth > 0),
            "pixels": truth,
        }
    )
    # The mean of pandas leaves out NaN.
    means = {"miou": per_class["iou"].mean(), "macc": per_class["acc"].mean()}
    means["aacc"] = 100.0 * correct.sum() / truth.sum() if truth.sum() else 0.0
    return {key: 0.0 if math.isnan(v) else float(v) for key, v in means.items()}, per_class


def recount_levels(frame: pd.DataFrame, paths: Sequence[Sequence[str]]) -> dict[str, float | None]:
    """Compute the metrics of the levels of a tree, and the mean tree distance of a mistake.

    Args:
        frame: counts of classes, from `read_counts`.
        paths: of each class, the names of its groups from the highest one down to itself.

    Returns:
        ``miou@2``, ... in percent, and ``mistake_distance`` in edges; None without a wrong pixel.
    """
    computed: dict[str, float | None] = {}
    for level in range(2, len(paths[0]) + 1):
        groups = list(dict.fromkeys(path[-level] for path in paths))
        numbers = pd.Series([groups.index(path[-level]) for path in paths])
        of_level = frame.assign(
            truth=frame["truth"].map(numbers), guess=frame["guess"].map(numbers)
        )
        overall, per_group = recount(of_level, len(groups))
        present = per_group["iou"][per_group["pixels"] > 0]
        overall["miou_present"] = float(present.mean()) if len(present) else 0.0
        computed |= {f"{name}@{level}": value for name, value in overall.items()}
    total = pixels = 0
    wrong = frame[frame["truth"] != frame["guess"]]
    for truth, guess, count in zip(wrong["truth"], wrong["guess"], wrong["pixels"], strict=True):
        # Two edges for each level on which the two classes have different groups.
        total += 2 * sum(a != b for a, b in zip(paths[truth], paths[guess], strict=True)) * count
        pixels += count
    computed["mistake_distance"] = float(total / pixels) if pixels else None
    return computed


def _class_names(spec: dict[str, Any]) -> list[str]:
    dataset = spec.get("dataset")
    names = dataset.get("classes") if isinstance(dataset, dict) else None
    return names if isinstance(names, list) else []


def _expect_points(points: Any, overall: dict[str, float]) -> dict[str, tuple[Any, float | None]]:
    """The recorded and expected numbers of the evaluations on the way.

    Only the last one has counts; the mIoU of each follows from its IoU per class.
    """
    expected: dict[str, tuple[Any, float | None]] = {}
    for point in (point for point in points if isinstance(point, dict)):
        values = [v for v in point.get("iou") or () if isinstance(v, int | float)]
        average = float(np.mean(values)) if values else 0.0
        expected[f"miou at iteration {point.get('iteration')}"] = point.get("miou"), average
    last = points[-1] if points and isinstance(points[-1], dict) else {}
    for key, value in overall.items() if points else ():
        expected[f"{key} of the last evaluation"] = last.get(key), value
    return expected


def find_wrong_numbers(record: dict[str, Any], path: Path) -> tuple[list[tuple[str, str]], int]:
    """Find the recorded numbers that do not follow from the confusion counts.

    Returns:
        (name, sentence) of each wrong number, and how many numbers were compared.

    Raises:
        CountsError: the counts cannot be read.
    """
    frame, classes, images = read_counts(path)
    overall, per_class = recount(frame, classes)
    wrong: list[tuple[str, str]] = []
    names = _class_names(record["spec"])
    if len(names) != classes:
        sentence = f"the counts have {classes} classes, the spec has {len(names)}"
        return [("classes", sentence)], 0
    expected: dict[str, tuple[Any, float | None]] = {}
    for key, mean in {**overall, "images": images}.items():
        expected[key] = record["metrics"].get(key), mean
    entries = record["per_class"]
    if [isinstance(e, dict) and e.get("name") for e in entries] != names:
        wrong.append(
            ("per_class", "its classes differ from those of the spec, or are in another order")
        )
        entries = []
    for entry, row in zip(entries, per_class.itertuples(), strict=False):
        for key in ("iou", "acc", "pixels"):
            value = float(getattr(row, key))
            recomputed = None if math.isnan(value) else value
            expected[f"{key} of {entry['name']}"] = entry.get(key), recomputed
    expected |= _expect_points(record.get("curve", ()), overall)
    evaluation = record["spec"].get("evaluation")
    if isinstance(evaluation, dict) and evaluation.get("every") and not record.get("curve"):
        wrong.append(("curve", "evaluation.every is set, but the record has no metrics on the way"))
    for name, (recorded, recomputed) in expected.items():
        if recomputed is None:
            equal = recorded is None
        else:
            value_in_record = read_number({"value": recorded}, "value")
            equal = value_in_record is not None and abs(value_in_record - recomputed) <= TOLERANCE
        if not equal:
            right = "none (no pixel of the class)" if recomputed is None else repr(recomputed)
            wrong.append((name, f"the record has {recorded!r}, its counts give {right}"))
    return wrong, len(expected)
