"""The settings of runs that train in seconds, for matrices of tests and campaigns."""

from __future__ import annotations

from typing import Any


def make_tiny_base(iterations: int, warmup_iterations: int = 0) -> dict[str, Any]:
    """The ``base`` of a matrix of tiny runs on the built-in data, 48x48 pixels, batch size 2."""
    return {
        "dataset": "shapes",
        "dataset.generator.size": 48,
        "dataset.generator.train": 12,
        "dataset.generator.val": 4,
        "dataset.counts": {"train": 12, "val": 4},
        "dataset.digest": "unpinned",
        "augmentation.scale": [48, 48],
        "augmentation.crop_size": [48, 48],
        "schedule.iterations": iterations,
        "schedule.batch_size": 2,
        "schedule.warmup_iterations": warmup_iterations,
    }
