"""Finds the files of a folder: links, suffixes, and what is left out."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from protoseg.errors import DataError

ALIASES = ((".jpg", ".jpeg"), (".tif", ".tiff"))
"""Endings of the same format."""

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
"""Files with these endings are named if they are left out."""

SHOWN = 5
"""The number of left-out files that are named."""


@dataclass
class FolderScan:
    """The files of a folder that end in a suffix, subfolders included."""

    files: dict[str, Path] = field(default_factory=dict)
    """Key of the file -> its path. The key is the relative posix path without the suffix, in
    Unicode's composed form (NFC), so that names from macOS fit those of other systems."""
    left_out: int = 0
    """The number of images with another suffix."""
    left_out_names: list[str] = field(default_factory=list)
    """The first of them, relative to the folder."""
    other_endings: Counter[str] = field(default_factory=Counter)
    """Files whose name ends in another form of the suffix -> their number."""
    links: list[tuple[Path, Path]] = field(default_factory=list)
    """Links to folders, with the folders they lead to."""


def scan_folder(folder: Path, suffix: str) -> FolderScan:
    """Find the files below ``folder`` that end in ``suffix``, in upper or lower case.

    ``.jpg`` also matches ``.jpeg``, and ``.tif`` matches ``.tiff``. Hidden files and folders are
    ignored. Links to folders are followed; a folder is read once, so that loops end.

    Raises:
        DataError: a subfolder cannot be read, or two files differ in the suffix or the Unicode
            form of their names only.
    """
    scan = FolderScan()
    endings = _list_endings(suffix)
    for path, name in _list_files(folder, scan):
        lower = name.lower()
        ending = next((e for e in endings if lower.endswith(e)), None)
        if ending is None:
            if lower.endswith(IMAGE_ENDINGS):
                scan.left_out += 1
                if len(scan.left_out_names) < SHOWN:
                    scan.left_out_names.append(name)
            continue
        key = unicodedata.normalize("NFC", name[: len(name) - len(ending)])
        if key in scan.files:
            raise DataError(
                f"{path}: has the same name as {scan.files[key]}, apart from its ending or the "
                "Unicode form of its letters. Remove or rename one of them."
            )
        scan.files[key] = path
        if not name.endswith(suffix):
            scan.other_endings[name[len(name) - len(ending) :]] += 1
    return scan


def describe_endings(folder: Path, suffix: str, scan: FolderScan) -> list[str]:
    """Sentences about the files that end in another form of ``suffix``, and about other images."""
    used = [
        f"{folder}: {count} files end in '{ending}' instead of '{suffix}' and are used too."
        for ending, count in sorted(scan.other_endings.items())
    ]
    if not scan.left_out:
        return used
    names = ", ".join(scan.left_out_names)
    more = ", ..." if scan.left_out > len(scan.left_out_names) else ""
    plural = "s do" if scan.left_out > 1 else " does"
    return [
        *used,
        f"{folder}: {scan.left_out} image{plural} not end in '{suffix}' and will not be used: "
        f"{names}{more}.",
    ]


def describe_outside_links(root: Path, scan: FolderScan) -> list[str]:
    """One sentence for each link to a folder outside of ``root``."""
    real = root.resolve()
    return [
        f"{link}: is a link to {target}, outside of the data set's folder."
        for link, target in scan.links
        if not target.is_relative_to(real)
    ]


def _list_endings(suffix: str) -> list[str]:
    """The endings that a suffix matches, in lower case, longest first."""
    lower = suffix.lower()
    endings = {lower}
    for group in ALIASES:
        for ending in group:
            if lower.endswith(ending):
                stem = lower[: len(lower) - len(ending)]
                endings.update(stem + other for other in group)
    return sorted(endings, key=len, reverse=True)


def _list_files(folder: Path, scan: FolderScan) -> Iterator[tuple[Path, str]]:
    """Yield the files below a folder, each with its relative posix path.

    Each real folder is read once, and real folders before links.
    """
    seen: set[str] = set()
    waiting = [folder]
    if folder.is_symlink():
        scan.links.append((folder, folder.resolve()))
    while waiting:
        links: list[Path] = []
        for start in waiting:
            top = start.relative_to(folder).as_posix().removeprefix(".")
            for parent, subfolders, files in os.walk(start, onerror=_raise_unreadable):
                real = os.path.realpath(parent)
                if real in seen:
                    subfolders.clear()
                    continue
                seen.add(real)
                subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
                links += [
                    Path(parent, name)
                    for name in subfolders
                    if os.path.islink(os.path.join(parent, name))
                ]
                # Texts: Path.relative_to would take half of the time.
                relative = top + parent[len(str(start)) :]
                prefix = f"{relative.lstrip('/')}/" if relative else ""
                # Editors and copies from other systems leave hidden files behind.
                yield from (
                    (Path(parent, name), prefix + name)
                    for name in files
                    if not name.startswith(".")
                )
        targets = {link: os.path.realpath(link) for link in sorted(links)}
        waiting = [link for link, real in targets.items() if real not in seen]
        scan.links += [(link, Path(targets[link])) for link in waiting]


def _raise_unreadable(error: OSError) -> None:
    # Skipping the folder would hide a part of the data set.
    raise DataError(
        f"{error.filename}: cannot be read ({error.strerror}). Change its permissions."
    ) from error
