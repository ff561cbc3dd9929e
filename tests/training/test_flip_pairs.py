"""Mirrored training samples have left and right swapped; without pairs nothing changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from datasets import raw
from datasets.helpers import write_labels
from PIL import Image

from protoseg.config.fields import build
from protoseg.config.identity import canonical_json, run_id
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.config.validation import check_values
from protoseg.datasets.prepare.registry import PREPARATIONS
from protoseg.datasets.prepare.runner import prepare_data_set
from protoseg.errors import UsageError
from protoseg.training.builders.components import build_loader, use_mmseg
from protoseg.training.builders.config import build_config
from training.small import compose

PLAIN = (
    "augmentation.scale=[40,30]",
    "augmentation.crop_size=[30,40]",
    "augmentation.ratio_range=[1.0,1.0]",
    "augmentation.cat_max_ratio=1.0",
    "augmentation.photometric=false",
    "schedule.batch_size=2",
    "schedule.iterations=4",
    "schedule.warmup_iterations=0",
)
"""Samples are whole images, mirrored or not."""
CROP = "{type: RandomCrop, crop_size: [30, 40]}"
LEFT = {14: 15, 16: 17, 18: 19}
"""Of LIP."""


def swap_numbers(labels: np.ndarray, pairs: dict[int, int]) -> np.ndarray:
    """The labels with the numbers of each pair exchanged, computed per value."""
    partner = pairs | {right: left for left, right in pairs.items()}
    return np.vectorize(lambda label: partner.get(label, label))(labels)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LIP in small, prepared."""
    folder = tmp_path_factory.mktemp("lip")
    dataset = compose("dataset=lip").dataset
    plan = PREPARATIONS["lip"](raw.lip(folder / "published"), dataset)
    prepare_data_set(plan, dataset, folder / "lip", progress=None)
    return folder / "lip"


def load_samples(spec: RunSpec, root: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, image, labels) of all training samples."""
    use_mmseg()
    spec = dataclasses.replace(spec, dataset=dataclasses.replace(spec.dataset, counts={}))
    loader = build_loader(build_config(spec, data_root=root).train_dataloader)
    return [
        (Path(sample.img_path).stem, image.numpy(), sample.gt_sem_seg.data[0].numpy())
        for batch in loader
        for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True)
    ]


def read_published(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The image, blue first, and the label map, as files have them."""
    image = cv2.imread(str(root / "images/train" / f"{name}.jpg")).transpose(2, 0, 1)
    with Image.open(root / "annotations/train" / f"{name}.png") as file:
        return image, np.array(file)


def check_samples(spec: RunSpec, root: Path, pairs: dict[int, int]) -> set[bool]:
    """Compare the samples with the files; return whether some, and others, are mirrored."""
    mirrored = set()
    samples = load_samples(spec, root)
    assert len(samples) == 8
    for name, image, labels in samples:
        expected_image, expected = read_published(root, name)
        is_mirrored = not np.array_equal(image, expected_image)
        if is_mirrored:
            expected_image = expected_image[:, :, ::-1]
            expected = swap_numbers(expected[:, ::-1], pairs)
        np.testing.assert_array_equal(image, expected_image)
        np.testing.assert_array_equal(labels, expected)
        mirrored.add(is_mirrored)
    return mirrored


def test_mirrored_samples_of_lip_have_left_and_right_swapped(root: Path) -> None:
    assert check_samples(compose("dataset=lip", *PLAIN), root, LEFT) == {False, True}
    assert check_samples(compose("dataset=lip", *PLAIN, "augmentation.flip=1.0"), root, LEFT) == {
        True
    }


def test_without_pairs_a_mirrored_left_stays_left(root: Path) -> None:
    spec = compose("dataset=lip", "dataset.flip_pairs=[]", *PLAIN, "augmentation.flip=1.0")
    assert check_samples(spec, root, {}) == {True}
    steps = build_config(spec, data_root=root).train_dataloader["dataset"]["pipeline"]
    (flip,) = [step for step in steps if step["type"] == "RandomFlip"]
    assert dict(flip) == {"type": "RandomFlip", "prob": 1.0}


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_a_flip_by_name_swaps_too(root: Path, direction: str) -> None:
    """A vertical flip is a mirror image as well, turned by 180 degrees."""
    steps = f"[{CROP}, {{type: RandomFlip, prob: 1.0, direction: {direction}}}]"
    spec = compose("dataset=lip", *PLAIN, f"augmentation.pipeline={steps}")
    for name, image, labels in load_samples(spec, root):
        expected_image, expected = read_published(root, name)
        across = slice(None, None, -1)
        mirror = (slice(None), across) if direction == "horizontal" else (across, slice(None))
        np.testing.assert_array_equal(image, expected_image[(slice(None), *mirror)])
        np.testing.assert_array_equal(labels, swap_numbers(expected[mirror], LEFT))


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        # Label value 0 is ignored; classes are numbered from 1 in the files.
        ({"reduce_zero_label": True}, (1, 2, 3)),
        ({"labels": (9, 4, 7), "label_count": 12}, (9, 4, 7)),
    ],
)
def test_pairs_are_class_names_whatever_the_label_values(
    fields: dict[str, Any], values: tuple[int, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "annotations"):
        (tmp_path / folder / "train").mkdir(parents=True)
    for name in "ab":
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images/train" / f"{name}.jpg")
        labels = rng.choice(np.array([0, 255, *values], np.uint8), (30, 40))
        write_labels(tmp_path / "annotations/train" / f"{name}.png", labels)
    pairs = (("right", "left"),)
    dataset = DatasetSpec("toy", "unpinned", ("left", "other", "right"), flip_pairs=pairs, **fields)
    spec = dataclasses.replace(compose(*PLAIN, "augmentation.flip=1.0"), dataset=dataset)
    swapped = {values[0]: 2, values[1]: 1, values[2]: 0}
    for name, _, labels in load_samples(spec, tmp_path):
        published = read_published(tmp_path, name)[1][:, ::-1]
        expected = np.vectorize(lambda value: swapped.get(value, 255))(published)
        np.testing.assert_array_equal(labels, expected)


# Identity


def test_pairs_are_part_of_the_identity_only_if_set() -> None:
    spec = compose()
    assert "flip_pairs" not in canonical_json(spec)
    pairs = ["[[disk, box], [ring, bar]]", "[[bar, ring], [disk, box]]", "[[disk, ring]]"]
    ids = [run_id(compose(f"dataset.flip_pairs={text}")) for text in pairs]
    assert ids[0] == ids[1], "the order has no effect"
    assert len({run_id(spec), *ids}) == 3
    assert run_id(compose("dataset.flip_pairs=[]")) == run_id(spec)


# Errors


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([["disk", "boks"]], "unknown class 'boks'. Did you mean 'box'[?] Known: "),
        ([["disk", "box"], ["ring", "disk"]], "'disk' occurs 2 times. Name each class once"),
        ([["disk", "disk"]], "'disk' occurs 2 times"),
        ([["disk"]], r"\[0\]: expected 2 values, found 1"),
        ([["disk", "box", "bar"]], r"\[0\]: expected 2 values, found 3"),
        (["disk"], r"\[0\]: expected a list, found 'disk'"),
    ],
)
def test_wrong_pairs_are_one_sentence(pairs: list[Any], sentence: str) -> None:
    classes = ["ground", "disk", "box", "triangle", "ring", "bar"]
    data = {"name": "x", "digest": "unpinned", "classes": classes, "flip_pairs": pairs}
    with pytest.raises(UsageError, match=rf"dataset\.flip_pairs(: )?{sentence}") as error:
        build(DatasetSpec, data, "dataset")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ("{type: RandomRotFlip}", "RandomRotFlip can mirror an image, but it does not swap"),
        (
            "{type: BioMedical3DRandomFlip, prob: 0.5, axes: [1]}",
            "BioMedical3DRandomFlip can mirror an image",
        ),
        ("{type: mmseg.RandomRotFlip}", "RandomRotFlip can mirror an image"),
        (
            "{type: RandomFlip, prob: 0.5, swap_seg_labels: [[1, 2]]}",
            "swap_seg_labels is set by dataset.flip_pairs. Remove it",
        ),
        (
            "{type: RandomFlip, prob: 0.5, direction: diagonal}",
            "a diagonal flip turns an image by 180 degrees, so left and right stay",
        ),
        (
            "{type: RandomFlip, prob: [0.5, 0.2], direction: [horizontal, diagonal]}",
            "a diagonal flip turns an image",
        ),
    ],
)
def test_a_transform_that_would_mirror_without_the_swap_is_one_sentence(
    root: Path, step: str, sentence: str
) -> None:
    pipeline = f"augmentation.pipeline=[{CROP}, {step}]"
    with pytest.raises(UsageError, match=rf"^augmentation\.pipeline\[1\]: {sentence}") as error:
        build_config(compose("dataset=lip", *PLAIN, pipeline), data_root=root)
    assert "\n" not in str(error.value)
    if "prob: [" not in step:  # which mmseg refuses, because it becomes a tuple
        spec = compose("dataset=lip", "dataset.flip_pairs=[]", *PLAIN, pipeline)
        build_config(spec, data_root=root)


def test_the_task_weak_with_flips_is_refused_before_it_is_queued() -> None:
    weak = ("method=weak_contrast", "dataset=lip", "augmentation=weak_256", "decoder=cam")
    sentence = r"dataset\.flip_pairs: the task weak mirrors images without swapping classes"
    for flips in ((), ("augmentation.flip=0",), ("method.flip=false",)):
        with pytest.raises(UsageError, match=sentence):
            check_values(compose(*weak, *flips), "test")
    check_values(compose(*weak, "augmentation.flip=0", "method.flip=false"), "test")
    check_values(compose(*weak, "dataset.flip_pairs=[]"), "test")
