"""Image-level labels from label maps and from lists in PASCAL VOC's format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import raw
from datasets.helpers import read_spec
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.digest import folder_digest
from protoseg.datasets.image_labels import ImageLabels
from protoseg.datasets.prepare.registry import PREPARATIONS
from protoseg.datasets.prepare.runner import prepare_data_set
from protoseg.errors import DataError

SPEC = DatasetSpec(
    name="x", digest="unpinned", classes=("ground", "a", "b", "c"), counts={"train": 1}
)


def classes_of_map(tmp_path: Path, values: list[list[int]], **changes: object) -> tuple[int, ...]:
    path = tmp_path / "map.png"
    Image.fromarray(np.array(values, np.uint8)).save(path)
    labels = ImageLabels(dataclasses.replace(SPEC, **changes), tmp_path)  # type: ignore[arg-type]
    return labels.find_classes(tmp_path / "map.jpg", path)


def test_image_level_labels_from_a_label_map(tmp_path: Path) -> None:
    values = [[0, 0, 1, 255], [3, 3, 3, 255]]
    assert classes_of_map(tmp_path, values) == (1, 3), "without the background and ignored pixels"
    assert classes_of_map(tmp_path, [[0, 255]]) == ()
    assert classes_of_map(tmp_path, values, image_label_share=2 / 8) == (3,)
    assert classes_of_map(tmp_path, values, image_label_share=1 / 8) == (1, 3), (
        "this share is included"
    )
    assert classes_of_map(tmp_path, values, labels=(0, 7, 1, 3), label_count=9) == (2, 3)
    assert classes_of_map(tmp_path, [[0, 1, 2, 3]], reduce_zero_label=True) == (1, 2)


def prepared(tmp_path: Path) -> tuple[Path, DatasetSpec]:
    """Prepare a small VOC; return its folder, and its spec with image-level labels from lists."""
    source = raw.voc(tmp_path)
    person = source / "ImageSets" / "Main" / "person_trainval.txt"
    # 0 marks an object that is hard to see.
    person.write_text(person.read_text().replace("2007_000001 -1", "2007_000001  0"))
    dataset = read_spec("pascal_voc_weak")
    target = tmp_path / "data" / dataset.place
    manifest = prepare_data_set(
        PREPARATIONS[dataset.place](tmp_path, dataset), dataset, target, jobs=1, progress=None
    )
    return target, dataclasses.replace(dataset, counts=manifest["images"])


def test_image_level_labels_from_lists_of_pascal_voc(tmp_path: Path) -> None:
    root, dataset = prepared(tmp_path)
    labels = ImageLabels(dataset, root)
    nowhere = Path("this file is not read")
    assert labels.find_classes(root / "images/train_aug/2007_000001.jpg", nowhere) == (1, 15)
    assert labels.find_classes(root / "images/train_aug/2008_000004.jpg", nowhere) == (14,)
    assert labels.find_classes(root / "images/val/2007_000002.jpg", nowhere) == (2,)
    with pytest.raises(
        DataError, match=r"no image-level labels of 1\.jpg\. Complete the lists, or"
    ):
        labels.find_classes(Path("1.jpg"), nowhere)


def test_the_digest_covers_the_lists_if_the_data_set_uses_them(tmp_path: Path) -> None:
    root, dataset = prepared(tmp_path)
    without = dataclasses.replace(dataset, image_labels="")
    before = folder_digest(root, dataset), folder_digest(root, without)
    assert before[0] != before[1]
    person = root / "image_labels" / "person.txt"
    text = person.read_text()
    person.unlink()
    person.write_text(text.replace("2008_000004 -1", "2008_000004  1"))
    assert folder_digest(root, dataset) != before[0]
    assert folder_digest(root, without) == before[1]


def test_missing_or_malformed_lists_are_errors(tmp_path: Path) -> None:
    root, dataset = prepared(tmp_path)
    (root / "image_labels" / "dog.txt").unlink()
    with pytest.raises(DataError, match=r"image_labels/dog\.txt: the list of images with this cl"):
        ImageLabels(dataset, root)
    (root / "image_labels" / "dog.txt").write_text("2007_000001 -1\n2008_000004 2\n")
    with pytest.raises(DataError, match=r"dog\.txt: line 2: expected the name of an image and 1,"):
        ImageLabels(dataset, root)
