"""The published form of samples: the same content, reduced by a rule to at most 100 kB.

The rule: label maps have a longer side of at most 200 values and maps of prototypes of at most 128
(nearest neighbour); similarities have 16 steps. Embeddings of the 12 most frequent classes and
their prototypes are divided by their norm for the cosine distance, and projected to the first 16
principal components of the embeddings. The first of `LEVELS` that fits gives the number of images,
maps and embeddings.

Figures use this form only, so that they can be verified from what is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protoseg import files
from protoseg.errors import ProtosegError
from protoseg.runs.results.samples import PUBLISHED_BYTES, Array, Samples, read_samples
from protoseg.runs.sealed import RecordError

PUBLISHED = "published"
LABEL_SIDE, CLOSEST_SIDE = 200, 128
CLASSES, COMPONENTS = 12, 16
STEPS = 16
"""Number of steps that similarities are rounded to."""


@dataclass(frozen=True)
class Level:
    """How much of the samples is kept."""

    images: int
    closest: int
    """Number of images with maps of prototypes."""
    embeddings: int
    """Number of embeddings per class."""


LEVELS = (
    Level(12, 6, 90),
    Level(12, 4, 60),
    Level(12, 4, 40),
    Level(12, 3, 40),
    Level(12, 2, 32),
    Level(10, 2, 24),
    Level(8, 2, 24),
    Level(6, 2, 16),
    Level(4, 1, 16),
    Level(2, 1, 8),
    Level(1, 1, 4),
    Level(1, 0, 4),
)


def reduce_samples(samples: Samples) -> Samples:
    """Reduce full samples to the published form; published ones are returned unchanged.

    Raises:
        ProtosegError: one image alone is too large for the limit.
    """
    if samples.meta["form"] == PUBLISHED:
        return samples
    smaller = _project_embeddings(_resize_maps(samples))
    for level in LEVELS:
        part = select_part(smaller, level)
        if len(part.pack()) <= PUBLISHED_BYTES:
            return part
    raise ProtosegError(
        f"samples of {samples.meta['run_id']}: larger than {PUBLISHED_BYTES // 1000} kB with one "
        f"image, because of {samples.meta['num_classes']} classes. They cannot be published."
    )


def resize_nearest(array: Array, size: tuple[int, int]) -> Array:
    """Resize a map (h, w) by nearest neighbour: the value at the centre of each new pixel."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for new, old in zip(size, array.shape, strict=True)
    )
    resized: Array = array[rows[:, None], columns]
    return resized


def fit_size(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """The size (h, w) whose longer side has at most ``side`` pixels, with the same proportions."""
    height, width = size
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize_maps(samples: Samples) -> Samples:
    sides = {"truth": LABEL_SIDE, "prediction": LABEL_SIDE}
    maps = {
        name: tuple(resize_nearest(m, fit_size(m.shape, sides.get(name, CLOSEST_SIDE))) for m in of)
        for name, of in samples.maps.items()
    }
    step = 255 // (STEPS - 1)
    maps["similarity"] = tuple(
        (np.round(m / step) * step).astype(np.uint8) for m in maps["similarity"]
    )
    meta = {**samples.meta, "form": PUBLISHED, "source": samples.digest}
    return Samples(meta, samples.arrays, maps)


def _project_embeddings(samples: Samples) -> Samples:
    """Keep the most frequent classes, and project embeddings to principal components."""
    arrays = dict(samples.arrays)
    kept = _list_classes(samples)[:CLASSES]
    chosen = np.isin(arrays["embedding_class"], kept)
    for name in ("embedding", "embedding_class", "embedding_prototype", "embedding_image"):
        arrays[name] = arrays[name][chosen]
    for name in ("prototype", "prototype_class", "nearest", "nearest_similarity"):
        arrays[name] = arrays[name][: len(kept)]
    points, prototypes = arrays["embedding"].astype(np.float64), arrays["prototype"]
    classes, number, width = prototypes.shape
    vectors = prototypes.reshape(classes * number, width).astype(np.float64)
    if samples.meta["distance"] == "cosine":
        points, vectors = map(_normalise_rows, (points, vectors))
    if len(points):
        mean = points.mean(0)
        # The eigenvectors of the covariance, by falling eigenvalue. The largest entry of each is
        # positive, because the sign of an eigenvector is arbitrary.
        _, axes = np.linalg.eigh((points - mean).T @ (points - mean))
        axes = axes[:, ::-1][:, :COMPONENTS]
        largest = np.abs(axes).argmax(0)
        axes = axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
        points, vectors = (points - mean) @ axes, (vectors - mean) @ axes
    arrays["embedding"] = points.astype(np.float16)
    arrays["prototype"] = vectors.reshape(classes, number, points.shape[1]).astype(np.float16)
    return Samples(samples.meta, arrays, samples.maps)


def _normalise_rows(rows: Array) -> Array:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Array = rows / np.maximum(norm, 1e-12)
    return unit


def _list_classes(samples: Samples) -> list[int]:
    """The classes with embeddings, the most frequent first."""
    return [int(c) for c in samples.arrays["prototype_class"]]


def select_part(samples: Samples, level: Level) -> Samples:
    """Keep the first images, the first maps of prototypes, and some embeddings of each class."""
    images = samples.images[: level.images]
    arrays = dict(samples.arrays)
    for name in ("image_index", "image_size", "image_miou"):
        arrays[name] = arrays[name][: len(images)]
    labels, chosen = arrays["embedding_class"], np.zeros(len(arrays["embedding"]), bool)
    for number in np.unique(labels):
        rows = np.flatnonzero(labels == number)
        # Evenly spaced: rows are sorted by image.
        keep = min(level.embeddings, len(rows))
        chosen[rows[np.arange(keep) * len(rows) // max(keep, 1)]] = True
    for name in ("embedding", "embedding_class", "embedding_prototype", "embedding_image"):
        arrays[name] = arrays[name][chosen]
    lengths = {"truth": len(images), "prediction": len(images)}
    number = min(level.closest, len(images))
    maps = {name: of[: lengths.get(name, number)] for name, of in samples.maps.items()}
    return Samples({**samples.meta, "images": images}, arrays, maps)


def publish_samples(path: Path, folder: Path) -> bool:
    """Write the published form of samples to ``folder``; different ones are never overwritten.

    Args:
        path: samples of a run, full or published.
        folder: of published samples.

    Returns:
        Whether the file is new.

    Raises:
        RecordError: ``folder`` has samples of another model of this run, or a file is damaged.
        ProtosegError: too large to be published.
    """
    samples = read_samples(path)
    target = folder / f"{samples.meta['run_id']}.npz"
    if target.exists():
        existing = read_samples(target)
        # Principal components may differ in the last bits between machines: the origin decides.
        if existing.meta.get("source") != samples.meta.get("source", samples.digest):
            raise RecordError(
                f"{target}: holds other samples of {samples.meta['run_id']}; they are kept. Move "
                "the file away to publish the new ones."
            )
        return False
    files.make_folder(folder)
    files.write_bytes(target, reduce_samples(samples).pack())
    return True
