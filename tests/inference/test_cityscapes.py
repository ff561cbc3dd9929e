"""The upload to the Cityscapes server: names, number and size of its label maps."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from training.small import small_spec

from protoseg.config.schema import DatasetSpec
from protoseg.errors import DataError, UsageError
from protoseg.inference.output import cityscapes
from protoseg.inference.output.cityscapes import (
    CLASSES,
    TEST_IMAGES,
    check_upload,
    write_upload,
)
from protoseg.inference.output.image_list import InputImage


@pytest.fixture
def dataset() -> DatasetSpec:
    return dataclasses.replace(small_spec().dataset, name="cityscapes", classes=CLASSES)


def write_image(path: Path, width: int = 2048, height: int = 1024) -> None:
    cv2.imwrite(str(path), np.zeros((height, width), np.uint8))


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[InputImage]:
    """Three images, which are the whole test split."""
    monkeypatch.setattr(cityscapes, "TEST_IMAGES", {"berlin": 2, "munich": 1})
    names = ["berlin_000000_000019", "berlin_000001_000019", "munich_000397_000019"]
    listed = []
    for name in names:
        path = tmp_path / f"{name}_leftImg8bit.png"
        write_image(path)
        listed.append(InputImage(path, path.stem))
    return listed


def test_the_test_split_has_1525_images() -> None:
    assert sum(TEST_IMAGES.values()) == 1525


def test_a_complete_split_is_accepted(
    images: list[InputImage], dataset: DatasetSpec, tmp_path: Path
) -> None:
    check_upload(images, dataset, tmp_path / "upload.zip")


def test_what_is_missing_is_named(
    images: list[InputImage], dataset: DatasetSpec, tmp_path: Path
) -> None:
    target = tmp_path / "upload.zip"
    with pytest.raises(UsageError, match="but munich has 0 of 1 images"):
        check_upload(images[:2], dataset, target)
    other = InputImage(tmp_path / "photo.png", "photo")
    with pytest.raises(UsageError, match=r"photo\.png is not the name of a test image"):
        check_upload([*images, other], dataset, target)
    write_image(images[0].path, 1024, 512)
    with pytest.raises(UsageError, match="has 1024×512 pixels, not 2048×1024"):
        check_upload(images, dataset, target)
    images[0].path.write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"berlin_000000_000019_leftImg8bit\.png cannot be read"):
        check_upload(images, dataset, target)
    target.touch()
    with pytest.raises(UsageError, match="exists already"):
        check_upload(images, dataset, target)


@pytest.mark.parametrize("values", [np.arange(19), np.arange(19)[::-1] * 10])
def test_the_label_maps_have_label_ids(
    images: list[InputImage], tmp_path: Path, values: np.ndarray
) -> None:
    # In each of 19 columns of blocks another class.
    classes = np.minimum(np.arange(2048) // 100, 18)
    labels = np.broadcast_to(values.astype(np.uint8)[classes], (1024, 2048))
    pairs = []
    for image in images:
        path = tmp_path / f"{image.name}.label.png"
        cv2.imwrite(str(path), labels)
        pairs.append((image, path))
    target = tmp_path / "upload.zip"
    assert write_upload(target, pairs, values.astype(np.uint8), CLASSES) == 3
    # The ids of Cityscapes, from its published table.
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == [
            "berlin_000000_000019_labelIds.png",
            "berlin_000001_000019_labelIds.png",
            "munich_000397_000019_labelIds.png",
        ]
        with Image.open(io.BytesIO(archive.read(archive.namelist()[0]))) as file:
            assert file.mode == "L"
            assert np.array_equal(np.asarray(file)[0], np.array(ids)[classes])


def test_a_label_map_of_another_size_is_refused(images: list[InputImage], tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    cv2.imwrite(str(path), np.zeros((10, 20), np.uint8))
    with pytest.raises(DataError, match=r"has the shape \(10, 20\), expected \(1024, 2048\)"):
        write_upload(tmp_path / "upload.zip", [(images[0], path)], np.arange(19), CLASSES)
    assert not (tmp_path / "upload.zip").exists()
