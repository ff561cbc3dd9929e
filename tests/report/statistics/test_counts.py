"""The reader of confusion counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import RECORDS

from protoseg.report.statistics import bootstrap
from protoseg.report.statistics.counts import ImageCounts, count_per_image, read_counts
from protoseg.runs.sealed import RecordError


def write_counts(path: Path, **changes: Any) -> Path:
    """Counts of two images with three classes; ``changes`` replace arrays."""
    arrays: dict[str, Any] = {
        "image": [0, 0, 4],
        "cell": [0, 1, 8],
        "count": [90, 10, 100],
        "num_classes": 3,
        "num_images": 2,
    }
    np.savez(path, **{**arrays, **changes})
    return path


def test_counts_are_summed_per_image_and_class(tmp_path: Path) -> None:
    confusion = read_counts(write_counts(tmp_path / "counts.npz"))
    assert (confusion.num_classes, confusion.num_images) == (3, 2)
    counts = count_per_image(confusion)
    assert counts.truth.tolist() == [[100, 0, 0], [0, 0, 100]]
    assert counts.hit.tolist() == [[90, 0, 0], [0, 0, 100]]
    assert counts.union.tolist() == [[100, 10, 0], [0, 0, 100]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cell": [0, 1, 9]}, "entries outside 2 images with 3 classes"),
        ({"cell": [0, 1, -1]}, "entries outside 2 images with 3 classes"),
        ({"num_images": 1}, "entries outside 1 images with 3 classes"),
        ({"count": [90, 10]}, "columns differ in length"),
        ({"image": [[0, 0, 4]]}, "columns differ in length"),
        ({"num_classes": "three"}, "invalid literal"),
    ],
)
def test_damaged_counts_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write_counts(tmp_path / "counts.npz", **changes)
    with pytest.raises(RecordError) as error:
        read_counts(path)
    assert str(error.value).startswith(f"{path}: not a file of confusion counts (")
    assert reason in str(error.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "counts.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "part.npz", image=[0])
    for name in ("counts.npz", "part.npz", "missing.npz"):
        with pytest.raises(RecordError, match="not a file of confusion counts"):
            read_counts(tmp_path / name)


def test_counts_give_the_recorded_miou() -> None:
    path = sorted(RECORDS.glob("camvid*.npz"))[0]
    record = json.loads(path.with_suffix(".json").read_text())
    counts = count_per_image(read_counts(path))
    assert counts.truth.shape == (101, 11)
    assert bootstrap.miou(counts.hit.sum(0), counts.union.sum(0)) == pytest.approx(
        record["metrics"]["miou"], abs=1e-9
    )
    with np.load(path) as archive:
        dense = np.zeros((101, 11, 11))
        index = archive["image"], *np.divmod(archive["cell"], 11)
        np.add.at(dense, index, archive["count"])
    assert np.array_equal(counts.truth, dense.sum(2))
    assert np.array_equal(counts.union, dense.sum(2) + dense.sum(1) - counts.hit)


def test_a_class_that_is_only_predicted_is_not_present() -> None:
    counts = ImageCounts(
        hit=np.array([[4.0, 0.0, 0.0, 0.0], [2.0, 0.0, 1.0, 0.0]]),
        truth=np.array([[5.0, 0.0, 1.0, 0.0], [5.0, 0.0, 1.0, 0.0]]),
        union=np.array([[6.0, 1.0, 1.0, 0.0], [6.0, 1.0, 1.0, 0.0]]),
    )
    assert counts.present_classes.tolist() == [True, False, True, False]
