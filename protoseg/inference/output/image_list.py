"""The images that a user names: files, folders, patterns and lists, and their output names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from protoseg.errors import UsageError

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".jp2"),
)
"""Suffixes of the images of a folder; a file that is named may have any."""


@dataclass(frozen=True)
class InputImage:
    """An image and the name of its outputs."""

    path: Path
    name: str
    """Relative path of its outputs without suffix, with ``/``."""


def list_images(operands: Sequence[str], excluded: Path) -> list[InputImage]:
    """List the images that operands name, in their order; each once.

    - a file;
    - a folder: its images and those of its subfolders, sorted; hidden files are left out;
    - a pattern, such as ``'photos/**/*.jpg'``;
    - ``@FILE``: a text file with one file, folder or pattern per line, relative to its folder.

    The output name is the path relative to the folder that was named, without suffix; of a file,
    its name. If two images have one name, all names are relative to their common folder.

    Args:
        operands: as typed.
        excluded: the output folder, which is not searched.

    Raises:
        UsageError: an operand names no image, or two images would have one output name.
    """
    excluded = _resolve(excluded)
    candidates: dict[Path, str] = {}
    for operand in operands:
        images = list(_expand_operand(operand, Path(), excluded))
        if not images:
            raise UsageError(
                f"{operand}: has no image. Images of folders end in {', '.join(SUFFIXES)}."
            )
        for path, name in images:
            candidates.setdefault(Path(os.path.abspath(path)), name)
    names = {path: _drop_suffix(name) for path, name in candidates.items()}
    if _find_double(names):
        common = Path(os.path.commonpath([path.parent for path in names]))
        names = {path: _drop_suffix(path.relative_to(common).as_posix()) for path in names}
    if double := _find_double(names):
        raise UsageError(
            f"{double[0]} and {double[1]}: would have one output name, '{names[double[0]]}'. "
            "Rename one of them, or predict them into two folders."
        )
    return [InputImage(path, name) for path, name in names.items()]


def _expand_operand(operand: str, base: Path, excluded: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path, name) of each image of an operand relative to ``base``."""
    path = base / Path(operand).expanduser()
    if path.is_dir():
        yield from _walk_folder(path, excluded)
    elif path.exists():
        yield path, path.name
    elif operand.startswith("@"):
        yield from _read_list(base / Path(operand[1:]).expanduser(), excluded)
    elif any(character in operand for character in "*?["):
        yield from _expand_pattern(path, excluded)
    else:
        raise UsageError(
            f"{path}: does not exist. Name an image, a folder, a pattern in quotes, or @FILE with "
            "one of these per line."
        )


def _walk_folder(folder: Path, excluded: Path) -> Iterator[tuple[Path, str]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and _resolve(Path(parent) / name) != excluded
        )
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                path = Path(parent) / name
                yield path, path.relative_to(folder).as_posix()


def _expand_pattern(pattern: Path, excluded: Path) -> Iterator[tuple[Path, str]]:
    """The files of a pattern; names are relative to its part before the first wildcard."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
    fixed = Path(*parts[:first])
    for text in sorted(glob.glob(str(pattern), recursive=True)):
        path = Path(text)
        if path.is_file() and excluded not in _resolve(path).parents:
            yield path, path.relative_to(fixed).as_posix()


def _resolve(path: Path) -> Path:
    """The path without links and ``..``, by which the output folder is recognised."""
    return Path(os.path.realpath(path))


def _read_list(path: Path, excluded: Path) -> Iterator[tuple[Path, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: this list cannot be read ({error}). Name a text file with one image per line."
        ) from error
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if entry.startswith("@"):
            raise UsageError(f"{path}:{number}: '{entry}': a list in a list is not read.")
        for image, name in _expand_operand(entry, path.parent, excluded):
            # A relative path of a list is the name, unless it leaves the folder of the list.
            keep = image == path.parent / entry and not Path(entry).is_absolute()
            keep = keep and ".." not in Path(entry).parts
            yield image, Path(entry).as_posix() if keep else name


def _drop_suffix(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _find_double(names: dict[Path, str]) -> Sequence[Path]:
    """Two images of one name; empty if all differ. Upper and lower case count as equal, because
    some file systems do not distinguish them."""
    owners: dict[str, Path] = {}
    for path, name in names.items():
        if (owner := owners.setdefault(name.casefold(), path)) != path:
            return [owner, path]
    return []
