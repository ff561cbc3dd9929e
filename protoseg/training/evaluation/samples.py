"""Computes the samples of a run (`protoseg.runs.results.samples`) from its model and its data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from protoseg.config.schema import RunSpec
from protoseg.datasets.labels import ignored_label
from protoseg.datasets.layout import find_root
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.results.samples import FULL_BYTES, VERSION, Array, Samples
from protoseg.runs.results.samples_reduction import Level, fit_size, resize_nearest, select_part
from protoseg.training.builders.components import TrainingComponents
from protoseg.training.evaluation import confusion
from protoseg.training.evaluation.pixel_samples import PixelSampler, compute_pixel_maps

SEED = 0
"""Seed of the choice of images and pixels; not that of the run, so that all runs have the same."""
IMAGES = 16
LABEL_SIDE, CLOSEST_SIDE = 320, 128
"""Longest side of label maps and of maps of prototypes."""
MAX_DIFFERENCE = 0.01
"""Share of pixels that may be counted otherwise than in the record, because of another machine."""
LEVELS = (Level(16, 16, 128), Level(16, 8, 64), Level(8, 8, 64), Level(4, 4, 32), Level(1, 1, 16))
RULE = (
    f"the first {IMAGES} images of the split by SHA-256 of seed, data set, split and name; label "
    f"maps of at most {LABEL_SIDE} and maps of prototypes of at most {CLOSEST_SIDE} values along "
    "the longer side, by nearest neighbour; a seeded choice of pixels for each class"
)

ImageCounts = Sequence[tuple[int, Any, Any]]


def choose_images(names: Sequence[str], dataset: str, split: str, number: int) -> list[int]:
    """Choose images of a split by hash, so that the choice depends on names only.

    Returns:
        Positions in ``names``, in the order of their hashes: fewer images are the first ones.
    """

    def compute_key(position: int) -> bytes:
        text = "\n".join((str(SEED), dataset, split, names[position]))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    return sorted(range(len(names)), key=compute_key)[:number]


@dataclass(frozen=True)
class _Predictions:
    """Results of the sampled images, in their order."""

    truth: list[Array] = field(default_factory=list)
    prediction: list[Array] = field(default_factory=list)
    closest: list[Array] = field(default_factory=list)
    similarity: list[Array] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    counts: list[tuple[int, Array, Array]] = field(default_factory=list)


def collect_samples(
    parts: TrainingComponents,
    spec: RunSpec,
    counts: ImageCounts,
    data: Path,
    run_id: str,
    state_sha256: str,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Predict the chosen images again, and sample labels, embeddings and prototypes.

    Args:
        parts: the model of a finished run and its test loader.
        spec: of the run.
        counts: confusion counts of each image of its record.
        data: the data folder.
        run_id: of the run.
        state_sha256: of the model, as in the record.
        progress: called with (finished images, all images).

    Raises:
        UsageError: a run of the task ``weak``, which predicts no classes of pixels.
        ProtosegError: the predictions differ from the counts, or one image is too large.
    """
    if spec.method.task == "weak":
        raise UsageError(
            f"{run_id}: its method {spec.method.kind} predicts pseudo-masks, which have no "
            "samples. Name a run of another task."
        )
    root = find_root(spec.dataset, data)
    dataset: Any = parts.test_loader.dataset
    names = [image.relative_to(root).as_posix() for image, _ in dataset.samples]
    dataset_name, split = spec.dataset.name, spec.evaluation.split
    chosen = choose_images(names, dataset_name, split, IMAGES)
    num_classes = len(spec.dataset.classes)
    sampler = PixelSampler(num_classes, SEED)
    predictions = _predict_images(parts, spec, chosen, sampler, progress)
    difference = _count_differences(predictions.counts, counts, num_classes)
    total = sum(int(pixels.sum()) for _, _, pixels in predictions.counts)
    if difference > MAX_DIFFERENCE * total:
        raise ProtosegError(
            f"{run_id}: {difference} of {total} pixels are predicted otherwise than in its record. "
            "Check that the data are those it was evaluated on."
        )
    similarity, limits = _encode_similarities(predictions.similarity)
    matrix = confusion.sum_counts(counts, num_classes).ravel()
    cells = np.flatnonzero(matrix)
    arrays = {
        "image_index": np.array(chosen, np.int32),
        "image_size": np.array(predictions.sizes, np.int32).reshape(-1, 2),
        "image_miou": np.array([_compute_miou(each, num_classes) for each in predictions.counts]),
        **sampler.collect_arrays(),
        "confusion_cell": cells.astype(np.int64),
        "confusion_count": matrix[cells],
    }
    listed = [names[i] for i in chosen]
    meta = {
        "version": VERSION,
        "form": "full",
        "run_id": run_id,
        "state_sha256": state_sha256,
        "dataset": dataset_name,
        "folder": root.relative_to(data).as_posix(),
        "split": split,
        "seed": SEED,
        "rule": RULE,
        "classes": list(spec.dataset.classes),
        "num_classes": num_classes,
        "num_prototypes": sampler.num_prototypes,
        "distance": sampler.distance,
        "ignored": ignored_label(spec.dataset),
        "images": listed,
        "sampled_images": listed,
        "count_difference": difference,
        "similarity_range": limits,
    }
    maps = {
        "truth": tuple(predictions.truth),
        "prediction": tuple(predictions.prediction),
        "closest": tuple(predictions.closest),
        "similarity": similarity,
    }
    samples = Samples(meta, arrays, maps)
    for level in LEVELS:
        part = select_part(samples, level)
        if len(part.pack()) <= FULL_BYTES:
            return part
    raise ProtosegError(f"{run_id}: its samples are larger than {FULL_BYTES // 10**6} MB.")


def _predict_images(
    parts: TrainingComponents,
    spec: RunSpec,
    chosen: Sequence[int],
    sampler: PixelSampler,
    progress: Callable[[int, int], None] | None,
) -> _Predictions:
    """Predict images as the evaluation does, and sample the embeddings of their pixels."""
    module: Any = parts.module
    counter = confusion.ConfusionCounts(len(spec.dataset.classes))
    dtype = np.uint8 if ignored_label(spec.dataset) < 256 else np.uint16
    results = _Predictions(counts=counter.results)
    was_training = module.training
    module.eval()
    try:
        for number, position in enumerate(chosen):
            batch = parts.test_loader.collate_fn([parts.test_loader.dataset[position]])
            with torch.no_grad(), _capture_features(module.decode_head) as features:
                (sample,) = module.test_step(batch)
                if spec.evaluation.mode != "whole":  # windows: the features of the whole image
                    features.clear()
                    inputs = module.data_preprocessor(batch, False)["inputs"]
                    module.decode_head(module.extract_feat(inputs))
                counter.process(batch, [sample.to_dict()])
                truth, labels = (
                    getattr(sample, name).data.squeeze(0).cpu().numpy()
                    for name in ("gt_sem_seg", "pred_sem_seg")
                )
                # Masks of the ignored label may have any other value.
                truth = np.where(truth < counter.num_classes, truth, ignored_label(spec.dataset))
                maps = compute_pixel_maps(module.decode_head, features, truth)
            size = fit_size(truth.shape, LABEL_SIDE)
            results.truth.append(resize_nearest(truth, size).astype(dtype))
            results.prediction.append(resize_nearest(labels, size).astype(dtype))
            results.sizes.append((int(truth.shape[0]), int(truth.shape[1])))
            sampler.add_image(number, maps, results.sizes[-1])
            if maps.closest is not None:
                size = fit_size(maps.closest.shape, CLOSEST_SIDE)
                column_type = np.uint16 if sampler.prototypes[..., 0].size <= 2**16 else np.uint32
                results.closest.append(resize_nearest(maps.closest, size).astype(column_type))
                results.similarity.append(resize_nearest(maps.similarity, size))
            if progress is not None:
                progress(number + 1, len(chosen))
    finally:
        module.train(was_training)
    return results


@contextmanager
def _capture_features(head: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the feature maps that a head classifies; empty for a head of another class."""
    features: list[torch.Tensor] = []
    original = getattr(head, "features", None)
    if original is None:
        yield features
        return

    def compute_and_keep(inputs: Any) -> torch.Tensor:
        maps: torch.Tensor = original(inputs)
        features.append(maps)
        return maps

    # Not `classify`: a head with scores of groups resizes the logits before it scores classes.
    head.features = compute_and_keep
    try:
        yield features
    finally:
        del head.features


def _count_differences(again: ImageCounts, recorded: ImageCounts, num_classes: int) -> int:
    """Number of pixels that the two counts of the same images put into different cells."""
    of_record = {number: (cells, pixels) for number, cells, pixels in recorded}
    difference = 0
    for number, cells, pixels in again:
        change = np.zeros(num_classes**2, np.int64)
        change[cells] += pixels
        old_cells, old_pixels = of_record.get(number, (cells[:0], pixels[:0]))
        change[old_cells] -= old_pixels
        difference += int(np.abs(change).sum() + abs(change.sum())) // 2
    return difference


def _compute_miou(counts: tuple[int, Array, Array], num_classes: int) -> float:
    """mIoU of one image, in percent."""
    matrix = confusion.sum_counts([counts], num_classes)
    return confusion.summarise_matrix(matrix)[0]["miou"]


def _encode_similarities(maps: Sequence[Array]) -> tuple[tuple[Array, ...], list[float]]:
    """Round similarities to 256 steps over their range, which is returned too."""
    if not maps:
        return (), [0.0, 0.0]
    low, high = float(min(map(np.min, maps))), float(max(map(np.max, maps)))
    scale = 255 / (high - low) if high > low else 0.0
    return tuple(np.round((each - low) * scale).astype(np.uint8) for each in maps), [low, high]
