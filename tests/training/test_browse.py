"""``data browse``: the pictures are the samples of the training loader."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protoseg.config.class_colors import choose_class_colors
from protoseg.datasets.layout import find_root
from protoseg.datasets.readers.label_colors import color_label_map
from protoseg.errors import DataError, UsageError
from protoseg.training.browse.samples import Sample, load_samples
from protoseg.training.browse.sheet import Sheet, write_sheets
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from training.small import compose, small_spec

SPEC = ("seed=3", "dataset.ignore_index=255")


@pytest.fixture(scope="module")
def samples(data: Path) -> list[Sample]:
    return [*load_samples(small_spec(*SPEC), data, "train", 10)]


def test_the_samples_are_those_of_the_training_loader(data: Path, samples: list[Sample]) -> None:
    spec = small_spec(*SPEC)
    config = build_config(spec, data_root=find_root(spec.dataset, data))
    parts = build_components(config, None)
    expected: list[Any] = []
    for iteration, batch in enumerate(parts.train_loader, 1):
        for position, raw in enumerate(batch["inputs"]):
            truth = batch["data_samples"][position]
            expected.append((iteration, position + 1, truth.img_path, raw, truth.gt_sem_seg.data))
    assert len(samples) == 10
    for sample, (iteration, position, path, raw, labels) in zip(samples, expected, strict=False):
        assert (sample.iteration, sample.position) == (iteration, position)
        assert sample.path == Path(path)
        # The loader gives blue first, (3, height, width).
        np.testing.assert_array_equal(sample.image, raw.permute(1, 2, 0).numpy()[..., ::-1])
        np.testing.assert_array_equal(sample.labels, labels[0].numpy())
    # The network sees them so: normalised again, they are its input.
    batch = next(iter(parts.train_loader))
    inputs = parts.module.data_preprocessor(batch, training=True)["inputs"]
    preprocess = parts.module.data_preprocessor
    first = samples[0].image.transpose(2, 0, 1)
    normalised = (first - preprocess.mean.numpy()) / preprocess.std.numpy()
    np.testing.assert_allclose(normalised, inputs[0].numpy(), atol=1e-5)


def test_a_small_crop_is_padded_as_for_the_network(data: Path) -> None:
    spec = small_spec("augmentation.crop_size=[64,80]", "augmentation.flip=0.0")
    (sample,) = load_samples(spec, data, "train", 1)
    assert sample.image.shape == (64, 80, 3)
    assert sample.labels.shape == (64, 80)
    outside = np.ones((64, 80), bool)
    outside[:48, :48] = False
    assert (sample.labels[outside] == 255).all()
    assert len(np.unique(sample.image[outside], axis=0)) == 1


def test_the_files_show_image_and_label_map_of_each_sample(
    tmp_path: Path, samples: list[Sample]
) -> None:
    dataset = small_spec(*SPEC).dataset
    sheet = Sheet(samples, dataset, "shapes <train>")
    paths = write_sheets(sheet, tmp_path / "sheet")
    assert [path.name for path in paths] == ["samples.html", "samples.png"]
    page = paths[0].read_text()
    assert "<h1>shapes &lt;train&gt;</h1>" in page
    assert "http" not in page, "no outside resource"
    sources = re.findall(r"src='data:image/png;base64,([^']*)'", page)
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(s)))) for s in sources]
    colors = choose_class_colors(dataset.classes, dataset.palette)
    for number, sample in enumerate(samples):
        np.testing.assert_array_equal(pictures[2 * number], sample.image)
        expected = color_label_map(sample.labels, colors)
        np.testing.assert_array_equal(pictures[2 * number + 1], expected)
        present = [dataset.classes[i] for i in np.unique(sample.labels) if i < 255]
        assert f"label map: {', '.join(present)}" in page
    whole = np.asarray(Image.open(paths[1]))
    enlarged = samples[0].image.repeat(sheet.zoom, axis=0).repeat(sheet.zoom, axis=1)
    assert sheet.zoom == 4
    assert contains_picture(whole, enlarged)


def contains_picture(whole: np.ndarray, part: np.ndarray) -> bool:
    height, width, _ = part.shape
    for y, x in np.argwhere((whole == part[0, 0]).all(-1)):
        window = whole[y : y + height, x : x + width]
        if window.shape == part.shape and (window == part).all():
            return True
    return False


def test_ignored_pixels_have_stripes_and_classes_their_colour() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[:, 8:] = 255
    pixels = color_label_map(labels, [(1, 2, 3)])
    assert (pixels[:, :8] == (1, 2, 3)).all()
    stripes = np.unique(pixels[:, 8:].reshape(-1, 3), axis=0)
    assert stripes.tolist() == [[20, 20, 20], [255, 255, 255]]


def test_every_class_has_another_colour() -> None:
    spec = small_spec()
    names = tuple(f"class {n}" for n in range(150))
    dataset = dataclasses.replace(spec.dataset, classes=names)
    assert len(set(choose_class_colors(dataset.classes, dataset.palette))) == 150
    palette = {"a": [[1, 2, 3], [4, 5, 6]], "b": [7, 8, 9], "ignore": [0, 0, 0]}
    dataset = dataclasses.replace(spec.dataset, classes=("a", "b"), palette=palette)
    assert choose_class_colors(dataset.classes, dataset.palette) == ((1, 2, 3), (7, 8, 9))


def test_a_large_sample_is_shown_smaller() -> None:
    dataset = small_spec().dataset
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (700, 1300, 3), np.uint8)
    labels = rng.integers(0, 6, (700, 1300)).astype(np.uint8)
    sheet = Sheet([Sample(1, 1, Path("a.png"), image, labels)], dataset, "large")
    assert sheet.title == "large, shown at 1/3"
    shown, label_map = sheet.draw_pair(sheet.samples[0])
    assert shown.size == label_map.size == (434, 234)


def test_bad_input_is_refused(data: Path, tmp_path: Path, samples: list[Sample]) -> None:
    spec = small_spec()
    with pytest.raises(UsageError, match=r"unknown split 'tran'.*Did you mean 'train'"):
        next(load_samples(spec, data, "tran", 1))
    weak = compose("dataset=shapes", "method=cam", "decoder=cam")
    with pytest.raises(UsageError, match="trains without label maps"):
        next(load_samples(weak, data, "train", 1))
    unprepared = compose("dataset=camvid")
    with pytest.raises(DataError):
        next(load_samples(unprepared, tmp_path, "train", 1))
    sheet = Sheet(samples[:1], spec.dataset, "x")
    with pytest.raises(UsageError, match=r"unknown suffix '.gif'. Allowed: .html, .png"):
        write_sheets(sheet, tmp_path / "x.gif")
    other = tmp_path / "mine.png"
    other.write_bytes(b"my picture")
    with pytest.raises(UsageError, match=r"mine.png: exists, and is no sheet of data browse"):
        write_sheets(sheet, other)
    assert other.read_bytes() == b"my picture"
    for name in ("sheet.png", "sheet.html"):
        write_sheets(sheet, tmp_path / name)
        write_sheets(sheet, tmp_path / name)  # a sheet is replaced
