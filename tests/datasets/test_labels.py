"""The mapping from label values to classes, and contradictions in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.helpers import write_labels
from protoseg.datasets.check import check_data_set
from protoseg.datasets.labels import (
    NO_LABEL,
    check_labels,
    ignored_label,
    label_table,
    map_to_classes,
)
from protoseg.datasets.layout import find_root
from protoseg.errors import DataError, UsageError


def test_sparse_label_values_in_any_order_map_to_classes(changed) -> None:
    dataset = changed(labels=(7, 0, 300), label_count=302, ignore_index=65535)
    check_labels(dataset)
    raw = np.array([[7, 0, 300], [1, 301, 65535]], np.uint16)
    assert map_to_classes(raw, label_table(dataset)).tolist() == [[0, 1, 2], [255, 255, 255]]
    assert map_to_classes(np.array([[302, 8]], np.uint16), label_table(dataset)).tolist() == [
        [NO_LABEL, 255]
    ]


def test_without_label_count_only_the_values_of_classes_are_valid(changed) -> None:
    dataset = changed(labels=(7, 0, 30))
    raw = np.array([[7, 0, 30, 1, 255]], np.uint8)
    assert map_to_classes(raw, label_table(dataset)).tolist() == [[0, 1, 2, NO_LABEL, 255]]


def test_label_values_above_the_classes_are_ignored(changed) -> None:
    """Three of five label values are classes, as in a vocabulary of the most frequent classes."""
    table = label_table(changed(label_count=5))
    assert table[:7].tolist() == [0, 1, 2, 255, 255, NO_LABEL, NO_LABEL]


def test_label_maps_of_every_integer_type_map_to_classes(changed) -> None:
    dataset = changed(classes=tuple(f"c{i}" for i in range(300)), ignore_index=65535)
    assert ignored_label(dataset) == 65535
    table = label_table(dataset)
    assert (table[254:257].tolist(), table[299:301].tolist()) == ([254, 255, 256], [299, NO_LABEL])
    for dtype in (np.uint16, np.int32, np.int64):
        assert map_to_classes(np.array([255, 299, 65535], dtype), table).tolist() == [
            255,
            299,
            65535,
        ]
    outside = np.array([-1, 65536, 2**31 - 1], np.int64)
    assert map_to_classes(outside, table).tolist() == [NO_LABEL] * 3
    assert map_to_classes(np.array([True, False]), table).tolist() == [1, 0]
    with pytest.raises(TypeError):
        map_to_classes(np.zeros(3, np.float32), table)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"labels": (1, 2)}, "labels: expected one label value for each of the 3 classes, found 2"),
        ({"labels": (1, 2, 2)}, "labels: two classes have the same label value"),
        ({"labels": (1, 2, 3), "reduce_zero_label": True}, "requires reduce_zero_label false"),
        ({"labels": (1, 2, 9), "label_count": 9}, "9 label values end at 8, but a class has 9"),
        ({"label_count": 2}, "2 label values end at 1, but a class has 2"),
        (
            {"labels": (1, 2, 3), "ignore_index": 2},
            "2 is the label value of 'road' too. Set another value",
        ),
        ({"ignore": (255, 1)}, "ignore: 1 is the label value of 'road' too. Remove it from one"),
        (
            {"classes": tuple(map(str, range(256)))},
            "255 is the label value of '255' too. Set another value, e.g. 65535",
        ),
    ],
)
def test_contradicting_labels_are_reported(
    changed, toy_root: Path, settings: dict[str, Any], sentence: str
) -> None:
    dataset = changed(**settings)
    for function in (check_labels, label_table, lambda d: find_root(d, toy_root.parent)):
        with pytest.raises(UsageError) as error:
            function(dataset)
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)


def test_check_accepts_label_values_of_no_class(changed, toy_root: Path) -> None:
    """Two of 301 label values are classes: the others are ignored, a 302nd is an error."""
    labels = np.zeros((30, 40), np.uint16)
    labels[0, :10], labels[1, :20], labels[2, :30] = 300, 4, 255
    for path in (toy_root / "annotations").glob("*/*.png"):
        write_labels(path, labels)
    dataset = changed(classes=("rare", "sky"), labels=(300, 0), label_count=301, ignore_index=65535)
    train = check_data_set(toy_root, dataset).splits["train"]
    assert train.pixels == {"rare": 30, "sky": 3 * (1200 - 60)}
    assert train.ignored == 3 * 50
    labels[3, :7] = 301
    write_labels(toy_root / "annotations/val/0.png", labels)
    with pytest.raises(
        DataError, match=r"label out of range: 301 \(7 pixels\); allowed: 0 to 300, of"
    ):
        check_data_set(toy_root, dataset)


def test_two_data_sets_may_share_a_folder(changed, toy_root: Path) -> None:
    dataset = changed(name="two", folder="toy", labels=(2, 0, 1))
    root = find_root(dataset, toy_root.parent)
    assert root == toy_root
    shuffled = check_data_set(root, dataset).splits["train"].pixels
    plain = check_data_set(root, changed()).splits["train"].pixels
    assert [shuffled["sky"], shuffled["road"]] == [plain["tree"], plain["sky"]]
