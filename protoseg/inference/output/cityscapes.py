"""The upload to the test server of Cityscapes: one zip of label maps with ``labelIds``.

The server wants one PNG for each of the 1,525 test images, of their size, whose name begins with
that of the image: ``berlin_000000_000019_labelIds.png``.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from protoseg import files
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare.cityscapes import EVALUATED
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.datasets.readers.photographs import read_size
from protoseg.errors import DataError, UsageError
from protoseg.inference.output.image_list import InputImage

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
"""The evaluated classes, in the order of their trainIds."""
TEST_IMAGES = {
    "berlin": 544,
    "bielefeld": 181,
    "bonn": 46,
    "leverkusen": 58,
    "mainz": 298,
    "munich": 398,
}
"""Number of test images of each city, together 1,525."""
SIZE = (2048, 1024)
"""(width, height)."""
NAME = re.compile(r"(?P<key>(?P<city>[a-z-]+)_\d{6}_\d{6})_leftImg8bit")
SHOWN = 3


def check_upload(images: Sequence[InputImage], dataset: DatasetSpec, target: Path) -> None:
    """Check before the prediction that the images are those of the test split.

    Raises:
        UsageError: other classes, an existing file, or images that are missing, unexpected, or of
            another size. The message counts them by city.
    """
    if set(dataset.classes) != set(CLASSES):
        raise UsageError(
            f"--cityscapes-zip: {dataset.name} has other classes than Cityscapes. Name a run that "
            "was trained on dataset=cityscapes or cityscapes_trainval."
        )
    if target.exists():
        raise UsageError(f"{target}: exists already. Name another file, or move this one.")
    keys: dict[str, Path] = {}
    problems = []
    for image in images:
        match = NAME.fullmatch(image.path.stem)
        if match is None or match["city"] not in TEST_IMAGES:
            problems.append(f"{image.path.name} is not the name of a test image")
        elif keys.setdefault(match["key"], image.path) != image.path:
            problems.append(f"{match['key']} has two images")
        elif (size := read_size(image.path)) is None:
            problems.append(f"{image.path.name} cannot be read")
        elif size != SIZE:
            problems.append(f"{image.path.name} has {size[0]}×{size[1]} pixels, not 2048×1024")
    cities = Counter(key.partition("_")[0] for key in keys)
    problems += [
        f"{city} has {cities[city]} of {number} images"
        for city, number in TEST_IMAGES.items()
        if cities[city] != number
    ]
    if problems:
        more = f", and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        total = f"{sum(TEST_IMAGES.values()):,}"
        raise UsageError(
            f"--cityscapes-zip: the test split has {total} images, but "
            f"{'; '.join(problems[:SHOWN])}{more}. Name the folder leftImg8bit/test of "
            "leftImg8bit_trainvaltest.zip."
        )


def write_upload(
    target: Path,
    labels: Iterable[tuple[InputImage, Path]],
    values: np.ndarray,
    classes: Sequence[str],
) -> int:
    """Write the zip from the label maps of a folder of predictions.

    Args:
        target: the file to create.
        labels: each image and its label map.
        values: the value of each class in these label maps, (C,).
        classes: names of the C classes.

    Returns:
        The number of label maps.

    Raises:
        DataError: a label map that is missing, damaged, or of another size.
        StorageError: no space left, or no permission.
    """
    ids = dict(zip(CLASSES, EVALUATED, strict=True))
    table = np.zeros(int(values.max()) + 1, np.uint8)
    table[values.astype(int)] = [ids[name] for name in classes]
    number = 0

    def write_entries(file: BinaryIO) -> None:
        nonlocal number
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed
            for image, path in labels:
                match = NAME.fullmatch(image.path.stem)
                assert match is not None
                name = f"{match['key']}_labelIds.png"
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                archive.writestr(info, _encode_ids(path, table))
                number += 1

    files.make_folder(target.parent)
    files.write_with(target, write_entries)
    return number


def _encode_ids(path: Path, table: np.ndarray) -> bytes:
    labels = read_label_map(path)
    if labels.shape != SIZE[::-1]:
        raise DataError(
            f"{path}: has the shape {labels.shape}, expected {SIZE[::-1]}. Predict its image again."
        )
    _, data = cv2.imencode(".png", table[labels])
    content: bytes = data.tobytes()
    return content
