"""What `protoseg data check` reports: sizes, pixels and images of each class, equal pictures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.labels import label_values

SHOWN = 5
"""The number of equal pictures that a report names for two splits."""


@dataclass(frozen=True)
class SplitReport:
    """The content of one split. Sizes are (width, height), extremes taken per side."""

    images: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    pixels: dict[str, int]
    """Labelled pixels of each class."""
    images_with: dict[str, int]
    """Images that have a labelled pixel of each class."""
    ignored: int
    """Ignored pixels."""
    absent: tuple[str, ...]
    """Classes without a pixel."""

    def find_share(self, name: str) -> float:
        """Share of a class of the labelled pixels, 0 to 1; 0 if none is labelled."""
        return self.pixels[name] / (sum(self.pixels.values()) or 1)


@dataclass(frozen=True)
class EqualPictures:
    """Image files with the same bytes in two splits, or twice in one."""

    splits: tuple[str, str]
    count: int
    examples: tuple[tuple[str, str], ...]
    """The first of them, as paths relative to the data set."""


@dataclass(frozen=True)
class DataSetReport:
    """The content of a data set that passed the check."""

    name: str
    root: str
    splits: dict[str, SplitReport]
    equal_pictures: tuple[EqualPictures, ...]
    digest: str
    seconds: float
    notes: tuple[str, ...] = ()
    """Sentences about what is no error, but may not be intended."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, for JSON."""
        plain = dataclasses.asdict(self)
        for name, split in self.splits.items():
            shares = {label: split.find_share(label) for label in split.pixels}
            plain["splits"][name]["share"] = shares
        return plain


@dataclass
class SplitCounts:
    """Adds up the content of the pairs of one split; its size does not depend on their number."""

    images: int = 0
    widths: tuple[int, int] = (2**31, 0)
    """Smallest and largest."""
    heights: tuple[int, int] = (2**31, 0)
    pixels: Counter[int] = field(default_factory=Counter)
    """Pixels of each label value in the files."""
    images_with: Counter[int] = field(default_factory=Counter)
    turned_alone: int = 0
    """Images with an EXIF orientation that their label maps do not have."""

    def add_pair(
        self, size: tuple[int, int], counts: dict[int, int], is_turned_alone: bool
    ) -> None:
        """Add one pair: its (width, height), and the pixels of each label value."""
        self.turned_alone += is_turned_alone
        width, height = size
        self.images += 1
        self.widths = min(self.widths[0], width), max(self.widths[1], width)
        self.heights = min(self.heights[0], height), max(self.heights[1], height)
        self.pixels.update(counts)
        self.images_with.update(counts.keys())

    def make_report(self, dataset: DatasetSpec) -> SplitReport:
        """The report on the pairs that were added."""
        values, ignored = label_values(dataset)
        classes = list(zip(dataset.classes, values, strict=True))
        pixels = {name: 0 if value in ignored else self.pixels[value] for name, value in classes}
        return SplitReport(
            images=self.images,
            smallest=(self.widths[0], self.heights[0]),
            largest=(self.widths[1], self.heights[1]),
            pixels=pixels,
            images_with={
                name: 0 if value in ignored else self.images_with[value] for name, value in classes
            },
            ignored=self.pixels.total() - sum(pixels.values()),
            absent=tuple(name for name, count in pixels.items() if count == 0),
        )


class PictureIndex:
    """Finds image files with the same bytes.

    It keeps 16 bytes of the SHA-256 of each file, and a path only for the equal ones.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, int]] = {}
        self._equal: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def add_picture(self, content: bytes, split: str, number: int) -> None:
        """Add the file of pair ``number`` of a split by the digest of its content."""
        first = self._first.setdefault(content[:16], (split, number))
        if first == (split, number):
            return
        both = first[0], split
        self._counts[both] += 1
        if self._counts[both] <= SHOWN:
            self._equal.setdefault(both, []).append((first[1], number))

    def find_equal_pictures(
        self, names: Mapping[str, Sequence[tuple[str, str]]]
    ) -> tuple[EqualPictures, ...]:
        """The equal pictures.

        Args:
            names: split -> the names of image and label map of each pair.
        """
        return tuple(
            EqualPictures(
                (first, second),
                self._counts[first, second],
                tuple((names[first][a][0], names[second][b][0]) for a, b in numbers),
            )
            for (first, second), numbers in sorted(self._equal.items())
        )


def describe_orientations(split: str, turned_alone: int, images: int) -> list[str]:
    """A sentence about the images of a split that are turned, but their label maps are not."""
    if not turned_alone:
        return []
    return [
        f"{split}: {turned_alone} of {images} images are turned by an EXIF orientation that their "
        "label maps do not have. The label maps must show the turned images."
    ]
