"""What a preparation is going to do: one step a file, found by looking at the published folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protoseg.datasets import layout
from protoseg.errors import DataError


@dataclass(frozen=True)
class Made:
    """What a maker made: the content of a file, or None where the source will do as it is."""

    content: bytes | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What was learnt on the way, for the end of the preparation; plain data."""


Maker = Callable[[tuple[Path, ...]], Made]
"""From its sources to a file; it runs in processes of its own, so it is a function of a module."""


@dataclass(frozen=True)
class Step:
    """One file of the prepared data set."""

    target: str
    """Relative posix path in the prepared folder."""
    sources: tuple[Path, ...]
    """The first one is what the file is made from, or linked to."""
    make: Maker | None = None
    """None links the source, or copies it where links do not work."""


@dataclass(frozen=True)
class Plan:
    """A whole preparation."""

    source: Path
    """Folder as it was published."""
    steps: list[Step]
    folder_links: Mapping[str, str] = field(default_factory=dict)
    """Folder in the prepared data set -> the folder it points to, relative to its own parent."""
    finish: Callable[[Path, list[dict[str, Any]]], dict[str, Any]] | None = None
    """Called at the end with the prepared folder and the journal; its answer goes into the
    manifest."""


def published(source: Path, marker: str, names: Iterable[str], expected: str) -> Path:
    """The folder that holds ``marker``: ``source`` itself, or the one of these names inside it.

    Raises:
        DataError: none of them does; ``expected`` says what was looked for and where to get it.
    """
    for folder in (source, *(source / name for name in names)):
        if (folder / marker).is_dir():
            return folder
    what = "is no folder" if not source.is_dir() else f"has no folder '{marker}'"
    raise DataError(f"{source}: {what}. {expected}")


def pairs(
    images: tuple[Path, str], labels: tuple[Path, str], expected: str
) -> list[tuple[str, Path, Path]]:
    """(relative name, image, label map) of a split, sorted by name.

    Args:
        images: folder and suffix.
        labels: the same for the label maps; each needs its image, others are left out.
        expected: the sentence that says what the folder should hold.

    Raises:
        DataError: folders that are missing or empty, or a label map without its image.
    """
    for folder, _ in (images, labels):
        if not folder.is_dir():
            raise DataError(f"{folder}: this folder is missing. {expected}")
    found = layout.stems(*labels)
    pictures = layout.stems(*images)
    if not found:
        raise DataError(f"{labels[0]}: no files ending in '{labels[1]}'. {expected}")
    layout.refuse(
        [
            f"{found[name]}: has no image; expected {images[0] / (name + images[1])}. "
            "Complete the copy."
            for name in sorted(found.keys() - pictures.keys())
        ]
    )
    return [(name, pictures[name], found[name]) for name in sorted(found)]
