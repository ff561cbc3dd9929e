"""ADE20K-Full from its raw release (2021_17_01): label maps of the release's own concept numbers.

The label maps hold every concept, so that one preparation serves every size of vocabulary; which
concepts are classes stands in the data set's YAML. At the end the concepts are ranked, and the
ranking is compared with it.
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
from protoseg.datasets.prepare.label_maps import png, read
from protoseg.datasets.prepare.steps import Made, Plan, Step, pairs, published
from protoseg.errors import DataError
from protoseg.files import write_json

EXPECTED = (
    "Expected are images/ADE/{training,validation}/SCENE/.../ADE_*.jpg, each with its _seg.png and "
    ".json: get ADE20K_2021_17_01.zip from https://groups.csail.mit.edu/vision/datasets/ADE20K "
    "(after registration) and unpack it."
)
SPLITS = ("training", "validation")
SHORT_SIDE = 512
"""Pixels; the release has photographs of 12 megapixels, SceneParse150 was published at this."""
QUALITY = 95
RANKING = "concepts.json"


def concepts(seg: np.ndarray) -> np.ndarray:
    """Concept number of each pixel of a ``_seg.png``, (height, width) uint16; 0 is none.

    Red holds tens of the number's multiples of 256, green the rest; blue tells instances apart.
    """
    return seg[..., 0].astype(np.uint16) // 10 * 256 + seg[..., 1]


def shrunk(width: int, height: int) -> tuple[int, int]:
    """(width, height) with a short side of at most 512, aspect kept."""
    short = min(width, height)
    if short <= SHORT_SIDE:
        return width, height
    return tuple(max(1, round(side * SHORT_SIDE / short)) for side in (width, height))  # type: ignore[return-value]


def picture(sources: tuple[Path, ...]) -> Made:
    """The photograph at the size of its label map; as it is where that is its own size."""
    path, seg = sources
    try:
        with Image.open(path) as image, Image.open(seg) as labels:
            if image.size != labels.size:
                raise DataError(
                    f"{path}: is {image.width}×{image.height} pixels, its label map {seg} is "
                    f"{labels.width}×{labels.height}. Download the one that is wrong again."
                )
            size = shrunk(*image.size)
            if size == image.size and image.getexif().get(0x0112, 1) == 1:
                return Made()
            buffer = io.BytesIO()
            # Without EXIF: the label map lies as the pixels do, whatever the camera was turned.
            small = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            small.save(buffer, "JPEG", quality=QUALITY)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: can not be decoded ({error}). Download it again.") from error
    return Made(buffer.getvalue())


def label_map(sources: tuple[Path, ...]) -> Made:
    """The concepts of a ``_seg.png``, nearest pixels; the facts count them at full size."""
    seg, description = sources
    full = concepts(read(seg, "RGB"))
    counts = np.bincount(full.ravel())  # many times faster than sorting
    width, height = shrunk(full.shape[1], full.shape[0])
    rows = (np.arange(height) + 0.5) * full.shape[0] / height
    columns = (np.arange(width) + 0.5) * full.shape[1] / width
    small = full[np.ix_(rows.astype(int), columns.astype(int))]
    names = _names(description)
    found = {
        str(value): [int(counts[value]), names.get(value, "")]
        for value in np.flatnonzero(counts).tolist()
        if value
    }
    return Made(png(small), {"concepts": found})


def _names(path: Path) -> dict[int, str]:
    """Number and name of the concepts that a ``.json`` describes."""
    try:
        content = path.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:  # some descriptions are older than the rest
            text = content.decode("latin-1")
        objects = json.loads(text, strict=False)["annotation"]["object"]
        return {int(thing["name_ndx"]): str(thing["name"]) for thing in objects}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no description of an image ({error!r}). {EXPECTED}") from error


def plan(source: Path, dataset: DatasetSpec) -> Plan:
    """Shrink the photographs to a short side of 512, decode the label maps.

    Raises:
        DataError: another folder than the published one.
    """
    root = published(source, "images/ADE", ("ADE20K_2021_17_01",), EXPECTED)
    steps = []
    for split in SPLITS:
        folder = root / "images" / "ADE" / split
        for name, image, seg in pairs((folder, ".jpg"), (folder, "_seg.png"), EXPECTED):
            short = name.rpartition("/")[2]
            steps.append(Step(f"images/{split}/{short}.jpg", (image, seg), picture))
            described = (seg, folder / f"{name}.json")
            steps.append(Step(f"annotations/{split}/{short}.png", described, label_map))
    return Plan(root, steps, finish=partial(_finish, dataset))


def rank(pixels: Mapping[int, int], images: Mapping[int, int], validation: set[int]) -> list[int]:
    """The concepts of both splits, most frequent first.

    Frequent is what covers most pixels of train, at the size of the release; of two alike what
    stands in more images of train; then the smaller number.

    Args:
        pixels: of each concept in train.
        images: of train that have it.
        validation: concepts with a pixel in validation.
    """
    both = [number for number in pixels if number in validation]
    return sorted(both, key=lambda number: (-pixels[number], -images[number], number))


def _finish(dataset: DatasetSpec, target: Path, journal: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the ranking, and say how far the classes of the data set are its first ones."""
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
    order = rank(pixels, images, set(validation))
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
