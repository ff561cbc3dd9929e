"""Fixtures: a small data set of real files, the real CamVid, and a digest cache per test."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.helpers import REPOSITORY, write_labels
from protoseg.config.schema import DatasetSpec


@pytest.fixture(scope="session", autouse=True)
def _no_resource_tracker() -> Iterator[None]:
    """Stop the resource tracker that `protoseg.datasets.prepare` starts with its process pool."""
    yield
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the digest cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PROTOSEG_CACHE", str(folder))
    return folder


@pytest.fixture
def toy() -> DatasetSpec:
    return DatasetSpec(name="toy", classes=("sky", "road", "tree"), digest="unpinned")


@pytest.fixture
def toy_root(tmp_path: Path) -> Path:
    """Three train pairs and two val pairs, 40×30, labels 0 to 2 and one ignored pixel each."""
    root = tmp_path / "toy"
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{index}.jpg")
            labels = rng.integers(0, 3, (30, 40), dtype=np.uint8)
            labels[0, 0] = 255
            write_labels(root / "annotations" / split / f"{index}.png", labels)
    return root


@pytest.fixture
def changed(toy: DatasetSpec) -> Callable[..., DatasetSpec]:
    """A function that returns the toy data set with other fields."""
    return lambda **fields: dataclasses.replace(toy, **fields)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """A folder of real images, which are not part of the repository."""
    folder = os.environ.get("PROTOSEG_TEST_DATA") or REPOSITORY.parent / "shared" / "data"
    if not Path(folder).is_dir():
        pytest.skip(f"needs real images in {folder}; set PROTOSEG_TEST_DATA")
    return Path(folder)


@pytest.fixture(scope="session")
def camvid_root(test_data: Path) -> Path:
    if not (test_data / "camvid").is_dir():
        pytest.skip(f"needs CamVid in {test_data / 'camvid'}")
    return test_data / "camvid"
