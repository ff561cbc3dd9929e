"""Checks before training that a holdout and the rest of the training split have labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg.config.holdout.settings import HoldoutSpec, describe_holdout
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.labels import NO_LABEL, ignored_label, label_table, map_to_classes
from protoseg.datasets.layout import Pair
from protoseg.datasets.pairing.holdout_parts import find_parts
from protoseg.datasets.readers.colors import make_color_table
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.errors import DataError


@dataclass(frozen=True)
class HoldoutSummary:
    """The sizes of the parts of a training split, and the classes that the holdout lacks."""

    rule: str
    """The settings, as `describe_holdout` describes them."""
    train_images: int
    holdout_images: int
    gap_images: int
    names_sha256: str
    """See `HoldoutParts.names_sha256`."""
    absent_classes: tuple[str, ...]
    """Classes without a pixel in the holdout; their IoU is undefined."""

    def to_dict(self) -> dict[str, Any]:
        """Return the part of a record that describes the holdout."""
        return {
            "train_images": self.train_images,
            "holdout_images": self.holdout_images,
            "gap_images": self.gap_images,
            "names_sha256": self.names_sha256,
            "absent_classes": list(self.absent_classes),
        }

    def describe(self) -> str:
        """Describe the parts in one line of a log."""
        text = (
            f"{self.rule}: {self.train_images} images to train on, {self.holdout_images} held "
            f"out, {self.gap_images} in gaps"
        )
        if not self.absent_classes:
            return text
        return f"{text}; note: the holdout has no pixel of {', '.join(self.absent_classes)}"


def check_holdout(
    root: Path, dataset: DatasetSpec, holdout: HoldoutSpec, train_splits: Collection[str]
) -> HoldoutSummary:
    """Check the parts of a training split, and find the classes that the holdout lacks.

    Label maps of the holdout are read until each class was in one of them.

    Args:
        root: the folder of the data set.
        dataset: its spec.
        holdout: settings of the holdout.
        train_splits: the training split if its label maps are used; otherwise empty.

    Raises:
        DataError: all pixels of a part are ignored, a label map cannot be read, or see
            `find_parts`.
        UsageError: see `find_parts`.
    """
    parts = find_parts(root, dataset, holdout)
    rule = describe_holdout(holdout, dataset.train_split)
    number = len(dataset.classes)
    present = _find_classes(parts.holdout, dataset, number)
    if not present:
        raise DataError(
            f"{root}: no pixel of the {len(parts.holdout)} images of the {rule} has a class. "
            "Choose another seed or rule, or check the label maps."
        )
    if train_splits and not _find_classes(parts.train, dataset, 1):
        raise DataError(
            f"{root}: no pixel of the {len(parts.train)} images that the {rule} leaves to train "
            "on has a class. Choose another seed or rule, or check the label maps."
        )
    return HoldoutSummary(
        rule=rule,
        train_images=len(parts.train),
        holdout_images=len(parts.holdout),
        gap_images=len(parts.gap),
        names_sha256=parts.names_sha256,
        absent_classes=tuple(
            name for index, name in enumerate(dataset.classes) if index not in present
        ),
    )


def _find_classes(pairs: Iterable[Pair], dataset: DatasetSpec, number: int) -> set[int]:
    """The classes in the label maps; reading ends when ``number`` of them are present."""
    present: set[int] = set()
    for classes in _read_classes(pairs, dataset):
        present |= classes
        if len(present) >= number:
            break
    return present


def _read_classes(pairs: Iterable[Pair], dataset: DatasetSpec) -> Iterator[set[int]]:
    """Yield the classes of each label map."""
    table, colors = label_table(dataset), make_color_table(dataset)
    unused = {ignored_label(dataset), NO_LABEL}
    for pair in pairs:
        labels = map_to_classes(read_label_map(pair.annotation, colors=colors), table)
        yield {int(label) for label in np.unique(labels)} - unused
