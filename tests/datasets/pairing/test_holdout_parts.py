"""The parts of a training split on disk: names, lists, and what is checked before training."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.helpers import write_labels
from protoseg.config.holdout.settings import HoldoutSpec
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.layout import Pair
from protoseg.datasets.pairing.holdout_check import check_holdout
from protoseg.datasets.pairing.holdout_parts import find_parts, find_samples
from protoseg.errors import DataError, UsageError

DATASET = DatasetSpec("toy", "unpinned", ("road", "tree", "car"))
NAMES = [f"{sequence}/{frame:02}" for sequence in ("bonn", "köln") for frame in range(10)]
BLOCKS = HoldoutSpec(share=0.2, blocks=3, gap=1)


def make_data_set(root: Path, names: list[str], labels: dict[str, int] | None = None) -> Path:
    """Write pairs of 4×4 pixels; each label map has one class, by default the first."""
    for name in names:
        for folder, suffix in (("images", ".jpg"), ("annotations", ".png")):
            path = root / folder / "train" / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / "images" / "train" / f"{name}.jpg")
        value = (labels or {}).get(name, 0)
        write_labels(
            root / "annotations" / "train" / f"{name}.png", np.full((4, 4), value, np.uint8)
        )
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_data_set(tmp_path, NAMES)


def list_names(pairs: list[Pair]) -> list[str]:
    """Names of the images, checked against those of the label maps."""
    for image, annotation in pairs:
        assert image.stem == annotation.stem
    return [f"{image.parent.name}/{image.stem}" for image, _ in pairs]


def test_train_holdout_and_gap_are_the_training_split(root: Path) -> None:
    parts = find_parts(root, DATASET, BLOCKS)
    members = [list_names(part) for part in (parts.train, parts.holdout, parts.gap)]
    assert sorted(name for part in members for name in part) == sorted(NAMES)
    assert len(parts.holdout) >= 4
    assert find_samples(root, DATASET, "train", BLOCKS) == parts.train
    assert find_samples(root, DATASET, "holdout", BLOCKS) == parts.holdout
    assert len(find_samples(root, DATASET, "train", HoldoutSpec())) == 20


def test_a_pattern_searches_the_path_below_the_folder_of_the_images(root: Path) -> None:
    parts = find_parts(root, DATASET, HoldoutSpec(share=0.2, pattern="^(.+)/", seed=1))
    (held,) = {name.partition("/")[0] for name in list_names(parts.holdout)}
    (rest,) = {name.partition("/")[0] for name in list_names(parts.train)}
    assert {held, rest} == {"bonn", "köln"}


def test_the_unicode_form_of_the_names_does_not_change_the_draw(root: Path, tmp_path: Path) -> None:
    """macOS decomposes the letters of names."""
    other = make_data_set(tmp_path / "copy", [unicodedata.normalize("NFD", name) for name in NAMES])
    for holdout in (BLOCKS, HoldoutSpec(share=0.2, pattern="^(.+)/")):
        first, second = (find_parts(folder, DATASET, holdout) for folder in (root, other))
        assert first.names_sha256 == second.names_sha256
        assert list_names(first.holdout) == [
            unicodedata.normalize("NFC", name) for name in list_names(second.holdout)
        ]


def test_the_digest_covers_the_names_of_both_parts(root: Path) -> None:
    digests = {
        find_parts(root, DATASET, holdout).names_sha256
        for holdout in (BLOCKS, HoldoutSpec(share=0.2, blocks=3), HoldoutSpec(share=0.4, blocks=3))
    }
    assert len(digests) == 3


def test_a_list_names_the_held_out_images(root: Path) -> None:
    path = root / "held.txt"
    path.write_text("# last frames\nbonn/09\nimages/train/köln/09.jpg\n", encoding="utf-8")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for sha256 in ("", digest, digest[:8].upper()):
        parts = find_parts(root, DATASET, HoldoutSpec(list="held.txt", list_sha256=sha256))
        assert list_names(parts.holdout) == ["bonn/09", "köln/09"]
        assert (len(parts.train), parts.gap) == (18, [])


@pytest.mark.parametrize(
    ("text", "holdout", "sentence"),
    [
        ("bonn/11\n", HoldoutSpec(list="held.txt"), "held.txt: 1 of 1 names fit no image: bonn/11"),
        ("09\n", HoldoutSpec(list="held.txt"), "1 of 1 names fit several images: 09 (images/train"),
        ("\n".join(NAMES), HoldoutSpec(list="held.txt"), "names all 20 images of 'train', so none"),
        ("", HoldoutSpec(list="held.txt"), "held.txt: names no image"),
        ("a", HoldoutSpec(list="other.txt"), "other.txt: the list of the held-out images is miss"),
        ("a", HoldoutSpec(list="../held.txt"), "'../held.txt' is outside of the data set's folder"),
        ("bonn/09", HoldoutSpec(list="held.txt", list_sha256="00"), ", expected 00. Get the exp"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    root: Path, text: str, holdout: HoldoutSpec, sentence: str
) -> None:
    (root / "held.txt").write_text(text, encoding="utf-8")
    with pytest.raises((DataError, UsageError), match=re.escape(sentence)):
        find_parts(root, DATASET, holdout)


def test_the_summary_counts_images_and_names_absent_classes(tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("bonn/00\nbonn/01\n")
    root = make_data_set(tmp_path, NAMES, {"bonn/01": 2, "bonn/02": 1})
    summary = check_holdout(root, DATASET, HoldoutSpec(list="held.txt"), ("train",))
    assert summary.to_dict() == {
        "train_images": 18,
        "holdout_images": 2,
        "gap_images": 0,
        "names_sha256": find_parts(root, DATASET, HoldoutSpec(list="held.txt")).names_sha256,
        "absent_classes": ["tree"],
    }
    assert summary.describe() == (
        "holdout (images of train in held.txt): 18 images to train on, 2 held out, 0 in gaps; "
        "note: the holdout has no pixel of tree"
    )


def test_reading_ends_when_each_class_is_present(tmp_path: Path) -> None:
    root = make_data_set(tmp_path, NAMES, {"bonn/00": 0, "bonn/01": 1, "bonn/02": 2})
    (root / "held.txt").write_text("\n".join(NAMES[:4]), encoding="utf-8")
    (root / "annotations" / "train" / "bonn" / "03.png").write_bytes(b"not an image")
    summary = check_holdout(root, DATASET, HoldoutSpec(list="held.txt"), ("train",))
    assert summary.absent_classes == ()
    assert "note" not in summary.describe()


@pytest.mark.parametrize(
    ("labelled", "sentence"),
    [
        (NAMES[1:], "no pixel of the 1 images of the holdout (images of train in held.txt) has a"),
        (NAMES[:1], "no pixel of the 19 images that the holdout (images of train in held.txt) le"),
    ],
)
def test_a_part_without_labels_is_refused(
    tmp_path: Path, labelled: list[str], sentence: str
) -> None:
    ignored = {name: 255 for name in NAMES if name not in labelled}
    root = make_data_set(tmp_path, NAMES, ignored)
    (root / "held.txt").write_text(NAMES[0])
    with pytest.raises(DataError, match=re.escape(sentence)):
        check_holdout(root, DATASET, HoldoutSpec(list="held.txt"), ("train",))
    if labelled == NAMES[:1]:  # a weakly supervised training reads no label maps
        check_holdout(root, DATASET, HoldoutSpec(list="held.txt"), ())
