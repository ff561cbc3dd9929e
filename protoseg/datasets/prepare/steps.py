"""A preparation as a list of steps: one step for each file of the prepared data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
