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
from protoseg.errors import DataError

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
    if not dataset.generator:
        return data_root / dataset.place
    digest = shapes.generator_digest(dataset.generator)
    root = data_root / f"{dataset.place}-{digest[:8]}"
    return shapes.generate_data_set(root, **shapes.parse_arguments(dataset.generator))


def split_folders(root: Path, dataset: DatasetSpec, split: str) -> tuple[Path, Path]:
    """The folders of the images and of the annotations of one split."""
    images = root / dataset.images.replace("{split}", split)
    return images, root / dataset.annotations.replace("{split}", split)


def find_splits(root: Path, dataset: DatasetSpec) -> list[str]:
    """The splits of a data set, sorted by name.

    These are the splits in ``dataset.counts``; without counts, all splits that have a folder of
    images or annotations.

    Raises:
        DataError: the root folder is missing, or has no split.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: the folder of the data set '{dataset.name}' is missing. Put the data there "
            "(docs/data.md lists the sources), link to it, or name another data folder."
        )
    if dataset.counts:
        return sorted(dataset.counts)
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
    image_folder, annotation_folder = split_folders(root, dataset, split)
    for folder, content in ((image_folder, "images"), (annotation_folder, "annotations")):
        if not folder.is_dir():
            return [], [_missing_folder_message(folder, content, split)]
    images = find_files(image_folder, dataset.image_suffix)
    annotations = find_files(annotation_folder, dataset.annotation_suffix)
    if not images:
        return [], [_no_images_message(image_folder, dataset.image_suffix)]
    problems = [
        f"{images[stem]}: has no annotation; expected "
        f"{annotation_folder / (stem + dataset.annotation_suffix)}. "
        "Add the annotation or remove the image."
        for stem in sorted(images.keys() - annotations.keys())
    ]
    problems += [
        f"{annotations[stem]}: has no image; expected "
        f"{image_folder / (stem + dataset.image_suffix)}. "
        "Add the image or remove the annotation."
        for stem in sorted(annotations.keys() - images.keys())
    ]

    def original_stem(key: str) -> str:
        # The order of the pairs decides which images a batch has, so it must not change.
        name = images[key].relative_to(image_folder).as_posix()
        return name.removesuffix(dataset.image_suffix)

    both = sorted(images.keys() & annotations.keys(), key=original_stem)
    return [Pair(images[stem], annotations[stem]) for stem in both], problems


def describe_oddities(root: Path, dataset: DatasetSpec, split: str) -> list[str]:
    """What a user should know about the files of a split, which must exist.

    Sentences about images with another suffix, and about links to folders outside of the data set.
    """
    suffixes = (dataset.image_suffix, dataset.annotation_suffix)
    notes = []
    for folder, suffix in zip(split_folders(root, dataset, split), suffixes, strict=True):
        scan = scan_folder(folder, suffix)
        notes += describe_endings(folder, suffix, scan) + describe_outside_links(root, scan)
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
    head, marker, tail = pattern.partition("{split}")
    if not marker:
        return set()
    name = re.compile(re.escape(head) + r"([^/.][^/]*)" + re.escape(tail))
    candidates = (
        path.relative_to(root).as_posix()
        for path in root.glob(f"{glob.escape(head)}*{glob.escape(tail)}")
        if path.is_dir()
    )
    return {match[1] for candidate in candidates if (match := name.fullmatch(candidate))}


def _missing_folder_message(folder: Path, content: str, split: str) -> str:
    return (
        f"{folder}: the folder with the {content} of split '{split}' is missing. Add it, change "
        f"dataset.{content}, or list only the splits to be used in dataset.counts."
    )


def _no_images_message(folder: Path, suffix: str) -> str:
    suffixes = sorted({path.suffix for path in scan_folder(folder, "").files.values()})
    hint = (
        f"It has files ending in {', '.join(suffixes)}: change dataset.image_suffix, or add images."
        if suffixes
        else "It is empty: add the images."
    )
    return f"{folder}: no images ending in '{suffix}'. {hint}"
