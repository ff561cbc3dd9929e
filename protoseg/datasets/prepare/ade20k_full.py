"""ADE20K-Full from its raw release (2021_17_01), with label maps of the release's concept numbers.

The label maps hold every concept, so that one preparation serves every vocabulary size. The YAML
file of the data set lists the concepts that are classes. The preparation ends with a ranking of the
concepts, which is compared with that list.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare.label_maps import encode_png, read_colours
from protoseg.datasets.prepare.steps import (
    Converted,
    Preparation,
    Step,
    find_published_folder,
    pair_files,
)
from protoseg.datasets.readers.label_maps import open_verified
from protoseg.errors import DataError
from protoseg.files import write_json

EXPECTED = (
    "Expected are images/ADE/{training,validation}/SCENE/.../ADE_*.jpg, each with its _seg.png and "
    ".json: get ADE20K_2021_17_01.zip from https://groups.csail.mit.edu/vision/datasets/ADE20K "
    "(after registration) and unpack it."
)
SPLITS = ("training", "validation")
SHORT_SIDE = 512
"""Pixels, as in SceneParse150; the release has photographs of up to 12 megapixels."""
QUALITY = 95
"""JPEG quality of the resized photographs."""
RANKING = "concepts.json"


def decode_concepts(seg: np.ndarray) -> np.ndarray:
    """The concept number of each pixel of a ``_seg.png``, (height, width) uint16; 0 is none.

    The concept is ⌊red/10⌋·256 + green. Blue numbers the instances.
    """
    return seg[..., 0].astype(np.uint16) // 10 * 256 + seg[..., 1]


def resized_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) with a short side of at most 512 pixels and the same aspect ratio."""
    short = min(width, height)
    if short <= SHORT_SIDE:
        return width, height
    return tuple(max(1, round(side * SHORT_SIDE / short)) for side in (width, height))  # type: ignore[return-value]


def resize_photograph(sources: tuple[Path, ...]) -> Converted:
    """Resize a photograph to the size of its prepared label map, or keep a small one unchanged."""
    path, seg = sources
    with open_verified(seg) as labels:
        width, height = labels.size
    with open_verified(path) as image:
        if image.size != (width, height):
            raise DataError(
                f"{path}: is {image.width}×{image.height} pixels, its label map {seg} is "
                f"{width}×{height}. Download the wrong file again."
            )
        size = resized_size(*image.size)
        if size == image.size and image.getexif().get(0x0112, 1) == 1:
            return Converted()
        buffer = io.BytesIO()
        # Saved without EXIF: the label map has the orientation of the stored pixels.
        small = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        small.save(buffer, "JPEG", quality=QUALITY)
    return Converted(buffer.getvalue())


def convert_annotation(sources: tuple[Path, ...]) -> Converted:
    """Resize the concepts of a ``_seg.png`` (nearest pixel); the facts count them at full size."""
    seg, description = sources
    full = decode_concepts(read_colours(seg))
    counts = np.bincount(full.ravel())  # many times faster than sorting
    width, height = resized_size(full.shape[1], full.shape[0])
    rows = (np.arange(height) + 0.5) * full.shape[0] / height
    columns = (np.arange(width) + 0.5) * full.shape[1] / width
    small = full[np.ix_(rows.astype(int), columns.astype(int))]
    names = _read_concept_names(description)
    concepts = {
        str(value): [int(counts[value]), names.get(value, "")]
        for value in np.flatnonzero(counts).tolist()
        if value
    }
    return Converted(encode_png(small), {"concepts": concepts})


def _read_concept_names(path: Path) -> dict[int, str]:
    """Concept number -> name, for the objects in a ``.json`` of the release."""
    try:
        content = path.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:  # some files of the release have an older encoding
            text = content.decode("latin-1")
        objects = json.loads(text, strict=False)["annotation"]["object"]
        return {int(item["name_ndx"]): str(item["name"]) for item in objects}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no description of an image ({error!r}). {EXPECTED}") from error


def plan_preparation(source: Path, dataset: DatasetSpec) -> Preparation:
    """Resize the photographs to a short side of 512 pixels, decode and resize the label maps.

    Raises:
        DataError: ``source`` is not the published folder.
    """
    root = find_published_folder(source, "images/ADE", ("ADE20K_2021_17_01",), EXPECTED)
    steps = []
    for split in SPLITS:
        folder = root / "images" / "ADE" / split
        for name, image, seg in pair_files((folder, ".jpg"), (folder, "_seg.png"), EXPECTED):
            short = name.rpartition("/")[2]
            steps.append(Step(f"images/{split}/{short}.jpg", (image, seg), resize_photograph))
            annotation = (seg, folder / f"{name}.json")
            steps.append(Step(f"annotations/{split}/{short}.png", annotation, convert_annotation))
    return Preparation(root, steps, finish=partial(_write_ranking, dataset))


def rank_concepts(
    pixels: Mapping[int, int], images: Mapping[int, int], validation: set[int]
) -> list[int]:
    """The concepts that occur in both splits, most frequent first.

    They are sorted by pixels in train at the size of the release (descending), then by images in
    train (descending), then by number (ascending).

    Args:
        pixels: concept -> its pixels in train.
        images: concept -> the images of train that contain it.
        validation: concepts with a pixel in validation.
    """
    both = [number for number in pixels if number in validation]
    return sorted(both, key=lambda number: (-pixels[number], -images[number], number))


def _write_ranking(
    dataset: DatasetSpec, target: Path, journal: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write the ranking, and compare its first concepts with the classes of the data set."""
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    validation: Counter[int] = Counter()
    names: dict[int, str] = {}
    for entry in journal:
        for text, (count, name) in entry.get("facts", {}).get("concepts", {}).items():
            number = int(text)
            names[number] = names.get(number) or name
            if entry["target"].startswith("annotations/training/"):
                pixels[number] += count
                images[number] += 1
            else:
                validation[number] += count
    order = rank_concepts(pixels, images, set(validation))
    ranking = [
        {
            "concept": number,
            "name": names[number],
            "train_pixels": pixels[number],
            "train_images": images[number],
            "validation_pixels": validation[number],
        }
        for number in order
    ]
    write_json(target / RANKING, ranking)
    first = order[: len(dataset.classes)]
    return {
        "concepts_in_both_splits": len(order),
        "classes_among_the_most_frequent": len(set(first) & set(dataset.labels)),
        "first_difference_in_order": next(
            (i for i, (a, b) in enumerate(zip(first, dataset.labels, strict=False), 1) if a != b),
            None,
        ),
    }
