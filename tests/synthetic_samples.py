"""Samples of runs made of random numbers, for tests without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protoseg.runs.results.samples import VERSION, Samples

CLASSES = ("sky", "road", "car")


def make_samples(
    run_id: str = "run",
    state: str = "state",
    *,
    number: int = 4,
    size: tuple[int, int] = (30, 40),
    classes: Sequence[str] = CLASSES,
    prototypes: int = 3,
    seed: int = 0,
    width: int = 8,
    per_class: int = 20,
    **meta: Any,
) -> Samples:
    """Make full samples with K prototypes; the ground truth depends on the sizes only."""
    random, fixed = np.random.RandomState(seed), np.random.RandomState(99)
    c = len(classes)
    truth = [fixed.randint(0, c, size).astype(np.uint8) for _ in range(number)]
    for labels in truth:
        labels[0, :3] = 255
    keep = [random.rand(*size) < 0.7 for _ in range(number)]
    prediction = [
        np.where(k & (t < c), t, random.randint(0, c, size)).astype(np.uint8)
        for k, t in zip(keep, truth, strict=True)
    ]
    small = (size[0] // 2, size[1] // 2)
    maps = number if prototypes else 0
    columns = max(c * prototypes, 1)
    labels = np.repeat(np.arange(c), per_class)
    names = [f"images/val/{i:03}.png" for i in range(number)]
    arrays: dict[str, Any] = {
        "image_index": np.arange(number, dtype=np.int32),
        "image_size": np.array([size] * number, np.int32),
        "image_miou": random.rand(number) * 100,
        "embedding": random.randn(c * per_class, width).astype(np.float16),
        "embedding_class": labels.astype(np.int32),
        "embedding_prototype": (labels * prototypes if prototypes else labels * 0 - 1).astype("i4"),
        "embedding_image": random.randint(0, number, len(labels)).astype(np.int32),
        "prototype_class": np.arange(c, dtype=np.int32),
        "prototype": random.randn(c, prototypes, width).astype(np.float16),
        "nearest": random.randint(0, min(number, *size), (c, prototypes, 5, 3)).astype(np.int32),
        "nearest_similarity": random.rand(c, prototypes, 5).astype(np.float32),
        "prototype_pixels": random.randint(1, 100, (c, prototypes)).astype(np.int64),
        "confusion_cell": np.arange(c * c, dtype=np.int64),
        "confusion_count": random.randint(1, 100, c * c).astype(np.int64),
    }
    content: Mapping[str, Any] = {
        "version": VERSION,
        "form": "full",
        "run_id": run_id,
        "state_sha256": state,
        "dataset": "camvid",
        "folder": "camvid",
        "split": "val",
        "seed": 0,
        "rule": "random",
        "classes": list(classes),
        "num_classes": c,
        "num_prototypes": prototypes,
        "distance": "cosine",
        "ignored": 255,
        "images": names,
        "sampled_images": names,
        "count_difference": 0,
        "similarity_range": [0.0, 1.0],
        **meta,
    }
    return Samples(
        content,
        arrays,
        {
            "truth": tuple(truth),
            "prediction": tuple(prediction),
            "closest": tuple(random.randint(0, columns, small).astype("u2") for _ in range(maps)),
            "similarity": tuple(random.randint(0, 256, small).astype("u1") for _ in range(maps)),
        },
    )


def write_samples(samples: Samples, path: Path) -> Path:
    """Write samples to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(samples.pack())
    return path
