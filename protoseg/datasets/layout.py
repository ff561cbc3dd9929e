"""The files of a data set: its root folder, its splits, and the pairs of image and annotation."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import NamedTuple

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import shapes
from protoseg.datasets.folder_scan import describe_endings, describe_outside_links, scan_folder
from protoseg.datasets.labels import check_labels
from protoseg.datasets.pairing.file_patterns import (
    PLACEHOLDER,
    FilePattern,
    find_pattern_problems,
    make_patterns,
)
from protoseg.datasets.pairing.split_lists import (
    NameIndex,
    describe_missing_root,
    find_split_file,
    select_names,
)
from protoseg.errors import DataError, UsageError

SHOWN = 5
"""The number of problems that one message lists; further ones are counted."""


class Pair(NamedTuple):
    """One image and its label map."""

    image: Path
    annotation: Path


def find_root(dataset: DatasetSpec, data_root: Path) -> Path:
    """The folder of a data set below ``data_root``; the built-in data is generated on first use.

    Generated data has the folder ``<name>-<first 8 digits of its digest>``: other arguments of
    the generator give another folder.

    Raises:
        DataError: the generated data cannot be written, or its folder has other content.
        UsageError: unknown or invalid arguments in ``dataset.generator``, or labels that
            contradict each other.
    """
    check_labels(dataset)
    for problem in find_pattern_problems(dataset):
        raise UsageError(problem)
    if not dataset.generator:
        return data_root / dataset.place
    digest = shapes.generator_digest(dataset.generator)
    root = data_root / f"{dataset.place}-{digest[:8]}"
    return shapes.generate_data_set(root, **shapes.parse_arguments(dataset.generator))


def find_splits(root: Path, dataset: DatasetSpec) -> list[str]:
    """The splits of a data set, sorted by name.

    These are the splits in ``dataset.counts``; without counts, those in ``dataset.split_files``;
    without both, all splits that have a folder of images or annotations.

    Raises:
        DataError: the root folder is missing, or has no split.
    """
    if not root.is_dir():
        raise DataError(describe_missing_root(root, dataset))
    if dataset.counts or dataset.split_files:
        return sorted(dataset.counts or dataset.split_files)
    splits = _match_splits(root, dataset.images) | _match_splits(root, dataset.annotations)
    if "{split}" not in dataset.images:
        splits.add(dataset.train_split)
    if not splits:
        raise DataError(
            f"{root}: no split found. Expected are folders like "
            f"'{dataset.images.replace('{split}', dataset.train_split)}'. "
            "Copy the data there, or change dataset.images and dataset.annotations."
        )
    return sorted(splits)


def find_pairs(root: Path, dataset: DatasetSpec, split: str) -> list[Pair]:
    """All pairs of one split, subfolders included, sorted by their common relative name.

    Raises:
        DataError: a folder is missing or empty, an image has no annotation, or an annotation no
            image.
    """
    complete, problems = scan_split(root, dataset, split)
    raise_problems(problems)
    return complete


def scan_split(root: Path, dataset: DatasetSpec, split: str) -> tuple[list[Pair], list[str]]:
    """The complete pairs of one split, and one message for each missing file or folder."""
    _check_split(dataset, split)
    patterns = make_patterns(root, dataset, split)
    for pattern, content in zip(patterns, ("images", "annotations"), strict=True):
        if not pattern.folder.is_dir():
            return [], [_missing_folder_message(root, dataset, pattern.folder, content, split)]
    (images, image_problems), (annotations, map_problems) = map(_index_files, patterns)
    if not images:
        return [], [_no_images_message(patterns[0], dataset.images)]
    problems = image_problems + map_problems
    expected = sorted(images)
    if split in dataset.split_files:
        indexes = (
            NameIndex(files, root, pattern.suffixes)
            for files, pattern in zip((images, annotations), patterns, strict=True)
        )
        path = find_split_file(root, dataset, split)
        expected, list_problems = select_names(path, *indexes)
        problems += list_problems
    else:
        problems += [
            f"{annotations[key]}: has no image; expected "
            f"{_expected_file(patterns[0], dataset.images, key)}. "
            "Add the image or remove the annotation."
            for key in sorted(annotations.keys() - images.keys())
        ]
    problems += [
        f"{images[key]}: has no annotation; expected "
        f"{_expected_file(patterns[1], dataset.annotations, key)}. "
        "Add the annotation or remove the image."
        for key in expected
        if key not in annotations
    ]
    complete = [Pair(images[key], annotations[key]) for key in expected if key in annotations]
    # The order of the pairs decides which images a batch has, so it must not change.
    return sorted(complete, key=lambda pair: patterns[0].find_stem(pair.image)), problems


def _check_split(dataset: DatasetSpec, split: str) -> None:
    """Raise an error if neither a folder nor a list separates this split from the others."""
    if split in dataset.split_files or "{split}" in dataset.images:
        return
    if dataset.split_files:
        raise DataError(
            f"dataset {dataset.name}: split '{split}' has no list; dataset.split_files has "
            f"{', '.join(sorted(dataset.split_files))}. Name one of them in dataset.train_split or "
            "evaluation.split, or add a list."
        )
    if split != dataset.train_split:
        raise DataError(
            f"dataset {dataset.name}: dataset.images '{dataset.images}' has no {{split}}, so split "
            f"'{split}' would have the images of '{dataset.train_split}'. Put {{split}} into it, "
            "or list the images of each split in dataset.split_files."
        )


def _index_files(pattern: FilePattern) -> tuple[dict[str, Path], list[str]]:
    """Key of the pair -> path, and one message for each key that several files have."""
    index: dict[str, Path] = {}
    problems = []
    for suffix in pattern.suffixes:
        for stem, path in find_files(pattern.folder, suffix).items():
            key = None if pattern.has_longer_suffix(path.name, suffix) else pattern.find_key(stem)
            if key is None or (pattern.excluded and pattern.excluded in path.parents):
                continue
            if index.setdefault(key, path) != path:
                problems.append(
                    f"{path}: {index[key]} is a file of the same name. Remove one of them, or "
                    "name fewer suffixes in dataset.image_suffixes or dataset.annotation_suffixes."
                )
    return index, problems


def describe_oddities(root: Path, dataset: DatasetSpec, split: str) -> list[str]:
    """What a user should know about the files of a split, which must exist.

    Sentences about images with another suffix, and about links to folders outside of the data set.
    """
    notes = []
    for pattern in make_patterns(root, dataset, split):
        suffix = pattern.suffixes[0]
        scan = scan_folder(pattern.folder, suffix)
        if pattern.is_whole_folder() and split not in dataset.split_files:
            notes += describe_endings(pattern.folder, suffix, scan)
        notes += describe_outside_links(root, scan)
    return list(dict.fromkeys(notes))


def raise_problems(problems: list[str]) -> None:
    """Raise one `DataError` with the first problems and the number of the others, if any exist."""
    if not problems:
        return
    first, *others = problems
    if not others:
        raise DataError(first)
    shown = others[: SHOWN - 1]
    heading = "1 other" if len(others) == 1 else f"{len(others)} others"
    lines = "\n".join(f"  {problem}" for problem in shown)
    rest = f"\n  and {len(others) - len(shown)} more" if len(others) > len(shown) else ""
    raise DataError(f"{first}\n{heading}:\n{lines}{rest}")


def find_files(folder: Path, suffix: str) -> dict[str, Path]:
    """Files below ``folder`` that end in ``suffix``: relative posix path without suffix -> path.

    Raises:
        DataError: see `scan_folder`.
    """
    return scan_folder(folder, suffix).files


def _match_splits(root: Path, pattern: str) -> set[str]:
    """The values of ``{split}`` for which the folder ``pattern`` exists."""
    if "{split}" not in pattern:
        return set()
    if "{name}" in pattern:
        # Only the folders up to the one with the split: files have no part in it.
        head, _, tail = pattern.partition("{split}")
        pattern = f"{head}{{split}}{tail.partition('/')[0]}"
    parts = PLACEHOLDER.split(pattern)
    names = parts[1::2]
    name = re.compile(
        "".join(
            re.escape(part)
            if index % 2 == 0
            else "(?P<split>[^/.][^/]*)"
            if part == "split" and index // 2 == names.index("split")
            else "[^/]+"
            for index, part in enumerate(parts)
        )
    )
    candidates = (
        path.relative_to(root).as_posix()
        for path in root.glob("*".join(glob.escape(part) for part in parts[::2]))
        if path.is_dir()
    )
    return {match["split"] for text in candidates if (match := name.fullmatch(text))}


def describe_missing_split(root: Path, dataset: DatasetSpec, split: str) -> str:
    """Say which splits exist, and which option selects one of them."""
    option = "dataset.train_split" if split == dataset.train_split else "evaluation.split"
    others = [name for name in find_splits(root, dataset) if name != split]
    if not others:
        return f"No other split is in {root}."
    return f"Splits in {root}: {', '.join(others)}. Choose one, e.g. {option}={others[0]}."


def _missing_folder_message(
    root: Path, dataset: DatasetSpec, folder: Path, content: str, split: str
) -> str:
    return (
        f"{folder}: the folder with the {content} of split '{split}' is missing. "
        f"{describe_missing_split(root, dataset, split)} Or add the folder, change "
        f"dataset.{content}, or list only the splits to be used in dataset.counts."
    )


def _expected_file(pattern: FilePattern, text: str, key: str) -> str:
    """Where the other file of a pair is looked for."""
    suffix = " or ".join(pattern.suffixes)
    if pattern.name is not None:
        return f"a file of the pattern '{text}' ending in {suffix}"
    return f"{pattern.folder / key}{suffix}"


def _no_images_message(pattern: FilePattern, text: str) -> str:
    folder, suffix = pattern.folder, "' or '".join(pattern.suffixes)
    suffixes = sorted({path.suffix for path in scan_folder(folder, "").files.values()})
    hint = (
        f"It has files ending in {', '.join(suffixes)}: change dataset.image_suffix, or add images."
        if suffixes
        else "It is empty: add the images."
    )
    path = f" of the pattern '{text}'" if pattern.name is not None else ""
    return f"{folder}: no images{path} ending in '{suffix}'. {hint}"
