"""Colour-coded label maps are read as published; every other colour is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.helpers import read_spec
from protoseg.config.fields import build
from protoseg.config.identity import spec_digest
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.check import check_data_set
from protoseg.datasets.folder_dataset import LoadLabels
from protoseg.datasets.labels import check_labels
from protoseg.datasets.readers.colors import make_color_table
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.errors import DataError, UsageError

PALETTE: dict[str, Any] = {
    "road": [128, 64, 128],
    "car": [[64, 0, 128], [64, 128, 192]],
    "ignore": [[0, 0, 0], [255, 255, 255]],
}
COLORS = np.array([[128, 64, 128], [64, 0, 128], [64, 128, 192], [0, 0, 0], [255, 255, 255]])
LABELS = np.array([0, 1, 1, 255, 255])


@pytest.fixture
def dataset() -> DatasetSpec:
    fields = {"name": "x", "digest": "unpinned", "classes": ["road", "car"], "palette": PALETTE}
    spec: DatasetSpec = build(DatasetSpec, fields, "x")
    return spec


def draw_indices() -> np.ndarray:
    return np.random.default_rng(0).integers(0, len(COLORS), (7, 9))


def read_classes(path: Path, dataset: DatasetSpec) -> np.ndarray:
    return read_label_map(path, colors=make_color_table(dataset))


def write_rgb(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_rgba(path: Path, pixels: np.ndarray) -> None:
    alpha = np.full((*pixels.shape[:2], 1), 255)
    Image.fromarray(np.concatenate([pixels, alpha], -1).astype(np.uint8)).save(path)


def write_deep(path: Path, pixels: np.ndarray) -> None:
    cv2.imwrite(str(path), (pixels[..., ::-1] * 257).astype(np.uint16))


def write_deep_rgba(path: Path, pixels: np.ndarray) -> None:
    alpha = np.full((*pixels.shape[:2], 1), 65535)
    cv2.imwrite(str(path), np.concatenate([pixels[..., ::-1] * 257, alpha], -1).astype(np.uint16))


def write_palette(path: Path, pixels: np.ndarray) -> None:
    colors, indices = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    image = Image.fromarray(indices.reshape(pixels.shape[:2]).astype(np.uint8), "P")
    image.putpalette(colors.astype(np.uint8).tobytes())
    image.save(path)


WRITERS = [write_rgb, write_rgba, write_deep, write_deep_rgba, write_palette]


@pytest.mark.parametrize("write", WRITERS)
def test_colors_of_8_and_16_bits_give_the_classes(
    tmp_path: Path, dataset: DatasetSpec, write: Callable[[Path, np.ndarray], None]
) -> None:
    indices = draw_indices()
    write(tmp_path / "a.png", COLORS[indices])
    labels = read_classes(tmp_path / "a.png", dataset)
    assert labels.dtype == np.uint8
    assert (labels == LABELS[indices]).all()


def test_grey_files_are_colors_too(tmp_path: Path, dataset: DatasetSpec) -> None:
    values = np.where(draw_indices() > 2, 255, 0)
    write_rgb(tmp_path / "grey.png", values)
    Image.fromarray(values.astype(bool)).save(tmp_path / "bit.png")
    cv2.imwrite(str(tmp_path / "deep.png"), (values * 257).astype(np.uint16))
    for name in ("grey", "bit", "deep"):
        assert (read_classes(tmp_path / f"{name}.png", dataset) == 255).all(), name


@pytest.mark.parametrize("write", WRITERS)
def test_a_color_that_is_not_listed_is_refused_with_pixel_and_nearest_color(
    tmp_path: Path, dataset: DatasetSpec, write: Callable[[Path, np.ndarray], None]
) -> None:
    pixels = COLORS[np.zeros((7, 9), int)].copy()
    pixels[3, 5] = pixels[4, 1] = [64, 1, 120]
    path = tmp_path / "a.png"
    write(path, pixels)
    with pytest.raises(DataError) as error:
        read_classes(path, dataset)
    assert str(error.value) == (
        f"{path}: pixel x=5, y=3 has the colour [64, 1, 120], which is not in the palette (2 such "
        "pixels); the nearest is [64, 0, 128], 'car'. Add the colour to dataset.palette, or "
        "correct the file."
    )


def test_a_16_bit_color_that_has_no_equal_of_8_bits_is_refused(
    tmp_path: Path, dataset: DatasetSpec
) -> None:
    pixels = np.broadcast_to(np.array([128, 64, 128]) * 257, (4, 6, 3)).astype(np.uint16)
    pixels[2, 1] = [32895, 16448, 32896]
    cv2.imwrite(str(tmp_path / "a.png"), np.ascontiguousarray(pixels[..., ::-1]))
    with pytest.raises(DataError, match=r"x=1, y=2 has the 16-bit colour \[32895, 16448, 32896\]"):
        read_classes(tmp_path / "a.png", dataset)


@pytest.mark.parametrize("write", [write_rgba, write_deep_rgba])
def test_a_transparent_pixel_is_refused(
    tmp_path: Path, dataset: DatasetSpec, write: Callable[[Path, np.ndarray], None]
) -> None:
    path = tmp_path / "a.png"
    write(path, COLORS[draw_indices()])
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    pixels[6, 2, 3] = 0
    cv2.imwrite(str(path), pixels)
    with pytest.raises(DataError, match=r"pixel x=2, y=6 is transparent \(alpha 0 of 255, 1 such"):
        read_classes(path, dataset)


def test_formats_that_change_colors_and_damaged_files_are_refused(
    tmp_path: Path, dataset: DatasetSpec
) -> None:
    for name, expected in (("a.jpg", "is a JPEG file"), ("a.gif", "is a GIF")):
        write_rgb(tmp_path / name, COLORS[draw_indices()])
        with pytest.raises(DataError, match=expected):
            read_classes(tmp_path / name, dataset)
    write_deep(tmp_path / "a.png", COLORS[draw_indices()])
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[60] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be decoded"):
        read_classes(tmp_path / "a.png", dataset)


def test_color_maps_without_a_palette_ask_for_one(tmp_path: Path) -> None:
    write_rgb(tmp_path / "a.png", COLORS[draw_indices()])
    with pytest.raises(DataError, match=r"Name its colours in dataset\.palette"):
        read_label_map(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": (1, 2)}, "palette: cannot be used with labels"),
        ({"reduce_zero_label": True}, "palette: cannot be used with reduce_zero_label"),
        ({"classes": ("road", "bus")}, "palette: 'bus' is in classes, but not in palette"),
        ({"classes": ("road",)}, "palette: 'car' is in palette, not classes"),
        ({"ignore_index": 1}, "ignore_index: 1 is the number of a class"),
        ({"palette": PALETTE | {"car": [1, 2]}}, "palette.car: expected a colour such as"),
        ({"palette": PALETTE | {"car": [1, 2, 256]}}, "palette.car: expected a colour such as"),
        ({"palette": PALETTE | {"car": [1, 2, True]}}, "palette.car: expected a colour such as"),
        ({"palette": PALETTE | {"car": "red"}}, "palette.car: expected a colour such as"),
        ({"palette": PALETTE | {"car": []}}, "palette.car: expected a colour such as"),
        (
            {"palette": PALETTE | {"car": [0, 0, 0]}},
            "[0, 0, 0] is a colour of 'car' and of 'ignore'",
        ),
    ],
)
def test_palettes_with_faults_are_refused(
    dataset: DatasetSpec, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UsageError) as error:
        check_labels(dataclasses.replace(dataset, **changes))
    assert expected in str(error.value)


def test_a_palette_changes_the_identity_only_if_it_is_set(dataset: DatasetSpec) -> None:
    plain = dataclasses.replace(dataset, palette={})
    other = {key: value for key, value in vars(plain).items() if key != "palette"}
    assert spec_digest(plain) == spec_digest(DatasetSpec(**other))  # type: ignore[arg-type]
    assert spec_digest(plain) != spec_digest(dataset)  # type: ignore[arg-type]


LABEL_ME_FACADE = {
    "building": [128, 0, 0],
    "car": [128, 0, 128],
    "door": [128, 128, 0],
    "pavement": [128, 128, 128],
    "road": [128, 64, 0],
    "sky": [0, 128, 128],
    "vegetation": [0, 128, 0],
    "window": [0, 0, 128],
}


def test_label_me_facade_is_read_as_published(test_data: Path) -> None:
    root = test_data / "fixtures" / "labelmefacade"
    if not root.is_dir():
        pytest.skip(f"needs {root}")
    fields = {
        "name": "labelmefacade",
        "digest": "unpinned",
        "classes": [*LABEL_ME_FACADE],
        "images": "images",
        "annotations": "labels",
        "split_files": {"train": "train.txt", "test": "test.txt"},
        "palette": {**LABEL_ME_FACADE, "ignore": [0, 0, 0]},
    }
    dataset: DatasetSpec = build(DatasetSpec, fields, "x")
    report = check_data_set(root, dataset)
    assert {name: split.images for name, split in report.splits.items()} == {
        "train": 24,
        "test": 12,
    }
    # The reference reads 16 bits with OpenCV alone and compares whole colours.
    expected = dict.fromkeys(LABEL_ME_FACADE, 0)
    for path in sorted((root / "labels").iterdir()):
        blue, green, red = np.moveaxis(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), -1, 0)[:3]
        codes = red.astype(np.uint64) << 32 | green.astype(np.uint64) << 16 | blue
        counts = dict(zip(*(a.tolist() for a in np.unique(codes, return_counts=True)), strict=True))
        for name, (r, g, b) in LABEL_ME_FACADE.items():
            expected[name] += counts.get((r * 257) << 32 | (g * 257) << 16 | b * 257, 0)
    counted = {name: sum(s.pixels[name] for s in report.splits.values()) for name in expected}
    assert counted == expected


CAMVID = {
    "sky": [[128, 128, 128]],
    "building": [[128, 0, 0], [192, 0, 128], [0, 128, 64], [64, 192, 0], [64, 0, 64]],
    "pole": [[192, 192, 128], [0, 0, 64]],
    "road": [[128, 64, 128], [128, 0, 192], [192, 0, 64], [128, 128, 192]],
    "pavement": [[0, 0, 192], [64, 192, 128]],
    "tree": [[128, 128, 0], [192, 192, 0]],
    "sign": [[192, 128, 128], [128, 128, 64], [0, 64, 64]],
    "fence": [[64, 64, 128]],
    "car": [[64, 0, 128], [64, 128, 192], [192, 128, 192], [192, 64, 128], [128, 64, 64]],
    "pedestrian": [[64, 64, 0], [192, 128, 64], [64, 0, 192], [64, 128, 64]],
    "bicyclist": [[0, 128, 192], [192, 0, 192]],
}
"""The colours of CamVid's 32 classes, grouped into its 11 classes."""


def test_camvid_is_read_in_its_published_colors(camvid_root: Path, tmp_path: Path) -> None:
    plain = read_spec("camvid")
    palette = {**CAMVID, "ignore": [[0, 0, 0]]}
    assert sum(map(len, palette.values())) == 32
    dataset = dataclasses.replace(plain, palette=palette, ignore_index=255)
    load = LoadLabels(dataset)
    rng = np.random.default_rng(0)
    for path in sorted((camvid_root / "annotations/val").iterdir())[:4]:
        labels = np.asarray(Image.open(path))
        colors = np.zeros((*labels.shape, 3), np.uint8)
        for value, name in enumerate(plain.classes):
            where = labels == value
            colors[where] = np.array(CAMVID[name])[
                rng.integers(len(CAMVID[name]), size=where.sum())
            ]
        file = tmp_path / path.name
        Image.fromarray(colors).save(file)
        results = {"seg_map_path": str(file), "ori_shape": labels.shape, "seg_fields": []}
        expected = np.where(labels == 11, 255, labels)
        assert (load(results)["gt_seg_map"] == expected).all()
