"""Reads the pictures of a figure from the data folder; figures and records hold none.

Where the data are missing, a grey panel is drawn, and the note names the folder. The digest of a
figure does not cover pictures, so that `protoseg verify` needs no data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg.errors import ProtosegError
from protoseg.runs.results.samples import Array

LONGEST = 800
"""Pixels of the longer side of a picture that is kept, enough for its printed size."""
MISSING = "image not here"


@dataclass(frozen=True)
class PictureSource:
    """Where pictures are read from, and how."""

    data: Path
    """The data folder."""
    read: Callable[[Path], Array]
    """Reads a file as (h, w, 3) uint8 in the order blue, green, red; a `ProtosegError` if it
    cannot be read (`protoseg.datasets.readers.photographs.read_photograph`)."""
    lost: list[str] = field(default_factory=list)
    """Pictures of all figures that could not be read."""


class Pictures:
    """The pictures of one data set.

    Args:
        source: where they are read from; None for no pictures.
        folder: folder of the data set in the data folder.
    """

    def __init__(self, source: PictureSource | None = None, folder: str = "") -> None:
        self.source, self.folder = source, folder
        self.lost: dict[str, None] = {}
        """Names of the pictures that could not be read, in order."""
        self._read = lru_cache(maxsize=64)(self._read_file)

    def read_picture(self, name: str) -> Array | None:
        """Read a picture, (h, w, 3) uint8, with at most `LONGEST` pixels along a side.

        Returns:
            The picture; None if it cannot be read.
        """
        content = self._read(name)
        if content is None:
            self.lost[name] = None
            if self.source is not None:
                self.source.lost.append(f"{self.folder}/{name}")
            return None
        return content[0]

    def cut_patch(self, name: str, centre: tuple[int, int], side: float) -> Array | None:
        """Cut a square out of a picture; at an edge it is moved inside.

        Args:
            name: of the picture.
            centre: row and column, in pixels of the file.
            side: of the square, as a share of the shorter side.

        Returns:
            (s, s, 3) uint8; None if the picture cannot be read.
        """
        picture, content = self.read_picture(name), self._read(name)
        if picture is None or content is None:
            return None
        height, width = picture.shape[:2]
        size = max(1, round(side * min(height, width)))
        top, left = (
            min(max(0, round(position / old * length - size / 2)), length - size)
            for position, old, length in zip(centre, content[1], (height, width), strict=True)
        )
        return picture[top : top + size, left : left + size]

    def describe_missing(self) -> list[str]:
        """A sentence about the pictures that could not be read; empty if all could be."""
        if not self.lost:
            return []
        where = "were not read" if self.source is None else f"are not in {self.folder}"
        return [f"Grey: {MISSING} ({len(self.lost)} pictures {where}; name the data with --data)."]

    def _read_file(self, name: str) -> tuple[Array, tuple[int, int]] | None:
        """A picture, and height and width of its file."""
        if self.source is None:
            return None
        try:
            pixels = self.source.read(self.source.data / self.folder / name)
        except ProtosegError:
            return None
        picture = Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1]))
        picture.thumbnail((LONGEST, LONGEST))
        return np.asarray(picture), (pixels.shape[0], pixels.shape[1])
