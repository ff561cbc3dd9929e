"""Names of the files that a verb writes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def display_path(path: Path) -> str:
    """A path relative to the working directory, or the absolute path if it is outside."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative


def choose_output_folder(folder: Path, overrides: list[str]) -> Path:
    """The folder for the output of a matrix with these overrides.

    With overrides it is a subfolder, so that the output of the matrix itself is not replaced.
    """
    if not overrides:
        return folder
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
    return folder / f"overrides-{digest}"
