"""The rate of `protoseg data check`, with the way before as the reference, in the same rounds.

The pairs are photographs (JPEG, quality 90) and label maps (PNG) of 480x360 pixels, as in CamVid.
With PROTOSEG_TEST_DATA they are CamVid's val split. The digest cache is switched off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference_check import check_pairs

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout
from protoseg.datasets.check import check_data_set
from protoseg.datasets.shapes_drawing import draw_sample

COUNT = 96


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetSpec]:
    """A data set with one split, and its spec."""
    folder = os.environ.get("PROTOSEG_TEST_DATA")
    if folder and (Path(folder) / "camvid").is_dir():
        names = tuple(f"class {value}" for value in range(12))
        counts = {"val": 101}
        return Path(folder) / "camvid", DatasetSpec(
            "camvid", "unpinned", names, train_split="val", counts=counts
        )
    root = tmp_path_factory.mktemp("data")
    for name in ("images/val", "annotations/val"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        sample = draw_sample(480, 0, number)
        noise = rng.integers(-12, 13, sample.image.shape)
        image = np.clip(sample.image + noise, 0, 255).astype(np.uint8)[:360]
        Image.fromarray(image).save(root / f"images/val/{number}.jpg", quality=90)
        Image.fromarray(sample.labels[:360]).save(root / f"annotations/val/{number}.png")
    names = tuple(f"class {value}" for value in range(6))
    return root, DatasetSpec("drawn", "unpinned", names, train_split="val")


def test_rate(
    data: tuple[Path, DatasetSpec],
    case: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, dataset = data
    file = tmp_path / "no folder"
    file.touch()  # the cache cannot be written, so that each round reads and hashes all files
    monkeypatch.setenv("PROTOSEG_CACHE", str(file))
    pairs = [(pair.image, pair.annotation) for pair in layout.find_pairs(root, dataset, "val")]
    report = check_data_set(root, dataset)
    counts, _ = check_pairs(pairs)
    expected = [counts.get(value, 0) for value in range(len(dataset.classes))]
    assert list(report.splits["val"].pixels.values()) == expected
    case(
        "check",
        f"data check, {len(pairs)} pairs of 480x360",
        lambda: check_data_set(root, dataset),
        {
            "the way before": lambda: check_pairs(pairs),
            "one job": lambda: check_data_set(root, dataset, jobs=1),
        },
        slow=20,
    )
