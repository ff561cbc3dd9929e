"""Measures a network on a split, as the content of a sealed evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from protoseg.runs.folder import now
from protoseg.training.builders.components import EvaluationComponents, TrainingComponents
from protoseg.training.evaluation import confusion
from protoseg.training.evaluation.evaluate import evaluate_network
from protoseg.training.provenance.environment import collect_provenance, read_kernel_settings
from protoseg.training.signals import StopRequest

Progress = Callable[[int, int], None]
"""Called with (finished images, all images)."""


def measure_network(
    parts: TrainingComponents | EvaluationComponents,
    classes: Sequence[str],
    name: str,
    data_digest: str,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], bytes]:
    """Evaluate a network on its test loader.

    Args:
        parts: the network and the loader.
        classes: names of the classes.
        name: of the evaluation, for the file of its counts.
        data_digest: of the data set.
        progress: called after each image.

    Returns:
        Metrics, digest of the counts, duration and provenance, as keys of an evaluation; and the
        packed counts.
    """
    if progress is not None:
        _report_progress(parts, progress)
    start = time.perf_counter()
    counter = confusion.ConfusionCounts(len(classes))
    overall, per_class, counts, images = evaluate_network(parts, counter, classes, StopRequest())
    content = {
        "metrics": {**overall, "images": images},
        "per_class": per_class,
        "confusion": {"file": f"{name}.npz", "sha256": confusion.hash_bytes(counts)},
        "seconds": round(time.perf_counter() - start, 2),
        "provenance": {
            **collect_provenance(),
            "kernels": read_kernel_settings(),
            "data_digest": data_digest,
        },
        "finished": now(),
    }
    return content, counts


def _report_progress(parts: TrainingComponents | EvaluationComponents, progress: Progress) -> None:
    """Report each batch of the test loader to ``progress``; a batch has one image."""
    total, done = len(parts.test_loader), 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        progress(done, total)

    parts.module.register_forward_hook(count)
