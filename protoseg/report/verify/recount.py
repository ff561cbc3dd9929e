"""Metrics computed anew from the per-image counts of a record.

Shares no code with `protoseg.training.evaluation.confusion`, which wrote the record, so that an
error there is not repeated here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from protoseg.report.metrics import number

TOLERANCE = 1e-9
"""Percent points: the sums are whole numbers, only a division and a mean are rounded."""


class CountsError(ValueError):
    """A file of counts that can not be what it says."""


def read_counts(path: Path) -> tuple[pd.DataFrame, int, int]:
    """(image, truth, guess, pixels) a row, the number of classes, and that of images.

    Raises:
        CountsError: not such a file, or its parts contradict each other.
    """
    names = ("image", "cell", "count", "num_classes", "num_images")
    try:
        with np.load(path, allow_pickle=False) as file:
            image, cell, count, classes, images = (file[name] for name in names)
        classes, images = int(classes), int(images)
    except Exception as error:  # a damaged archive fails in every way that zip and numpy know
        raise CountsError(f"can not be read: {error or type(error).__name__}") from error
    if not image.shape == cell.shape == count.shape or image.ndim != 1:
        raise CountsError("its columns are not of one length")
    if classes < 1 or not np.all((cell >= 0) & (cell < classes**2)):
        raise CountsError(f"it counts cells outside its {classes}×{classes} matrix")
    if not np.all(count > 0):
        raise CountsError("it holds counts that are not positive")
    frame = pd.DataFrame(
        {"image": image, "truth": cell // classes, "guess": cell % classes, "pixels": count}
    ).astype("int64")
    if frame.duplicated(["image", "truth", "guess"]).any():
        raise CountsError("it counts a cell of an image twice")
    if frame["image"].nunique() > images:
        raise CountsError(f"it holds more images than the {images} it names")
    return frame, classes, images


def recount(frame: pd.DataFrame, classes: int) -> tuple[dict[str, float], pd.DataFrame]:
    """Overall metrics in percent, and per class: iou, acc (NaN where undefined), pixels.

    IoU = TP / (TP + FP + FN), Acc = TP / (TP + FN); means over the classes that have one.
    """
    every = range(classes)

    def pixels(part: pd.DataFrame, by: str) -> pd.Series:
        return part.groupby(by)["pixels"].sum().reindex(every, fill_value=0)

    right = pixels(frame[frame["truth"] == frame["guess"]], "truth")
    truth, guess = pixels(frame, "truth"), pixels(frame, "guess")
    missed, invented = truth - right, guess - right
    found = pd.DataFrame(
        {
            "iou": 100.0 * right / (right + missed + invented).where(lambda n: n > 0),
            "acc": 100.0 * right / truth.where(truth > 0),
            "pixels": truth,
        }
    )
    means = {"miou": found["iou"].mean(), "macc": found["acc"].mean()}  # pandas leaves NaN out
    means["aacc"] = 100.0 * right.sum() / truth.sum() if truth.sum() else 0.0
    return {key: 0.0 if math.isnan(v) else float(v) for key, v in means.items()}, found


def _classes(spec: dict[str, Any]) -> list[str]:
    dataset = spec.get("dataset")
    names = dataset.get("classes") if isinstance(dataset, dict) else None
    return names if isinstance(names, list) else []


def differences(record: dict[str, Any], path: Path) -> tuple[list[tuple[str, str]], int]:
    """(what, sentence) of each number that does not follow from the counts, and how many do.

    Raises:
        CountsError: the counts can not be read.
    """
    frame, classes, images = read_counts(path)
    overall, found = recount(frame, classes)
    wrong: list[tuple[str, str]] = []
    names = _classes(record["spec"])
    if len(names) != classes:
        return [("classes", f"the counts are of {classes} classes, the spec names {len(names)}")], 0
    expected: dict[str, tuple[Any, float | None]] = {}
    for key, mean in {**overall, "images": images}.items():
        expected[key] = record["metrics"].get(key), mean
    entries = record["per_class"]
    if [isinstance(e, dict) and e.get("name") for e in entries] != names:
        wrong.append(("per_class", "its classes are not those of the spec, in their order"))
        entries = []
    for entry, row in zip(entries, found.itertuples(), strict=False):
        for key in ("iou", "acc", "pixels"):
            value = float(getattr(row, key))
            due = None if math.isnan(value) else value
            expected[f"{key} of {entry['name']}"] = entry.get(key), due
    for what, (said, due) in expected.items():
        if due is None:
            same = said is None
        else:
            read = number({"value": said}, "value")
            same = read is not None and abs(read - due) <= TOLERANCE
        if not same:
            given = "none, for no pixel is of it" if due is None else repr(due)
            wrong.append((what, f"the record says {said!r}, its counts give {given}"))
    return wrong, len(expected)
