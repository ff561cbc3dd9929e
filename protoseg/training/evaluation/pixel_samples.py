"""Samples pixels of a few images: embeddings, and the pixels that are nearest to each prototype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from protoseg.models.prototype_head import PrototypeHead
from protoseg.models.query_decoder_head import QueryDecoderHead
from protoseg.runs.results.samples import Array
from protoseg.runs.results.samples_reduction import resize_nearest

CLASSES = 20
"""Classes with embeddings: the most frequent ones."""
PER_CLASS = 128
EMBEDDING_BYTES = 700_000
"""Size of all embeddings, float16 and not compressed."""
NEAREST = 5
"""Positions that are kept for each prototype, of different images."""
ROWS = 4096
"""Pixels whose similarities are computed at once."""
HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class PixelMaps:
    """What is known of each value of a feature map of one image."""

    embeddings: Array
    """(h, w, D) float32; (0, 0, 0) for a head without pixel embeddings."""
    truth: Array
    """(h, w), class numbers of the ground truth; others are ignored."""
    closest: Any
    """(h, w), column c·K + k of the closest prototype of all classes (Eq. 5); None without."""
    similarity: Any
    """(h, w) float32, similarity to it; None without."""
    prototypes: Array
    """(C, K, D) float32; (0, 0, 0) without."""
    distance: str
    """Distance of the prototypes; ``cosine`` without."""


def compute_pixel_maps(head: Any, features: list[torch.Tensor], truth: Array) -> PixelMaps:
    """Compute the embeddings of one image and their closest prototypes.

    Args:
        head: the decode head.
        features: what it classified: one map (1, D, h, w); empty for a head of another package.
        truth: ground truth of the image, (H, W).
    """
    # The features of Segmenter's decoder are scores of queries.
    if not features or isinstance(head, QueryDecoderHead):
        nothing = np.zeros((0, 0, 0), np.float32)
        return PixelMaps(nothing, truth[:0, :0], None, None, nothing, "cosine")
    (maps,) = features
    size = (int(maps.shape[2]), int(maps.shape[3]))
    small = resize_nearest(truth, size)
    if not isinstance(head, PrototypeHead):
        embeddings = maps[0].permute(1, 2, 0).float().cpu().numpy()
        return PixelMaps(
            embeddings, small, None, None, np.zeros((0, 0, embeddings.shape[2])), "cosine"
        )
    pixels = head.embed_features(maps)[0].flatten(0, 1)
    best = [head.bank.compute_similarities(rows).max(1) for rows in pixels.split(ROWS)]
    closest, similarity = (
        torch.cat([getattr(part, name) for part in best]).cpu().numpy().reshape(size)
        for name in ("indices", "values")
    )
    return PixelMaps(
        pixels.unflatten(0, size).cpu().numpy(),
        small,
        closest,
        similarity.astype(np.float32),
        head.bank.prototypes.cpu().numpy(),
        head.bank.distance,
    )


class PixelSampler:
    """Collects the samples of pixels of several images.

    Args:
        num_classes: C.
        seed: seed of the choice of pixels.
    """

    def __init__(self, num_classes: int, seed: int) -> None:
        self.num_classes = num_classes
        self.seed = seed
        self.distance = "cosine"
        self.prototypes: Array = np.zeros((0, 0, 0), np.float32)
        self._frequency = np.zeros(num_classes, np.int64)
        self._pixels = np.zeros(0, np.int64)
        self._candidates: dict[int, list[tuple[int, Array, Array]]] = {}
        self._nearest: list[tuple[Array, ...]] = []

    @property
    def num_prototypes(self) -> int:
        """K; 0 without prototypes."""
        return self.prototypes.shape[1]

    def add_image(self, number: int, maps: PixelMaps, size: tuple[int, int]) -> None:
        """Add the pixels of an image.

        Args:
            number: position of the image.
            maps: its pixels.
            size: height and width of the image, in pixels.
        """
        self.prototypes, self.distance = maps.prototypes, maps.distance
        if not maps.truth.size:
            return
        rows = maps.embeddings.reshape(-1, maps.embeddings.shape[2])
        truth = maps.truth.ravel()
        inside = truth < self.num_classes
        self._frequency += np.bincount(truth[inside], minlength=self.num_classes)
        columns = np.full(len(truth), -1) if maps.closest is None else maps.closest.ravel()
        for label in np.unique(truth[inside]).tolist():
            # RandomState: its numbers are the same in all versions of numpy.
            random = np.random.RandomState([self.seed, number, label])
            of_class = np.flatnonzero(truth == label)
            drawn = np.sort(random.permutation(of_class)[:PER_CLASS])
            self._candidates.setdefault(label, []).append((number, rows[drawn], columns[drawn]))
        if maps.closest is None:
            return
        total = self.prototypes.shape[0] * self.num_prototypes
        if not self._pixels.size:
            self._pixels = np.zeros(total, np.int64)
        self._pixels += np.bincount(columns, minlength=total)
        similarity = maps.similarity.ravel()
        order = np.lexsort((-similarity, columns))
        first = order[np.r_[True, np.diff(columns[order]) != 0]]  # the most similar of each
        row, column = np.divmod(first, maps.truth.shape[1])
        # The centre of each value of the feature map, in pixels of the image.
        row = ((row + 0.5) * size[0] / maps.truth.shape[0]).astype(np.int64)
        column = ((column + 0.5) * size[1] / maps.truth.shape[1]).astype(np.int64)
        images = np.full(len(first), number)
        self._nearest.append((columns[first], similarity[first], images, row, column))

    def collect_arrays(self) -> dict[str, Array]:
        """Build the arrays of pixels and prototypes, see `protoseg.runs.results.samples.ARRAYS`."""
        ranked = [int(c) for c in np.argsort(-self._frequency, kind="stable")[:CLASSES]]
        classes = [c for c in ranked if self._frequency[c]]
        nearest, similarity = self._find_nearest()
        shape = (self.num_classes, self.num_prototypes)
        kept = self.prototypes[classes] if len(self.prototypes) else None
        width = self.prototypes.shape[2]
        return {
            **self._draw_embeddings(classes, width),
            "prototype_class": np.array(classes, np.int32),
            "prototype": _to_half(
                np.zeros((len(classes), 0, width)) if kept is None else kept
            ),
            "nearest": nearest[classes],
            "nearest_similarity": similarity[classes],
            "prototype_pixels": np.resize(self._pixels, shape) if self._pixels.size
            else np.zeros(shape, np.int64),
        }  # fmt: skip

    def _draw_embeddings(self, classes: list[int], width: int) -> dict[str, Array]:
        """Draw pixels of each class from the candidates of all images."""
        limit = EMBEDDING_BYTES // (2 * max(width, 1) * max(len(classes), 1))
        rows: list[Array] = [np.zeros((0, width), np.float32)]
        parts: list[tuple[Array, ...]] = [tuple(np.zeros(0, np.int64) for _ in range(3))]
        for label in classes:
            candidates = self._candidates[label]
            embeddings = np.concatenate([each for _, each, _ in candidates])
            columns = np.concatenate([each for _, _, each in candidates])
            images = np.concatenate([np.full(len(each), n) for n, each, _ in candidates])
            random = np.random.RandomState([self.seed, label])
            drawn = np.sort(random.permutation(len(embeddings))[: min(limit, PER_CLASS)])
            rows.append(embeddings[drawn])
            parts.append((np.full(len(drawn), label), columns[drawn], images[drawn]))
        names = ("embedding_class", "embedding_prototype", "embedding_image")
        joined = (np.concatenate(each).astype(np.int32) for each in zip(*parts, strict=True))
        return {
            "embedding": _to_half(np.concatenate(rows)),
            **dict(zip(names, joined, strict=True)),
        }

    def _find_nearest(self) -> tuple[Array, Array]:
        """The most similar pixels of each prototype, at most one per image."""
        shape = (self.num_classes, self.num_prototypes, NEAREST)
        positions = np.full((*shape, 3), -1, np.int32)
        similarities = np.zeros(shape, np.float32)
        if not self._nearest:
            return positions, similarities
        columns, values, *places = (np.concatenate(e) for e in zip(*self._nearest, strict=True))
        for index in np.unique(columns).tolist():
            of_prototype = np.flatnonzero(columns == index)
            best = of_prototype[np.argsort(-values[of_prototype], kind="stable")[:NEAREST]]
            c, k = divmod(index, self.num_prototypes)
            similarities[c, k, : len(best)] = values[best]
            positions[c, k, : len(best)] = np.stack([each[best] for each in places], axis=1)
        return positions, similarities


def _to_half(values: Array) -> Array:
    """Round to float16; values outside its range become the largest one."""
    half: Array = np.clip(values, -HALF, HALF).astype(np.float16)
    return half
