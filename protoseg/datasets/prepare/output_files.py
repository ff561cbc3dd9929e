"""Write or link single files of a prepared data set; a file appears only when it is complete."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import cache
from pathlib import Path

from protoseg.errors import DataError

PART = ".prepare-part"
"""Start of the hidden names of incomplete files."""


def is_same_file(path: Path, source: Path) -> bool:
    """Whether a target already is its source, e.g. through a link made by the user."""
    try:
        return path.samefile(source)
    except OSError:
        return False


@cache
def is_inside(folder: Path, target: Path) -> bool:
    """Whether a folder is inside the prepared data set after links are resolved."""
    return folder.resolve().is_relative_to(target.resolve())


def outside_message(folder: Path, target: Path) -> str:
    """The error message for a folder that is not inside the prepared data set."""
    return (
        f"{folder}: a link points outside {target}, and files are never written through a link. "
        "Link only folders of images, or remove the link and run the command again."
    )


def hash_files(paths: tuple[Path, ...]) -> str:
    """SHA-256 of the concatenated contents of all files."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a hidden name and rename it."""
    # Without fsync per file: a file truncated by a power cut has another size than in the journal.
    part = _part_path(path)
    part.write_bytes(content)
    os.replace(part, path)


def link_file(source: Path, path: Path) -> str:
    """Create a hard link, which takes no space, or a copy if the file system allows no link.

    Returns:
        "linked" or "copied".

    Raises:
        DataError: the source is missing or cannot be read.
    """
    part = _part_path(path)
    part.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), part)
        how = "linked"
    except FileNotFoundError as error:
        raise DataError(f"{source}: this file is missing. Complete the copy.") from error
    except OSError:
        if not os.access(source, os.R_OK):  # a problem of this file only: the others continue
            raise DataError(f"{source}: cannot be read. Change its permissions.") from None
        shutil.copyfile(source, part)
        how = "copied"
    os.replace(part, path)
    # If both names are links to one file, `os.replace` does nothing and keeps both.
    part.unlink(missing_ok=True)
    return how


def _part_path(path: Path) -> Path:
    """The hidden name of an incomplete file, which readers of the data set ignore."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{PART}-{os.getpid()}-{path.name}")


def link_folder(path: Path, linked_folder: str) -> None:
    """Create a symbolic link to a folder unless a link exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(linked_folder, target_is_directory=True)
