"""Check a data set completely before training: read every file, compare with the spec."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import digest, layout, shapes
from protoseg.datasets.check_report import (
    DataSetReport,
    PictureIndex,
    SplitCounts,
    describe_orientations,
)
from protoseg.datasets.labels import (
    NO_LABEL,
    ignored_label,
    label_table,
    label_values,
    map_to_classes,
)
from protoseg.datasets.layout import Pair
from protoseg.datasets.pairing.file_patterns import make_patterns
from protoseg.datasets.readers.colors import make_color_table
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.datasets.readers.photographs import (
    check_photograph,
    read_orientation,
    read_photograph,
)
from protoseg.datasets.worker_pool import (
    WorkerPool,
    count_cores,
    has_many_files,
    split_into_chunks,
)
from protoseg.errors import DataError

MANY_FILES = 8000
"""With more files the check uses processes, which need a second to start; threads otherwise."""

CHUNK = 16
"""Pairs in one task of a process."""


@dataclass(frozen=True)
class _PairContent:
    """One pair of files: its problems, or what the report, the digest and the duplicates need."""

    problems: list[str]
    size: tuple[int, int] = (0, 0)
    """(width, height)"""
    counts: dict[int, int] = dataclasses.field(default_factory=dict)
    """Pixels of each label value in the file."""
    files: tuple[list[Any], ...] = ()
    """The entries of image and annotation, see `digest.read_hashed`."""
    pixel_hash: bytes = b""
    is_turned_alone: bool = False
    """The image has an EXIF orientation, its label map has none."""


def check_data_set(
    root: Path,
    dataset: DatasetSpec,
    *,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataSetReport:
    """Read every image and annotation, and compare them with the spec.

    Args:
        root: the folder of the data set, see `layout.find_root`.
        dataset: the spec.
        jobs: number of processes or threads; None for one per core.
        progress: called with (pairs read, all pairs) after each pair.

    Raises:
        DataError: missing, unpaired or unreadable files, pairs of different sizes, labels out of
            range, annotations with several channels, wrong counts, or another digest. The message
            lists up to five problems.
    """
    start = time.perf_counter()
    jobs = jobs or count_cores()
    use_processes = jobs > 1 and has_many_files(root, MANY_FILES)
    # Processes start while the folders are scanned.
    with WorkerPool(jobs, use_processes=use_processes, module=__name__) as pool:
        # Names instead of paths, which need three times the memory.
        names: dict[str, list[tuple[str, str]]] = {}
        problems: list[str] = []
        notes: list[str] = []
        splits = layout.find_splits(root, dataset)
        for split in sorted({dataset.train_split, *splits}):
            pairs, missing = layout.scan_split(root, dataset, split)
            problems += missing or _count_problems(root, dataset, split, len(pairs))
            names[split] = [_name_pair(root, pair) for pair in pairs]
            del pairs
            if not missing:
                notes += layout.describe_oddities(root, dataset, split)
        total = sum(map(len, names.values()))
        contents = _read_pairs(root, names, dataset, pool, CHUNK if use_processes else CHUNK // 4)
        counts = {split: SplitCounts() for split in names}
        pictures, pixel_hashes = PictureIndex(), {}
        pair_files: dict[str, list[Any]] = {}
        done = 0
        for split, members in names.items():
            for number, (pair_names, content) in enumerate(zip(members, contents, strict=False)):
                problems += content.problems
                if not content.problems:
                    counts[split].add_pair(content.size, content.counts, content.is_turned_alone)
                    pictures.add_picture(bytes.fromhex(content.files[0][2]), split, number)
                    if split in splits:
                        pair_files.update(zip(pair_names, content.files, strict=True))
                    if dataset.generator:
                        pixel_hashes[split, number] = content.pixel_hash
                done += 1
                if progress is not None:
                    progress(done, total)
    layout.raise_problems(problems)
    equal_pictures = pictures.find_equal_pictures(names)
    names.clear()
    del pictures

    data_digest = digest.folder_digest(root, dataset, pair_files=pair_files)
    if digest.is_mismatch(dataset, data_digest):
        problems.append(digest.mismatch_message(root, dataset, data_digest))
    if dataset.generator:
        problems += _generated_problems(root, pixel_hashes)
    reports = {split: counts[split].make_report(dataset) for split in counts}
    for split, report in reports.items():
        if not any(report.pixels.values()):
            problems.append(_unlabelled_message(root, dataset, split))
        notes += describe_orientations(split, counts[split].turned_alone, report.images)
    layout.raise_problems(problems)
    return DataSetReport(
        name=dataset.name,
        root=str(root),
        splits=reports,
        notes=tuple(dict.fromkeys(notes)),
        equal_pictures=equal_pictures,
        digest=data_digest,
        seconds=round(time.perf_counter() - start, 3),
    )


def _name_pair(root: Path, pair: Pair) -> tuple[str, str]:
    start = len(str(root / "x")) - 1  # Path.relative_to takes ten times as long
    return str(pair.image)[start:], str(pair.annotation)[start:]


def _read_pairs(
    root: Path,
    names: dict[str, list[tuple[str, str]]],
    dataset: DatasetSpec,
    pool: WorkerPool,
    chunk: int,
) -> Iterator[_PairContent]:
    """The content of all pairs, in order."""
    chunks = split_into_chunks(itertools.chain.from_iterable(names.values()), chunk)
    call = functools.partial(_read_chunk, root=root, dataset=dataset)
    for contents in pool.map_tasks(call, chunks):
        yield from contents


def _read_chunk(
    chunk: list[tuple[str, str]], root: Path, dataset: DatasetSpec
) -> list[_PairContent]:
    return [
        _read_pair(Pair(root / image, root / annotation), dataset) for image, annotation in chunk
    ]


def _read_pair(pair: Pair, dataset: DatasetSpec) -> _PairContent:
    pixel_hash = b""
    try:
        content, image_entry = digest.read_hashed(pair.image)
        map_content, map_entry = digest.read_hashed(pair.annotation)
        labels = read_label_map(pair.annotation, map_content, make_color_table(dataset))
        if dataset.generator:
            image = read_photograph(pair.image)
            shape, orientation = image.shape[:2], 1
            pixel_hash = shapes.hash_pixels(image[..., ::-1], labels)
        else:
            shape, orientation = check_photograph(pair.image, content)
    except DataError as error:
        return _PairContent([str(error)])
    counts = _count_labels(labels)
    if shape != labels.shape:
        return _PairContent([_size_message(pair, shape, labels.shape)])
    problems = _range_problems(pair.annotation, dataset, counts)
    size, files = (labels.shape[1], labels.shape[0]), (image_entry, map_entry)
    is_turned_alone = orientation != 1 and read_orientation(pair.annotation) == 1
    return _PairContent(problems, size, counts, files, pixel_hash, is_turned_alone)


def _size_message(pair: Pair, image: tuple[int, ...], labels: tuple[int, ...]) -> str:
    orientation = read_orientation(pair.image)
    turned, remedy = "", "Replace the wrong file."
    if orientation != 1:
        turned = f" after its EXIF orientation {orientation} is applied"
        remedy = "Give both files the same orientation, or apply it to both."
    return (
        f"{pair.annotation}: is {labels[1]}×{labels[0]} pixels, but its image "
        f"{pair.image} is {image[1]}×{image[0]}{turned}. {remedy}"
    )


def _count_labels(labels: np.ndarray) -> dict[int, int]:
    """Pixels of each label value; sparse, to save memory with tens of thousands of 16-bit maps."""
    flat = labels.ravel()
    # The lengths of runs of equal values: few, as neighbouring pixels mostly have the same label.
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], starts, [flat.size]])
    histogram = np.bincount(flat[bounds[:-1]], weights=np.diff(bounds)).astype(np.int64)
    values = np.flatnonzero(histogram)
    return dict(zip(values.tolist(), histogram[values].tolist(), strict=True))


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
    images, _ = make_patterns(root, dataset, split)
    return [
        f"{images.folder}: {count} images, expected {expected}. Complete the copy, or accept this "
        f"one with dataset.counts.{split}={count} on the command line."
    ]


def _unlabelled_message(root: Path, dataset: DatasetSpec, split: str) -> str:
    folder = make_patterns(root, dataset, split)[1].folder
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
    colors = make_color_table(dataset)
    for pair in layout.find_pairs(root, dataset, split):
        classes = map_to_classes(read_label_map(pair.annotation, colors=colors), table)
        if ((classes != ignored) & (classes != NO_LABEL)).any():
            return
    raise DataError(_unlabelled_message(root, dataset, split))


def _generated_problems(root: Path, pixel_hashes: dict[tuple[str, int], bytes]) -> list[str]:
    """Compare the hashes of the pairs, by split and number, with those of the generator."""
    hashes = [
        pixel_hashes[key]
        for split in shapes.SPLITS
        for key in sorted(key for key in pixel_hashes if key[0] == split)
    ]
    marker = shapes.read_marker(root) or {}
    if marker.get("pixels") == shapes.combine_digests(hashes):
        return []
    return [
        f"{root}: the pixels differ from the generated ones. "
        "Delete the folder; it is generated again on the next use."
    ]
