"""Label values as the files hold them, and the class that each one stands for in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protoseg.config.schema import HIGHEST_LABEL, DatasetSpec
from protoseg.errors import UsageError

IGNORE = 255
"""The ignored label inside training, whatever value the files use."""

WIDE_IGNORE = HIGHEST_LABEL
"""The same where there are more classes than labels of 8 bits can tell apart."""

NO_LABEL = -1
"""In a `label_table`: a value that the data set does not have."""


def check_labels(dataset: DatasetSpec) -> None:
    """Refuse a data set whose classes, label values and ignored label do not fit together.

    Raises:
        UsageError: the first thing that does not fit.
    """
    problem = _label_problem(dataset)
    if problem:
        raise UsageError(problem)


def _label_problem(dataset: DatasetSpec) -> str:
    """What does not fit together in a data set's labels, or nothing."""
    values, ignored, where = dataset.label_values, dataset.ignore_index, f"dataset {dataset.name}"
    if dataset.labels and len(values) != len(dataset.classes):
        return (
            f"{where}: labels: expected one label value for each of the {len(dataset.classes)} "
            f"classes, found {len(values)}."
        )
    if len(set(values)) < len(values):
        return f"{where}: labels: two classes have one label value; give each its own."
    if dataset.labels and dataset.reduce_zero_label:
        return f"{where}: labels: name the values in the files, with reduce_zero_label false."
    if dataset.label_count and max(values) >= dataset.label_count:
        return (
            f"{where}: label_count: {dataset.label_count} label values end at "
            f"{dataset.label_count - 1}, but a class has {max(values)}; name more."
        )
    # A small data set may ignore one of its classes on the command line.
    if ignored in values and (dataset.labels or max(values) >= 255):
        return (
            f"{where}: ignore_index: {ignored} is the label value of "
            f"'{dataset.classes[values.index(ignored)]}' too; name another, "
            f"e.g. {HIGHEST_LABEL} with label maps of 16 bits."
        )
    return ""


def ignored_label(dataset: DatasetSpec) -> int:
    """The ignored label inside training: 255, or 65535 for more than 255 classes."""
    return IGNORE if len(dataset.classes) <= IGNORE else WIDE_IGNORE


def label_values(dataset: DatasetSpec) -> tuple[Sequence[int], set[int]]:
    """Values as they stand in the files: the classes' in their order, and the ignored ones."""
    values = dataset.label_values
    ignored = {*range(dataset.label_count)} - set(values)
    ignored.add(dataset.ignore_index)
    if dataset.reduce_zero_label:
        ignored.add(0)
    return values, ignored


def label_table(dataset: DatasetSpec) -> np.ndarray:
    """What becomes of each label value, (65537,) int32: a class, the ignored label, or `NO_LABEL`.

    The last entry stands for all that 16 bits can not hold.

    Raises:
        UsageError: see `check_labels`.
    """
    check_labels(dataset)
    values, ignored = label_values(dataset)
    table = np.full(HIGHEST_LABEL + 2, NO_LABEL, np.int32)
    table[list(values)] = np.arange(len(values))
    table[list(ignored)] = ignored_label(dataset)
    # Tools write 255 around objects whatever a data set says; training has always let it pass.
    if table[IGNORE] == NO_LABEL:
        table[IGNORE] = ignored_label(dataset)
    return table


def to_classes(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`label_table` applied to a label map of any integer type, same shape, int32.

    Raises:
        TypeError: not whole numbers.
    """
    if labels.dtype == np.bool_:
        labels = labels.view(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"label values must be whole numbers, found {labels.dtype}")
    if labels.dtype not in (np.uint8, np.uint16):
        outside = (labels < 0) | (labels > HIGHEST_LABEL)
        labels = np.where(outside, HIGHEST_LABEL + 1, labels)
    classes: np.ndarray = table[labels]
    return classes
