"""Check a data set completely before training: read every file, compare with the spec."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg.config.schema import HIGHEST_LABEL, DatasetSpec
from protoseg.datasets import digest, layout, shapes
from protoseg.datasets.labels import (
    NO_LABEL,
    ignored_label,
    label_table,
    label_values,
    map_to_classes,
)
from protoseg.datasets.layout import Pair
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.datasets.readers.photographs import read_orientation, read_photograph
from protoseg.errors import DataError


@dataclass(frozen=True)
class SplitReport:
    """The content of one split. Sizes are (width, height), extremes taken per side."""

    images: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    pixels: dict[str, int]
    """Labelled pixels of each class."""
    ignored: int
    """Ignored pixels."""
    absent: tuple[str, ...]
    """Classes without a pixel."""


@dataclass(frozen=True)
class DataSetReport:
    """The content of a data set that passed the check."""

    name: str
    root: str
    splits: dict[str, SplitReport]
    digest: str
    seconds: float
    notes: tuple[str, ...] = ()
    """Sentences about what is no error, but may not be intended."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _PairContent:
    """One pair of files: its problems, or its size and the pixels of each raw label value."""

    problems: list[str]
    size: tuple[int, int] = (0, 0)
    counts: dict[int, int] = dataclasses.field(default_factory=dict)
    pixel_hash: bytes = b""
    is_turned_alone: bool = False
    """The image has an EXIF orientation, its label map has none."""


def check_data_set(
    root: Path, dataset: DatasetSpec, *, progress: Callable[[int, int], None] | None = None
) -> DataSetReport:
    """Read every image and annotation, and compare them with the spec.

    Args:
        root: the folder of the data set, see `layout.find_root`.
        dataset: the spec.
        progress: called with (pairs read, all pairs) after each pair.

    Raises:
        DataError: missing, unpaired or unreadable files, pairs of different sizes, labels out of
            range, annotations with several channels, wrong counts, or another digest. The message
            lists up to five problems.
    """
    start = time.perf_counter()
    pairs_by_split: dict[str, list[Pair]] = {}
    problems: list[str] = []
    for split in sorted({dataset.train_split, *layout.find_splits(root, dataset)}):
        pairs_by_split[split], missing = layout.scan_split(root, dataset, split)
        problems += missing or _count_problems(root, dataset, split, len(pairs_by_split[split]))
    all_pairs = [pair for members in pairs_by_split.values() for pair in members]
    contents = []
    # Decoders release the GIL, so threads use all cores.
    with ThreadPoolExecutor(digest.count_reader_threads()) as pool:
        for content in pool.map(lambda pair: _read_pair(pair, dataset), all_pairs):
            contents.append(content)
            problems += content.problems
            if progress is not None:
                progress(len(contents), len(all_pairs))
    layout.raise_problems(problems)

    data_digest = digest.folder_digest(root, dataset)
    if digest.is_mismatch(dataset, data_digest):
        problems.append(digest.mismatch_message(root, dataset, data_digest))
    if dataset.generator:
        problems += _generated_problems(root, pairs_by_split, all_pairs, contents)
    layout.raise_problems(problems)

    reports, first = {}, 0
    notes: list[str] = []
    for split, members in pairs_by_split.items():
        split_contents = contents[first : first + len(members)]
        first += len(members)
        reports[split] = _summarise_split(dataset, split_contents)
        problems += _unlabelled_problems(root, dataset, split, reports[split])
        notes += layout.describe_oddities(root, dataset, split)
        notes += _orientation_notes(split, split_contents)
    layout.raise_problems(problems)
    seconds = round(time.perf_counter() - start, 3)
    return DataSetReport(
        dataset.name, str(root), reports, data_digest, seconds, tuple(dict.fromkeys(notes))
    )


def _read_pair(pair: Pair, dataset: DatasetSpec) -> _PairContent:
    try:
        image = read_photograph(pair.image)
        labels = read_label_map(pair.annotation)
    except DataError as error:
        return _PairContent([str(error)])
    counts = _count_labels(labels)
    if image.shape[:2] != labels.shape:
        return _PairContent([_size_message(pair, image, labels)])
    problems = _range_problems(pair.annotation, dataset, counts)
    pixel_hash = shapes.hash_pixels(image[..., ::-1], labels) if dataset.generator else b""
    size = labels.shape[1], labels.shape[0]
    is_turned_alone = read_orientation(pair.image) != 1 and read_orientation(pair.annotation) == 1
    return _PairContent(problems, size, counts, pixel_hash, is_turned_alone)


def _size_message(pair: Pair, image: np.ndarray, labels: np.ndarray) -> str:
    orientation = read_orientation(pair.image)
    turned, remedy = "", "Replace the wrong file."
    if orientation != 1:
        turned = f" after its EXIF orientation {orientation} is applied"
        remedy = "Give both files the same orientation, or apply it to both."
    return (
        f"{pair.annotation}: is {labels.shape[1]}×{labels.shape[0]} pixels, but its image "
        f"{pair.image} is {image.shape[1]}×{image.shape[0]}{turned}. {remedy}"
    )


def _count_labels(labels: np.ndarray) -> dict[int, int]:
    """Pixels of each label value; sparse, to save memory with tens of thousands of 16-bit maps."""
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= HIGHEST_LABEL:
        values, counts = np.unique(labels, return_counts=True)
    else:
        histogram = np.bincount(labels.ravel())  # many times faster
        values = np.flatnonzero(histogram)
        counts = histogram[values]
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _range_problems(path: Path, dataset: DatasetSpec, counts: dict[int, int]) -> list[str]:
    classes, ignored = label_values(dataset)
    valid = ignored.union(classes)
    invalid = [value for value in sorted(counts) if value not in valid]
    if not invalid:
        return []
    shown = ", ".join(f"{value} ({counts[value]} pixels)" for value in invalid[:5])
    more = f" and {len(invalid) - 5} more values" if len(invalid) > 5 else ""
    ignored_text = ", ".join(str(v) for v in sorted(ignored.difference(classes)))
    allowed = f"{classes[0]} to {classes[-1]} for the {len(classes)} classes"
    if dataset.label_count:
        allowed = f"0 to {dataset.label_count - 1}, of which {len(classes)} are classes"
        outside = sorted(v for v in ignored if v >= dataset.label_count)
        ignored_text = ", ".join(map(str, outside))
    elif dataset.labels:
        allowed = f"{', '.join(map(str, sorted(classes)))} for the {len(classes)} classes"
    return [
        f"{path}: label out of range: {shown}{more}; allowed: {allowed}"
        f"{f', {ignored_text} (ignored)' if ignored_text else ''}. Correct the file, or the "
        "data set's classes, labels, label_count, ignore, ignore_index or reduce_zero_label."
    ]


def _count_problems(root: Path, dataset: DatasetSpec, split: str, count: int) -> list[str]:
    expected = dataset.counts.get(split, count)
    if count == expected:
        return []
    folder, _ = layout.split_folders(root, dataset, split)
    return [
        f"{folder}: {count} images, expected {expected}. Complete the copy, or accept this one "
        f"with dataset.counts.{split}={count} on the command line."
    ]


def _unlabelled_problems(
    root: Path, dataset: DatasetSpec, split: str, report: SplitReport
) -> list[str]:
    if any(report.pixels.values()):
        return []
    _, folder = layout.split_folders(root, dataset, split)
    return [unlabelled_message(folder, split)]


def unlabelled_message(folder: Path, split: str) -> str:
    """The error message for a split in which every pixel is ignored."""
    return (
        f"{folder}: no pixel of split '{split}' has a class; all are ignored. Check the label "
        "maps and the data set's classes, labels, ignore and ignore_index."
    )


def require_labelled_pixels(root: Path, dataset: DatasetSpec, split: str) -> None:
    """Check that a split has a pixel with a class; reads label maps until one is found.

    Raises:
        DataError: all pixels of the split are ignored, or a label map cannot be read.
    """
    table, ignored = label_table(dataset), ignored_label(dataset)
    for pair in layout.find_pairs(root, dataset, split):
        classes = map_to_classes(read_label_map(pair.annotation), table)
        if ((classes != ignored) & (classes != NO_LABEL)).any():
            return
    raise DataError(unlabelled_message(layout.split_folders(root, dataset, split)[1], split))


def _orientation_notes(split: str, contents: list[_PairContent]) -> list[str]:
    count = sum(content.is_turned_alone for content in contents)
    if not count:
        return []
    return [
        f"{split}: {count} of {len(contents)} images are turned by an EXIF orientation that their "
        "label maps do not have. The label maps must show the turned images."
    ]


def _generated_problems(
    root: Path,
    pairs_by_split: dict[str, list[Pair]],
    all_pairs: list[Pair],
    contents: list[_PairContent],
) -> list[str]:
    content_of = dict(zip(all_pairs, contents, strict=True))
    hashes = [
        content_of[pair].pixel_hash
        for split in shapes.SPLITS
        for pair in pairs_by_split.get(split, [])
    ]
    marker = shapes.read_marker(root) or {}
    if marker.get("pixels") == shapes.combine_digests(hashes):
        return []
    return [
        f"{root}: the pixels differ from the generated ones. "
        "Delete the folder; it is generated again on the next use."
    ]


def _summarise_split(dataset: DatasetSpec, contents: list[_PairContent]) -> SplitReport:
    classes, ignored = label_values(dataset)
    total: Counter[int] = Counter()
    for content in contents:
        total.update(content.counts)
    pixels = {
        name: 0 if value in ignored else total[value]
        for name, value in zip(dataset.classes, classes, strict=True)
    }
    sizes = np.array([content.size for content in contents])
    (low_w, low_h), (high_w, high_h) = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
    return SplitReport(
        images=len(contents),
        smallest=(low_w, low_h),
        largest=(high_w, high_h),
        pixels=pixels,
        ignored=total.total() - sum(pixels.values()),
        absent=tuple(name for name, count in pixels.items() if count == 0),
    )
