"""`protoseg data check` as it was before it counted while reading: the reference of its rate.

Threads decode photograph and label map in full with Pillow, count label values with
``numpy.bincount``, keep the counts of all pairs, and read all files again for the digest.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Pair = tuple[Path, Path]


def check_pairs(pairs: list[Pair]) -> tuple[dict[int, int], str]:
    """Return the pixels of each label value in all pairs, and a digest of all files."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        contents = list(pool.map(read_pair, pairs))
        digests = list(pool.map(hash_file, (path for pair in pairs for path in pair)))
    total: Counter[int] = Counter()
    for content in contents:
        total.update(content)
    return dict(total), hashlib.sha256("".join(digests).encode()).hexdigest()


def read_pair(pair: Pair) -> dict[int, int]:
    """Return the pixels of each label value of one pair, after decoding both files."""
    with Image.open(pair[0]) as file:
        image = ImageOps.exif_transpose(file.convert("RGB"))
    with Image.open(pair[1]) as file:
        file.verify()
    with Image.open(pair[1]) as file:
        labels = np.asarray(file)
    assert image.size == labels.shape[::-1]
    low, high = int(labels.min()), int(labels.max())
    assert 0 <= low <= high
    histogram = np.bincount(labels.ravel())
    values = np.flatnonzero(histogram)
    return dict(zip(values.tolist(), histogram[values].tolist(), strict=True))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
