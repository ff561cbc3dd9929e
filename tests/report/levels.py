"""Makes trees of classes, confusion counts and records with counts, for tests of levels."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg.config.hierarchy.tree import Hierarchy, make_hierarchy
from protoseg.config.matrix import Matrix
from protoseg.config.schema import RunSpec
from report.lab import CLASSES, Lab

Integers = NDArray[np.int64]
TREE = make_hierarchy([("sky", "sky"), ("ground", "road"), ("ground", "car")])
"""A tree of the classes of `report.lab`."""


def add_trees(matrix: Matrix, tree: Hierarchy = TREE) -> Matrix:
    """Give a matrix of `report.lab` the tree of its data set."""
    return dataclasses.replace(matrix, trees={("camvid", CLASSES): tree})


def pack(matrices: Iterable[Integers]) -> bytes:
    """Pack the confusion matrix of each image as the file of counts of a record."""
    entries = [
        (number, cell, count)
        for number, matrix in enumerate(matrices)
        for cell, count in enumerate(matrix.ravel().tolist())
        if count
    ]
    image, cell, count = np.array(entries, np.int64).reshape(-1, 3).T
    size, images = len(next(iter(matrices))), len(list(matrices))
    file = io.BytesIO()
    np.savez(file, image=image, cell=cell, count=count, num_classes=size, num_images=images)
    return file.getvalue()


def finish(lab: Lab, spec: RunSpec, matrix: Any, **changes: Any) -> Path:
    """Write a record with the metrics of a confusion matrix, and its counts; return these."""
    matrix = np.array(matrix)
    data = pack([matrix])
    hit, truth, guess = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    iou = [
        100 * h / (t + g - h) if t + g else None for h, t, g in zip(hit, truth, guess, strict=True)
    ]
    per_class = [
        {"name": name, "iou": value, "acc": None, "pixels": int(pixels)}
        for name, value, pixels in zip(spec.dataset.classes, iou, truth, strict=False)
    ]
    defined = [value for value in iou if value is not None]
    digest = hashlib.sha256(data).hexdigest()
    confusion = {"file": "confusion.npz", "sha256": digest}
    miou = sum(defined) / len(defined)
    record = lab.finish(spec, miou, per_class=per_class, confusion=confusion, **changes)
    path = (
        record.with_name("confusion.npz")
        if record.name == "record.json"
        else record.with_suffix(".npz")
    )
    path.write_bytes(data)
    return path


def expand_pixels(matrix: Integers) -> tuple[list[int], list[int]]:
    """List the true and the predicted class of every pixel of a confusion matrix."""
    truth, guess = [], []
    for (row, column), count in np.ndenumerate(matrix):
        truth += [row] * int(count)
        guess += [column] * int(count)
    return truth, guess


def count_edges(paths: Mapping[int, tuple[str, ...]], a: int, b: int) -> int:
    """Count the edges between two classes by climbing from both until the nodes are the same."""
    up = 0
    while up < len(paths[a]) and paths[a][: len(paths[a]) - up] != paths[b][: len(paths[b]) - up]:
        up += 1
    return 2 * up
