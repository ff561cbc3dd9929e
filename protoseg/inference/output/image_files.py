"""Writes the files of one prediction.

labels/NAME.png          label map: class indices, or the label values of the data set
colors/NAME.png          the same in the colours of the classes, an image with a palette
overlays/NAME.jpg        the image under these colours (``overlay``)
probabilities/NAME.npz   ``probabilities``, (C, H, W) float16 (``probabilities``)
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image

from protoseg import files
from protoseg.config.schema import DatasetSpec
from protoseg.errors import UsageError
from protoseg.inference.class_colors import blend_colors

INDEX, ORIGINAL = "index", "original"
LABELS, COLORS, OVERLAYS, PROBABILITIES = "labels", "colors", "overlays", "probabilities"
JPEG_QUALITY = 92


@dataclass(frozen=True)
class OutputSettings:
    """Which files are written."""

    ids: str = INDEX
    """Values of the label maps: class indices from 0 (``index``), or the label values in the files
    of the data set (``original``)."""
    overlay: bool = False
    alpha: float = 0.6
    """Weight of the colours in overlays."""
    probabilities: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; without the value of an unused setting."""
        return {
            "ids": self.ids,
            "overlay": self.alpha if self.overlay else None,
            "probabilities": self.probabilities,
        }


def find_label_values(dataset: DatasetSpec, ids: str) -> np.ndarray:
    """The value of each class in the label maps, (C,) uint8 or uint16.

    Raises:
        UsageError: ``original`` for a data set whose label maps have colours.
    """
    if ids == ORIGINAL and dataset.palette:
        raise UsageError(
            f"--ids original: label maps of {dataset.name} have colours, not label values. Use "
            "--ids index; the folder colors has the colours."
        )
    values = np.asarray(
        dataset.label_values if ids == ORIGINAL else range(len(dataset.classes)), np.int64
    )
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)


class ImageWriter:
    """Writes the files of predictions into a folder.

    Args:
        folder: of the predictions.
        values: the value of each class in the label maps, (C,).
        colors: (C, 3) uint8, red first.
        settings: which files.
    """

    def __init__(
        self, folder: Path, values: np.ndarray, colors: np.ndarray, settings: OutputSettings
    ) -> None:
        self.folder, self.values, self.colors = folder, values, colors
        self.settings = settings

    def find_path(self, part: str, name: str) -> Path:
        """The path of an output of an image."""
        suffix = {OVERLAYS: ".jpg", PROBABILITIES: ".npz"}.get(part, ".png")
        return self.folder / part / f"{name}{suffix}"

    def list_parts(self) -> list[str]:
        """The folders of the files that each image has."""
        parts = [LABELS, COLORS]
        parts += [OVERLAYS] if self.settings.overlay else []
        return parts + ([PROBABILITIES] if self.settings.probabilities else [])

    def write_pictures(self, name: str, labels: np.ndarray, image: np.ndarray) -> None:
        """Write all files except the probabilities.

        Args:
            name: of the image.
            labels: (H, W), class indices.
            image: (H, W, 3) uint8, blue first.

        Raises:
            StorageError: no space left, or no permission.
        """
        if self.settings.overlay:
            overlay = blend_colors(image, labels, self.colors[:, ::-1], self.settings.alpha)
            self._write_image(OVERLAYS, name, overlay, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        self._write_colors(name, labels)
        self._write_image(LABELS, name, self.values[labels])

    def _write_image(
        self, part: str, name: str, pixels: np.ndarray, options: tuple[int, ...] = ()
    ) -> None:
        path = self.find_path(part, name)
        _, data = cv2.imencode(path.suffix, pixels, options)
        self._write(path, data.tobytes())

    def _write_colors(self, name: str, labels: np.ndarray) -> None:
        if len(self.colors) > 256:  # more than a palette holds
            self._write_image(COLORS, name, self.colors[:, ::-1][labels])
            return
        picture = Image.fromarray(labels.astype(np.uint8))
        picture.putpalette(self.colors.tobytes())
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=3)
        self._write(self.find_path(COLORS, name), buffer.getvalue())

    def _write(self, path: Path, data: bytes) -> None:
        files.make_folder(path.parent)
        files.write_bytes(path, data)

    def write_probabilities(
        self, name: str, bands: Iterable[np.ndarray], shape: tuple[int, int, int]
    ) -> None:
        """Write probabilities that come in bands of rows.

        Args:
            name: of the image.
            bands: (C, rows, W) each, from top to bottom.
            shape: (C, H, W).

        Raises:
            StorageError: no space left, or no permission.
        """
        path = self.find_path(PROBABILITIES, name)
        files.make_folder(path.parent)
        plain = path.with_name(f".{path.name}.npy.tmp")
        try:
            with open(plain, "wb") as file:
                _write_bands(file, bands, shape)
            files.write_with(path, lambda target: _pack_array(target, plain))
        except OSError as error:
            raise files.storage_error(error, path) from error
        finally:
            plain.unlink(missing_ok=True)


def _write_bands(file: BinaryIO, bands: Iterable[np.ndarray], shape: tuple[int, int, int]) -> None:
    """Write bands of rows as one array (C, H, W) float16 in numpy's format."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f2", "fortran_order": False, "shape": shape}
    )
    start, first = file.tell(), 0
    for band in bands:
        for index, rows in enumerate(band.astype("<f2")):
            file.seek(start + 2 * shape[2] * (index * shape[1] + first))
            file.write(rows.tobytes())
        first += band.shape[1]


def _pack_array(target: BinaryIO, source: Path) -> None:
    """Put a .npy file into an .npz, without compression: float16 noise does not shrink."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        info = zipfile.ZipInfo("probabilities.npy", date_time=(1980, 1, 1, 0, 0, 0))
        with open(source, "rb") as file, archive.open(info, "w", force_zip64=True) as entry:
            shutil.copyfileobj(file, entry, 2**20)
