"""Splits given by list files: one image a line, as in PASCAL VOC or LabelMeFacade.

A line names an image by its path in the data set, by a part of the path, or by its name alone, with
or without suffix. A second path in the line must be that image's label map. Empty lines and lines
that start with ``#`` are left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from protoseg.config.schema import DatasetSpec
from protoseg.errors import DataError

SHOWN = 5
"""The number of names that one message shows; further ones are counted."""


def find_split_files(root: Path, dataset: DatasetSpec) -> list[Path]:
    """The list files of a data set, sorted by split; empty without lists.

    Raises:
        DataError: a list is missing, or outside of the folder of the data set.
    """
    return [find_split_file(root, dataset, split) for split in sorted(dataset.split_files)]


def describe_missing_root(root: Path, dataset: DatasetSpec) -> str:
    """Name the missing folder of a data set, and what to do."""
    return (
        f"{root}: the folder of the data set '{dataset.name}' is missing. Put the data there "
        "(docs/data.md lists the sources), link to it, or name another data folder (--data or "
        "PROTOSEG_DATA)."
    )


def find_split_file(root: Path, dataset: DatasetSpec, split: str) -> Path:
    """The list file of a split.

    Raises:
        DataError: the list is missing, or outside of the folder of the data set.
    """
    name = PurePosixPath(dataset.split_files[split])
    if name.is_absolute() or ".." in name.parts:
        raise DataError(
            f"dataset.split_files.{split}: '{name}' is outside of the data set's folder {root}. "
            "Copy the list into that folder, and name it relative to the folder."
        )
    path = root / name
    if not root.is_dir():
        raise DataError(describe_missing_root(root, dataset))
    if not path.is_file():
        raise DataError(
            f"{path}: the list of the images of split '{split}' is missing. Add it, or change "
            f"dataset.split_files.{split}."
        )
    return path


def read_names(path: Path) -> dict[str, list[int]]:
    """The names in a list file, in order, with the numbers of the lines that have them.

    Raises:
        DataError: the list cannot be read, is no text, or names nothing.
    """
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if b"\0" in data:
        raise DataError(f"{path}: is no list of names in UTF-8: it has NUL bytes. Convert it.")
    names: dict[str, list[int]] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        # As in a folder listing, so that names that are not UTF-8 are found too.
        text = os.fsdecode(line.strip())
        if text and not text.startswith("#"):
            names.setdefault(text, []).append(number)
    if not names:
        raise DataError(f"{path}: names no image. Write one name a line, or remove the list.")
    return names


def select_names(
    path: Path, images: NameIndex, annotations: NameIndex
) -> tuple[list[str], list[str]]:
    """The images that a list names.

    Args:
        path: the list file.
        images: all images that the list can name.
        annotations: the label maps.

    Returns:
        The keys that are listed, sorted, and one message for each fault of the list: names of no
        image, of several images or of another image's label map, and images listed twice.

    Raises:
        DataError: see `read_names`.
    """
    lines_of: dict[str, list[int]] = {}
    missing, ambiguous, unpaired = [], [], []
    for text, lines in read_names(path).items():
        keys = images.find_keys(text)
        if not keys and len(columns := text.split()) == 2:
            keys = images.find_keys(columns[0])
            if keys and not keys & annotations.find_keys(columns[1]):
                unpaired.append(f"line {lines[0]}: {text}")
                continue
        if not keys:
            missing.append(text)
        elif len(keys) > 1:
            ambiguous.append(f"{text} ({', '.join(map(images.find_name, sorted(keys)[:2]))})")
        else:
            lines_of.setdefault(keys.pop(), []).extend(lines)
    repeated = [
        f"{images.find_name(key)} (lines {', '.join(map(str, sorted(lines)))})"
        for key, lines in lines_of.items()
        if len(lines) > 1
    ]
    faults = (
        (missing, "fit no image", "Correct the list, or add the images"),
        (ambiguous, "fit several images", "Put the folder before each name"),
        (unpaired, "have the label map of another image, or none", "Correct the second column"),
        (repeated, "are listed twice", "Remove the second line of each"),
    )
    total = len(lines_of) + len(missing) + len(ambiguous) + len(unpaired)
    problems = [
        f"{path}: {len(members)} of {total} names {what}: {_shorten(members)}. {todo}."
        for members, what, todo in faults
        if members
    ]
    return sorted(lines_of), problems


class NameIndex:
    """Finds files by the names in a list.

    Args:
        files: key of the pair -> path.
        root: the folder of the data set; lists may name paths relative to it.
        suffixes: the suffixes of the files, the longest first; a line may have one or not.
    """

    def __init__(self, files: Mapping[str, Path], root: Path, suffixes: tuple[str, ...]) -> None:
        self._files = files
        self._root = root
        self._suffixes = suffixes
        self._by_name: dict[str, list[tuple[str, str]]] = {}
        for key in files:
            stem = self._find_stems(self.find_name(key))[0]
            self._by_name.setdefault(stem.rpartition("/")[2], []).append((stem, key))

    def find_name(self, key: str) -> str:
        """The path of a file relative to the data set, with suffix."""
        return self._files[key].relative_to(self._root).as_posix()

    def find_keys(self, text: str) -> set[str]:
        """The keys of the files that a line fits.

        A path fits if it is the end of the file's path, or the file's path is the end of it. A
        whole path relative to the data set, or to the folder of the images, fits only its file.
        """
        for line in (text, text.replace("\\", "/")):
            for stem in self._find_stems(line.removeprefix("./").strip("/")):
                members = self._by_name.get(stem.rpartition("/")[2], ())
                exact = {key for path, key in members if stem in (path, key)}
                keys = exact or {key for path, key in members if _have_same_end(path, stem)}
                if keys:
                    return keys
        return set()

    def _find_stems(self, name: str) -> list[str]:
        """What ``name`` may be without suffix, the most probable first."""
        whole = [name.removesuffix(suffix) for suffix in self._suffixes if name.endswith(suffix)]
        # `x_leftImg8bit` for x_leftImg8bit.png
        ends = [end for suffix in self._suffixes if (end := suffix.rpartition(".")[0])]
        return [*whole, name, *(name.removesuffix(end) for end in ends if name.endswith(end))]


def _have_same_end(first: str, second: str) -> bool:
    return f"/{first}".endswith(f"/{second}") or f"/{second}".endswith(f"/{first}")


def _shorten(members: list[str]) -> str:
    rest = len(members) - SHOWN
    return ", ".join(members[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
