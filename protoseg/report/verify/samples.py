"""Checks published samples: digests, model, size, and their numbers against the record's counts."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from protoseg.errors import ProtosegError
from protoseg.report.statistics.counts import read_counts
from protoseg.report.verify.check import Check
from protoseg.runs.record import read_record
from protoseg.runs.results.samples import (
    PUBLISHED_BYTES,
    SAMPLES,
    Array,
    Samples,
    check_origin,
    read_samples,
)
from protoseg.runs.results.samples_reduction import PUBLISHED

TOLERANCE = 1e-9
"""Largest difference between two computations of a mIoU, in percent."""


def check_samples(results: Path, only: Collection[str] | None = None) -> Check:
    """Check the samples of a folder of results against the records and their counts.

    Label maps and embeddings cannot be computed again without the model: their digest is checked.

    Args:
        results: the folder that contains ``samples`` and ``records``.
        only: run ids to check; None checks all.
    """
    check = Check(SAMPLES, "for pictures: digests, models, sizes, and recomputed numbers")
    for path in sorted((results / SAMPLES).iterdir()):
        file = f"{SAMPLES}/{path.name}"
        if path.suffix != ".npz":
            if only is None and not path.name.startswith("."):
                check.problem(file, "is no file of samples.")
            continue
        if only is not None and path.stem not in only:
            continue
        check.count += 1
        try:
            samples = read_samples(path)
            record = read_record(results / "records" / f"{path.stem}.json")
            check_origin(samples, record, path)
            problems = find_problems(samples, results / "records" / f"{path.stem}.npz")
        except FileNotFoundError:
            check.problem(file, "its run has no record.")
            continue
        except ProtosegError as error:
            check.problem(file, str(error).partition(": ")[2])
            continue
        size = path.stat().st_size
        if size > PUBLISHED_BYTES or samples.meta["form"] != PUBLISHED:
            problems.append(
                f"is not the published form of at most {PUBLISHED_BYTES // 1000} kB ({size} bytes)."
            )
        for problem in problems:
            check.problem(file, problem)
    return check


def find_problems(samples: Samples, path: Path) -> list[str]:
    """Compare the confusion matrix and the mIoU of images with the counts of the record.

    Args:
        samples: of a run.
        path: its confusion counts.

    Raises:
        RecordError: the counts cannot be read.
    """
    counts = read_counts(path)
    size = counts.num_classes
    matrix = np.zeros(size**2, np.int64)
    np.add.at(matrix, counts.cell, counts.pixels)
    stored = np.zeros_like(matrix)
    cells = samples.arrays["confusion_cell"]
    if samples.meta["num_classes"] != size or (cells >= size**2).any():
        return ["has another number of classes than the record."]
    stored[cells] = samples.arrays["confusion_count"]
    problems = []
    if not np.array_equal(matrix, stored):
        problems.append("its confusion matrix differs from the counts of the record.")
    if samples.meta["count_difference"]:
        return problems  # predicted on another machine than the record
    for name, number, miou in zip(
        samples.images, samples.arrays["image_index"], samples.arrays["image_miou"], strict=True
    ):
        chosen = counts.image == number
        of_image = np.zeros(size**2, np.int64)
        of_image[counts.cell[chosen]] = counts.pixels[chosen]
        if abs(compute_miou(of_image.reshape(size, size)) - miou) > TOLERANCE:
            problems.append(f"its mIoU of {name} differs from the counts of the record.")
    return problems


def compute_miou(matrix: Array) -> float:
    """mIoU of a confusion matrix (rows are ground truth) in percent; 0 without pixels."""
    hit = np.diag(matrix).astype(np.float64)
    union = matrix.sum(1) + matrix.sum(0) - hit
    present = union > 0
    return float((100 * hit[present] / union[present]).mean()) if present.any() else 0.0
