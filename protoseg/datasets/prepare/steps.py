"""A preparation as a list of steps: one step for each file of the prepared data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from protoseg.datasets import layout
from protoseg.errors import DataError


@dataclass(frozen=True)
class Converted:
    """The result of a `Converter`: the content of a file, or None to use the source unchanged."""

    content: bytes | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain data about the file for `Preparation.finish`."""


Converter = Callable[[tuple[Path, ...]], Converted]
"""From source files to a new file. It runs in other processes, so it is a module-level function."""


@dataclass(frozen=True)
class Step:
    """One file of the prepared data set."""

    target: str
    """Relative posix path in the prepared folder."""
    sources: tuple[Path, ...]
    """The first source is the one that is converted or linked."""
    convert: Converter | None = None
    """None links the source, or copies it if links are not possible."""


@dataclass(frozen=True)
class Preparation:
    """All steps from a published folder to a prepared data set."""

    source: Path
    """The published folder."""
    steps: list[Step]
    folder_links: Mapping[str, str] = field(default_factory=dict)
    """Folder in the prepared data set -> the folder it links to, relative to its parent."""
    finish: Callable[[Path, list[dict[str, Any]]], dict[str, Any]] | None = None
    """Called last with the prepared folder and the journal; the manifest stores its result."""


def find_published_folder(source: Path, marker: str, names: Iterable[str], expected: str) -> Path:
    """The folder with a subfolder ``marker``: ``source`` or one of its subfolders ``names``.

    Raises:
        DataError: no such folder; ``expected`` describes the files and where to get them.
    """
    for folder in (source, *(source / name for name in names)):
        if (folder / marker).is_dir():
            return folder
    problem = "is no folder" if not source.is_dir() else f"has no folder '{marker}'"
    raise DataError(f"{source}: {problem}. {expected}")


def pair_files(
    images: tuple[Path, str], labels: tuple[Path, str], expected: str
) -> list[tuple[str, Path, Path]]:
    """(relative name, image, label map) of a split, sorted by name.

    Args:
        images: folder and suffix of the images.
        labels: folder and suffix of the label maps. Images without a label map are left out.
        expected: the sentence that describes the files of the folder.

    Raises:
        DataError: a folder is missing or empty, or a label map has no image.
    """
    for folder, _ in (images, labels):
        if not folder.is_dir():
            raise DataError(f"{folder}: this folder is missing. {expected}")
    label_paths = layout.find_files(*labels)
    image_paths = layout.find_files(*images)
    if not label_paths:
        raise DataError(f"{labels[0]}: no files ending in '{labels[1]}'. {expected}")
    layout.raise_problems(
        [
            f"{label_paths[name]}: has no image; expected {images[0] / (name + images[1])}. "
            "Complete the copy."
            for name in sorted(label_paths.keys() - image_paths.keys())
        ]
    )
    return [(name, image_paths[name], label_paths[name]) for name in sorted(label_paths)]


def find_first(root: Path, paths: Iterable[str], expected: str) -> Path:
    """The first of several paths below the published folder that exists.

    Args:
        root: the published folder.
        paths: relative posix paths, the documented one first; archives are unpacked in many ways.
        expected: the sentence that describes the files of the folder.

    Raises:
        DataError: none of them exists.
    """
    names = list(paths)
    for name in names:
        if (root / name).exists():
            return root / name
    problem = f"has no '{names[0]}'" if root.is_dir() else "is no folder"
    raise DataError(f"{root}: {problem}. {expected}")


def read_list(path: Path) -> list[str]:
    """The names in the list file of a split, in its order.

    A line names an image, with or without folders and ``.jpg``. A second column, with its label
    map, must have the same name.

    Raises:
        DataError: the file cannot be read, is empty, names an image twice or a label map of another
            image.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of images. Unpack it again.") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        first, *others = (PurePosixPath(column).name for column in line.split())
        name = first.removesuffix(".jpg")
        if any(other.removesuffix(".png") != name for other in others):
            raise DataError(
                f"{path}: line {number} pairs the image '{first}' with '{' '.join(others)}'. "
                "Unpack the list again."
            )
        if name in names:
            raise DataError(
                f"{path}: line {number} names '{name}' again, as line {names[name]} does. Unpack "
                "the list again."
            )
        names[name] = number
    if not names:
        raise DataError(f"{path}: names no image. Unpack the list again.")
    return list(names)


def plan_listed_split(
    split: str, names: Iterable[str], images: Path, labels: Path, check: Converter
) -> list[Step]:
    """The steps of a split with one list: images and checked label maps, linked by name.

    Args:
        split: its folder in the prepared data set.
        names: of its images, without suffix.
        images: the published folder of ``NAME.jpg``.
        labels: the published folder of ``NAME.png``.
        check: checks a label map.
    """
    steps = []
    for name in names:
        steps.append(Step(f"images/{split}/{name}.jpg", (images / f"{name}.jpg",)))
        steps.append(Step(f"annotations/{split}/{name}.png", (labels / f"{name}.png",), check))
    return steps


def require_sources(steps: Iterable[Step]) -> None:
    """Raise an error if the first source of a step does not exist.

    Raises:
        DataError: names the first missing files.
    """
    layout.raise_problems(
        [
            f"{step.sources[0]}: this file is missing. Complete the copy."
            for step in steps
            if not step.sources[0].is_file()
        ]
    )
