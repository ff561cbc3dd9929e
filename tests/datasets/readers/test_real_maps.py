"""The committed data sets keep their digests and their labels: all their maps are 8-bit grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from datasets.helpers import read_spec
from protoseg.datasets.digest import folder_digest
from protoseg.datasets.folder_dataset import LoadLabels
from protoseg.datasets.layout import Pair, find_pairs, find_splits
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.datasets.readers.photographs import read_photograph

DATA_SETS = ("camvid", "ccp", "ccp_10", "ccp_20", "ccp_40")
FIRST = 8


def pairs_of(root: Path, name: str) -> list[Pair]:
    dataset = read_spec(name)
    return [p for split in find_splits(root, dataset) for p in find_pairs(root, dataset, split)]


def root_of(test_data: Path, name: str) -> Path:
    root = test_data / read_spec(name).place
    if not root.is_dir():
        pytest.skip(f"needs {root}")
    return root


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_digest_is_the_pinned_one(test_data: Path, name: str) -> None:
    dataset = read_spec(name)
    assert folder_digest(root_of(test_data, name), dataset) == dataset.digest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["camvid", "ccp"])
def test_every_map_is_8_bit_grey_and_keeps_its_values(test_data: Path, name: str) -> None:
    pairs = pairs_of(root_of(test_data, name), name)
    assert len(pairs) == {"camvid": 701, "ccp": 1004}[name]
    for pair in pairs:
        with Image.open(pair.annotation) as file:
            assert (file.mode, file.tile[0][3]) == ("L", "L")
            np.testing.assert_array_equal(read_label_map(pair.annotation), np.asarray(file))


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_first_pairs_are_read_as_by_mmcv_and_mmseg(test_data: Path, name: str) -> None:
    dataset = read_spec(name)
    for pair in pairs_of(root_of(test_data, name), name)[:FIRST]:
        sample = {"img_path": str(pair.image), "seg_map_path": str(pair.annotation)}
        image = LoadImageFromFile().transform(dict(sample))["img"]
        np.testing.assert_array_equal(read_photograph(pair.image), image)
        sample |= {"seg_fields": [], "ori_shape": image.shape[:2], "reduce_zero_label": False}
        raw = LoadAnnotations().transform(dict(sample))["gt_seg_map"].astype(np.int64)
        classes = np.full(256, 255)
        classes[list(dataset.label_values)] = np.arange(len(dataset.classes))
        read = LoadLabels(dataset)(dict(sample))["gt_seg_map"]
        np.testing.assert_array_equal(read, classes[raw])
