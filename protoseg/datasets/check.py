"""Reading a data set completely, once, before any computing time is spent on it."""

from __future__ import annotations

import dataclasses
import struct
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from protoseg.config.schema import HIGHEST_LABEL, DatasetSpec
from protoseg.datasets import digest, layout, shapes
from protoseg.datasets.labels import label_values
from protoseg.datasets.layout import Pair

SINGLE_CHANNEL = ("1", "L", "P", "I;16", "I")
"""Pillow's modes of a label map: 1 bit, 8-bit grey, palette, 16-bit grey (two names)."""

UNREADABLE = (
    OSError,
    SyntaxError,  # Pillow's for a damaged PNG
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class SplitReport:
    """What one split holds. Sizes are (width, height), each side's own extreme."""

    images: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    pixels: dict[str, int]
    """Labelled pixels of each class."""
    ignored: int
    """Pixels that count for nothing."""
    absent: tuple[str, ...]
    """Classes without a pixel."""


@dataclass(frozen=True)
class Report:
    """A data set that was read completely and found in order."""

    name: str
    root: str
    splits: dict[str, SplitReport]
    digest: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Read:
    """What reading one pair found: problems, or size and pixels of each raw label value."""

    problems: list[str]
    size: tuple[int, int] = (0, 0)
    counts: dict[int, int] = dataclasses.field(default_factory=dict)
    pixels: bytes = b""


def check(
    root: Path, dataset: DatasetSpec, *, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Read every image and annotation and compare with what the spec says.

    Args:
        root: the folder of the data set, see `layout.find_root`.
        dataset: what it should be.
        progress: called with (pairs read, pairs in all) after each pair.

    Raises:
        DataError: missing, unpaired or unreadable files, sizes that differ, labels out of range,
            annotations with several channels, wrong counts, another digest. The message names the
            first and up to four more.
    """
    start = time.perf_counter()
    found: dict[str, list[Pair]] = {}
    problems: list[str] = []
    for split in sorted({dataset.train_split, *layout.splits(root, dataset)}):
        found[split], missing = layout.scan(root, dataset, split)
        problems += missing or _count_problems(root, dataset, split, len(found[split]))
    everything = [pair for split in found for pair in found[split]]
    reads = []
    # Decoders let go of the interpreter lock, so threads use all cores.
    with ThreadPoolExecutor(digest.threads()) as pool:
        for read in pool.map(lambda pair: _read(pair, dataset), everything):
            reads.append(read)
            problems += read.problems
            if progress is not None:
                progress(len(reads), len(everything))
    layout.refuse(problems)

    found_digest = digest.folder_digest(root, dataset)
    if digest.differs(dataset, found_digest):
        problems.append(digest.mismatch(root, dataset, found_digest))
    if dataset.generator:
        problems += _generated_problems(root, found, everything, reads)
    layout.refuse(problems)

    reports, first = {}, 0
    for split, members in found.items():
        reports[split] = _summary(dataset, reads[first : first + len(members)])
        first += len(members)
    seconds = round(time.perf_counter() - start, 3)
    return Report(dataset.name, str(root), reports, found_digest, seconds)


def _read(pair: Pair, dataset: DatasetSpec) -> _Read:
    try:
        with Image.open(pair.image) as file:
            # Loaders turn a photograph as its EXIF orientation says; its size is the turned one.
            image = ImageOps.exif_transpose(file.convert("RGB"))
    except UNREADABLE as error:
        return _Read([_unreadable(pair.image, error)])
    try:
        with sound(pair.annotation) as file:
            if file.mode not in SINGLE_CHANNEL:
                return _Read([_several_channels(pair.annotation, file.mode)])
            labels = values(file)
            counts = _counted(labels)
    except UNREADABLE as error:
        return _Read([_unreadable(pair.annotation, error)])
    height, width = labels.shape
    if image.size != (width, height):
        problem = (
            f"{pair.annotation}: is {width}×{height} pixels, but its image {pair.image} "
            f"is {image.width}×{image.height}. Replace the one that is wrong."
        )
        return _Read([problem])
    problems = _range_problems(pair.annotation, dataset, counts)
    pixels = shapes.pixel_digest(np.asarray(image), labels) if dataset.generator else b""
    return _Read(problems, image.size, counts, pixels)


def sound(path: Path) -> Image.Image:
    """An opened image whose checksums hold; decoding a PNG alone does not look at them."""
    with Image.open(path) as file:
        file.verify()
    return Image.open(path)


def values(file: Image.Image) -> np.ndarray:
    """The pixels of an image as numbers; those of one bit are 0 and 1."""
    pixels = np.asarray(file)
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _counted(labels: np.ndarray) -> dict[int, int]:
    """Pixels of each label value; sparse, for there may be ten thousands of maps of 16 bits."""
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= HIGHEST_LABEL:
        values, counts = np.unique(labels, return_counts=True)
    else:
        histogram = np.bincount(labels.ravel())  # many times faster
        values = np.flatnonzero(histogram)
        counts = histogram[values]
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _unreadable(path: Path, error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return f"{path}: can not be decoded ({reason}). Copy or download this file again."


def _several_channels(path: Path, mode: str) -> str:
    return (
        f"{path}: an annotation must have one channel with label values (grey or palette), "
        f"this one has the mode '{mode}'. Convert colours to label values first."
    )


def _range_problems(path: Path, dataset: DatasetSpec, counts: dict[int, int]) -> list[str]:
    classes, ignored = label_values(dataset)
    known = ignored.union(classes)
    wrong = [value for value in sorted(counts) if value not in known]
    if not wrong:
        return []
    shown = ", ".join(f"{value} ({counts[value]} pixels)" for value in wrong[:5])
    more = f" and {len(wrong) - 5} more values" if len(wrong) > 5 else ""
    nothing = ", ".join(str(v) for v in sorted(ignored.difference(classes)))
    allowed = f"{classes[0]}-{classes[-1]} for the {len(classes)} classes"
    if dataset.label_count:
        allowed = f"0-{dataset.label_count - 1}, of which {len(classes)} are classes"
        nothing = "" if dataset.ignore_index < dataset.label_count else str(dataset.ignore_index)
    elif dataset.labels:
        allowed = f"{', '.join(map(str, sorted(classes)))} for the {len(classes)} classes"
    return [
        f"{path}: label out of range: {shown}{more}; allowed: {allowed}"
        f"{f', {nothing} (ignored)' if nothing else ''}. Correct the file, or the data set's "
        "classes, labels, label_count, ignore_index or reduce_zero_label."
    ]


def _count_problems(root: Path, dataset: DatasetSpec, split: str, found: int) -> list[str]:
    expected = dataset.counts.get(split, found)
    if found == expected:
        return []
    folder, _ = layout.folders(root, dataset, split)
    return [
        f"{folder}: {found} images, expected {expected}. Complete the copy, or accept this one "
        f"with dataset.counts.{split}={found} on the command line."
    ]


def _generated_problems(
    root: Path, found: dict[str, list[Pair]], everything: list[Pair], reads: list[_Read]
) -> list[str]:
    by_pair = dict(zip(everything, reads, strict=True))
    chosen = [by_pair[pair].pixels for split in shapes.SPLITS for pair in found.get(split, [])]
    marker = shapes.read_marker(root) or {}
    if marker.get("pixels") == shapes.combined(chosen):
        return []
    return [
        f"{root}: the pixels are not those that were generated. "
        "Delete the folder; it is made again on the next use."
    ]


def _summary(dataset: DatasetSpec, reads: list[_Read]) -> SplitReport:
    classes, ignored = label_values(dataset)
    total: Counter[int] = Counter()
    for read in reads:
        total.update(read.counts)
    pixels = {
        name: 0 if value in ignored else total[value]
        for name, value in zip(dataset.classes, classes, strict=True)
    }
    sizes = np.array([read.size for read in reads])
    (low_w, low_h), (high_w, high_h) = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
    return SplitReport(
        images=len(reads),
        smallest=(low_w, low_h),
        largest=(high_w, high_h),
        pixels=pixels,
        ignored=total.total() - sum(pixels.values()),
        absent=tuple(name for name, count in pixels.items() if count == 0),
    )
