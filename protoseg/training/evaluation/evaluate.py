"""Evaluation of a trained model: predict the split, count the confusions, compute the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from protoseg.config.schema import RunSpec
from protoseg.core.collective import all_max
from protoseg.training.builders.components import EvaluationComponents, TrainingComponents
from protoseg.training.distributed.process_group import Processes
from protoseg.training.evaluation import confusion
from protoseg.training.evaluation.cam_masks import build_counter
from protoseg.training.signals import StopRequest, raise_if_stop_requested


def evaluate(
    parts: TrainingComponents, spec: RunSpec, stop: StopRequest, processes: Processes | None = None
) -> tuple[dict[str, Any], list[Any], bytes, int]:
    """Evaluate a model on its test split.

    Args:
        processes: the processes that share the images; by default only this one.

    Returns:
        Overall metrics, per-class metrics, packed counts of each image, and the number of images.

    Raises:
        StopRequested: a process received a signal.
        ClaimLost: another worker took the run over.
    """
    return evaluate_network(parts, build_counter(spec), spec.dataset.classes, stop, processes)


def evaluate_network(
    parts: TrainingComponents | EvaluationComponents,
    counter: confusion.ConfusionCounts,
    classes: Sequence[str],
    stop: StopRequest,
    processes: Processes | None = None,
) -> tuple[dict[str, Any], list[Any], bytes, int]:
    """Evaluate a network on the images of a loader; see `evaluate`.

    Args:
        counter: counts the confusions.
        classes: names of the classes.
    """
    processes = processes or Processes()
    parts.model.eval()
    batches = iter(parts.test_loader)
    # All processes take part in every exchange of signals, also after their own last batch.
    num_steps = int(all_max(torch.tensor(len(parts.test_loader))))
    with torch.no_grad():
        for _ in range(num_steps):
            stop.raise_if_taken_over()
            raise_if_stop_requested(stop, processes)
            batch = next(batches, None)
            if batch is not None:
                samples = parts.model.test_step(batch)
                counter.process(batch, [sample.to_dict() for sample in samples])
    images = counter.results
    if processes.size > 1:
        shares = processes.gather_bytes(confusion.encode_counts(images))
        images = [image for share in shares for image in confusion.decode_counts(share)]
    counter.compute_metrics(images)
    matrix = confusion.sum_counts(counter.images, len(classes))
    overall, per_class = confusion.summarise_matrix(matrix, classes)
    overall |= counter.details
    packed = confusion.pack_counts(counter.images, len(classes))
    return overall, per_class, packed, len(counter.images)
