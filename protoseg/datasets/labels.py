"""The mapping from label values in files to class numbers in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protoseg.config.schema import HIGHEST_LABEL, DatasetSpec
from protoseg.datasets.readers.colors import find_palette_problems
from protoseg.errors import UsageError

IGNORE = 255
"""The ignored label in training; the files may use another value."""

WIDE_IGNORE = HIGHEST_LABEL
"""The ignored label in training for more classes than 8-bit labels can encode."""

NO_LABEL = -1
"""Marks, in a `label_table`, a value that the data set does not have."""


def check_labels(dataset: DatasetSpec) -> None:
    """Raise an error if classes, label values and ignored label contradict each other.

    Raises:
        UsageError: names the first contradiction.
    """
    problem = _find_label_problem(dataset)
    if problem:
        raise UsageError(problem)


def _find_label_problem(dataset: DatasetSpec) -> str:
    """The first contradiction in the labels of a data set; empty if there is none."""
    values, ignored = dataset.label_values, dataset.ignore_index
    where = f"dataset {dataset.name}"
    for problem in find_palette_problems(dataset):
        return f"{where}: {problem}"
    if dataset.labels and len(values) != len(dataset.classes):
        return (
            f"{where}: labels: expected one label value for each of the {len(dataset.classes)} "
            f"classes, found {len(values)}."
        )
    if len(set(values)) < len(values):
        return f"{where}: labels: two classes have the same label value. Give each its own."
    if dataset.labels and dataset.reduce_zero_label:
        return f"{where}: labels: requires reduce_zero_label false. List the values in the files."
    if dataset.label_count and max(values) >= dataset.label_count:
        return (
            f"{where}: label_count: {dataset.label_count} label values end at "
            f"{dataset.label_count - 1}, but a class has {max(values)}. Increase label_count."
        )
    for value in dataset.ignore:
        if value in values:
            return (
                f"{where}: ignore: {value} is the label value of "
                f"'{dataset.classes[values.index(value)]}' too. Remove it from one of them."
            )
    # Without explicit labels, ignore_index may be a class: the class is then ignored.
    if ignored in values and (dataset.labels or max(values) >= 255):
        return (
            f"{where}: ignore_index: {ignored} is the label value of "
            f"'{dataset.classes[values.index(ignored)]}' too. Set another value, "
            f"e.g. {HIGHEST_LABEL} with 16-bit label maps."
        )
    return ""


def ignored_label(dataset: DatasetSpec) -> int:
    """The ignored label in training: 255, or 65535 for more than 255 classes."""
    return IGNORE if len(dataset.classes) <= IGNORE else WIDE_IGNORE


def label_values(dataset: DatasetSpec) -> tuple[Sequence[int], set[int]]:
    """The label values in the files: one for each class in order, and the set of ignored ones."""
    values = dataset.label_values
    ignored = {*range(dataset.label_count)} - set(values)
    ignored.update((dataset.ignore_index, *dataset.ignore))
    if dataset.reduce_zero_label:
        ignored.add(0)
    return values, ignored


def label_table(dataset: DatasetSpec) -> np.ndarray:
    """The class, the ignored label or `NO_LABEL` for each label value, (65537,) int32.

    The last entry is for all values that do not fit into 16 bits.

    Raises:
        UsageError: see `check_labels`.
    """
    check_labels(dataset)
    values, ignored = label_values(dataset)
    table = np.full(HIGHEST_LABEL + 2, NO_LABEL, np.int32)
    table[list(values)] = np.arange(len(values))
    table[list(ignored)] = ignored_label(dataset)
    return table


def map_to_classes(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Apply a `label_table` to a label map of any integer type; same shape, int32.

    Raises:
        TypeError: the label values are not integers.
    """
    if labels.dtype == np.bool_:
        labels = labels.view(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"label values must be integers, found {labels.dtype}")
    if labels.dtype not in (np.uint8, np.uint16):
        outside = (labels < 0) | (labels > HIGHEST_LABEL)
        labels = np.where(outside, HIGHEST_LABEL + 1, labels)
    classes: np.ndarray = table[labels]
    return classes


def list_flip_pairs(dataset: DatasetSpec) -> list[tuple[int, int]]:
    """The class numbers of ``flip_pairs``, which a mirrored label map exchanges."""
    number = dataset.classes.index
    return [(number(first), number(second)) for first, second in dataset.flip_pairs]


def flip_classes(dataset: DatasetSpec) -> list[int]:
    """The number that each of the C classes has in a mirror image; applied twice, nothing changes.

    ``scores[flip_classes(dataset)]`` are the (C, H, W) scores of a mirrored image for the classes
    of the image itself.
    """
    classes = list(range(len(dataset.classes)))
    for first, second in list_flip_pairs(dataset):
        classes[first], classes[second] = second, first
    return classes
