"""Where a data set's files lie: its root, its splits, and the pairs of image and annotation."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import NamedTuple

from protoseg.config.schema import DatasetSpec
from protoseg.datasets import shapes
from protoseg.datasets.labels import check_labels
from protoseg.errors import DataError

SHOWN = 5
"""How many problems one message spells out; the rest is counted."""


class Pair(NamedTuple):
    """One image and its label map."""

    image: Path
    annotation: Path


def find_root(dataset: DatasetSpec, data_root: Path) -> Path:
    """The folder of a data set below ``data_root``; data made by the program is made on first use.

    Generated data goes to ``<name>-<8 digits of its digest>``, so that other arguments get another
    folder.

    Raises:
        DataError: generated data could not be written, or a foreign folder stands in its place.
        UsageError: unknown or unfit arguments in ``dataset.generator``, or labels that do not fit
            together.
    """
    check_labels(dataset)
    if not dataset.generator:
        return data_root / dataset.place
    digest = shapes.generator_digest(dataset.generator)
    root = data_root / f"{dataset.place}-{digest[:8]}"
    return shapes.generate(root, **shapes.arguments_of(dataset.generator))


def folders(root: Path, dataset: DatasetSpec, split: str) -> tuple[Path, Path]:
    """The folder of the images and that of the annotations of one split."""
    images = root / dataset.images.replace("{split}", split)
    return images, root / dataset.annotations.replace("{split}", split)


def splits(root: Path, dataset: DatasetSpec) -> list[str]:
    """The splits that belong to the data set, sorted by name.

    These are the ones that ``dataset.counts`` names; without counts, all that have a folder of
    images or of annotations.

    Raises:
        DataError: the root is missing, or holds no split at all.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: the folder of the data set '{dataset.name}' is missing. Put the data there "
            "(docs/data.md says where to get it), or link to it, or name another data folder."
        )
    if dataset.counts:
        return sorted(dataset.counts)
    found = _matching(root, dataset.images) | _matching(root, dataset.annotations)
    if "{split}" not in dataset.images:
        found.add(dataset.train_split)
    if not found:
        raise DataError(
            f"{root}: no split found; expected folders like "
            f"'{dataset.images.replace('{split}', dataset.train_split)}'. "
            "Put the data there, or change dataset.images and dataset.annotations."
        )
    return sorted(found)


def pairs(root: Path, dataset: DatasetSpec, split: str) -> list[Pair]:
    """All pairs of one split, sorted by their common relative name; subfolders are searched too.

    Raises:
        DataError: a folder is missing or empty, or an image or annotation lacks its partner.
    """
    found, problems = scan(root, dataset, split)
    refuse(problems)
    return found


def scan(root: Path, dataset: DatasetSpec, split: str) -> tuple[list[Pair], list[str]]:
    """The complete pairs of one split, and a sentence for each thing that is missing."""
    image_folder, annotation_folder = folders(root, dataset, split)
    for folder, kind in ((image_folder, "images"), (annotation_folder, "annotations")):
        if not folder.is_dir():
            return [], [_missing_folder(folder, kind, split)]
    images = stems(image_folder, dataset.image_suffix)
    annotations = stems(annotation_folder, dataset.annotation_suffix)
    if not images:
        return [], [_no_images(image_folder, dataset.image_suffix)]
    problems = [
        f"{images[stem]}: has no annotation; expected "
        f"{annotation_folder / (stem + dataset.annotation_suffix)}. "
        "Add the annotation or take the image away."
        for stem in sorted(images.keys() - annotations.keys())
    ]
    problems += [
        f"{annotations[stem]}: has no image; expected "
        f"{image_folder / (stem + dataset.image_suffix)}. "
        "Add the image or take the annotation away."
        for stem in sorted(annotations.keys() - images.keys())
    ]
    both = sorted(images.keys() & annotations.keys())
    return [Pair(images[stem], annotations[stem]) for stem in both], problems


def refuse(problems: list[str]) -> None:
    """Raise one `DataError` for all problems: the first, how many others, and a few of those."""
    if not problems:
        return
    first, *others = problems
    if not others:
        raise DataError(first)
    shown = others[: SHOWN - 1]
    lead = "1 other" if len(others) == 1 else f"{len(others)} others"
    more = "\n".join(f"  {problem}" for problem in shown)
    rest = f"\n  and {len(others) - len(shown)} more" if len(others) > len(shown) else ""
    raise DataError(f"{first}\n{lead}:\n{more}{rest}")


def stems(folder: Path, suffix: str) -> dict[str, Path]:
    """Files below ``folder`` that end in ``suffix``, by relative posix path without the suffix."""

    def unreadable(error: OSError) -> None:
        # Passed over, half of a data set would count as all of it.
        raise DataError(
            f"{error.filename}: can not be read ({error.strerror}). Change its permissions."
        ) from error

    found = {}
    # Data sets are often put together from links, and pathlib's own search does not follow them.
    for parent, subfolders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            # Hidden files are left behind by editors and by copying from other systems.
            if name.endswith(suffix) and not name.startswith("."):
                path = Path(parent, name)
                found[path.relative_to(folder).as_posix().removesuffix(suffix)] = path
    return found


def _matching(root: Path, pattern: str) -> set[str]:
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


def _missing_folder(folder: Path, kind: str, split: str) -> str:
    return (
        f"{folder}: the folder with the {kind} of split '{split}' is missing. Put it there, "
        f"change dataset.{kind}, or name in dataset.counts only the splits to be used."
    )


def _no_images(folder: Path, suffix: str) -> str:
    present = sorted({path.suffix for path in stems(folder, "").values()})
    hint = (
        f"It has files ending in {', '.join(present)}: change dataset.image_suffix, or add images."
        if present
        else "It is empty: put the images there."
    )
    return f"{folder}: no images ending in '{suffix}'. {hint}"
