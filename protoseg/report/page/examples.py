"""Makes the section of examples from label maps: pictures in the page, without a file beside it."""

from __future__ import annotations

import base64
import dataclasses
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg.errors import ProtosegError, UsageError
from protoseg.report import wording
from protoseg.report.figures.builder import FigureBuilder
from protoseg.report.figures.samples.plots import ExamplePlot
from protoseg.runs.results.samples import SAMPLES, find_samples
from protoseg.runs.store import RecordStore

Array = NDArray[Any]
BACKGROUND = (128, 128, 128)
"""Colour of pixels without a class."""


@dataclass(frozen=True)
class Picture:
    """One label map as a picture."""

    label: str
    """Ground truth, or the row of the prediction."""
    source: str
    """The picture as a ``data:`` address."""
    width: int
    height: int


@dataclass(frozen=True)
class Example:
    """The label maps of one image."""

    image: str
    pictures: tuple[Picture, ...]
    """The first is compared with the others."""


@dataclass(frozen=True)
class Examples:
    """Label maps of some images beside each other."""

    classes: tuple[tuple[str, str], ...]
    """(name, colour as ``#rrggbb``) of each class."""
    images: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    """How the images were chosen."""


def read_examples(
    figures: FigureBuilder, store: RecordStore, run_ids: Iterable[str]
) -> tuple[Examples | None, list[str]]:
    """Read the examples of a matrix from the samples of its runs.

    Args:
        figures: of the matrix.
        store: its records; samples are beside them and in the run folders.
        run_ids: the finished runs.

    Returns:
        The examples, None if no run has samples; and why samples cannot be shown.
    """
    folders = [folder.parent / SAMPLES for folder in store.record_folders]
    if not any(find_samples(folders, store.runs_folder, run_id) for run_id in run_ids):
        return None, []
    try:
        figure = figures.build("examples")
    except UsageError:  # rows of different data, which share no image
        return None, []
    except ProtosegError as error:
        return None, [str(error)]
    plot = figure.content
    assert isinstance(plot, ExamplePlot)
    maps = {}
    for image in plot.images:
        labels = [
            f"{row}, mIoU {miou:.1f}%" for row, miou in zip(plot.rows, image.mious, strict=True)
        ]
        maps[image.name] = {
            "Ground truth": image.truth,
            **dict(zip(labels, image.predictions, strict=True)),
        }
    made = make_examples(maps, plot.colours.names, plot.colours.colours)
    # The rule by which images are chosen; data, seeds and rows without samples.
    notes = (figure.notes[1], *figure.notes[4:])
    return made and dataclasses.replace(made, notes=notes), []


def make_examples(
    maps: Mapping[str, Mapping[str, Array]],
    classes: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
) -> Examples | None:
    """Make the section of examples; None without an image.

    Args:
        maps: image -> name of a label map -> class numbers, (h, w). The first map of an image is
            its ground truth. Numbers without a class are drawn grey.
        classes: names of the classes, in the order of their numbers.
        colours: red, green and blue of each class, 0 to 255.

    Raises:
        ValueError: a map is not two-dimensional, or the numbers of classes and colours differ.
    """
    listed = [
        (wording.clean_text(name), "#{:02x}{:02x}{:02x}".format(*colour))
        for name, colour in zip(classes, colours, strict=True)
    ]
    palette = np.array([*colours, BACKGROUND], np.uint8)
    images = tuple(
        Example(
            wording.clean_text(image),
            tuple(_make_picture(label, labels, palette) for label, labels in of_image.items()),
        )
        for image, of_image in maps.items()
    )
    return Examples(tuple(listed), images) if images else None


def _make_picture(label: str, labels: Array, palette: Array) -> Picture:
    if labels.ndim != 2:
        raise ValueError(f"label map '{label}': shape {labels.shape}, expected (h, w)")
    background = len(palette) - 1
    is_known = (labels >= 0) & (labels < background)
    rows = palette[np.where(is_known, labels, background)]
    height, width = labels.shape
    source = f"data:image/png;base64,{base64.b64encode(encode_png(rows)).decode()}"
    return Picture(wording.clean_text(label), source, width, height)


def encode_png(pixels: Array) -> bytes:
    """Encode a picture as PNG, without a date or other metadata.

    Args:
        pixels: (h, w, 3) uint8, red, green and blue.
    """
    height, width, _ = pixels.shape
    # Each row of pixels begins with the number of its filter; 0 is none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
