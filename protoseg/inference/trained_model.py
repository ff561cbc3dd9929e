"""A trained model that predicts images as the evaluation of its run does.

A run with ``determinism=bitwise`` is loaded and predicts with torch's settings of that level; after
each call the settings are as before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protoseg.core.distances import compute_class_scores
from protoseg.errors import UsageError
from protoseg.inference.class_colors import choose_colors
from protoseg.inference.images import (
    ImageInput,
    explain_errors,
    load_image,
    make_input,
    resize_image,
)
from protoseg.inference.prediction import Prediction
from protoseg.inference.saved_run import SavedRun, find_saved_run
from protoseg.inference.score_network import ScoreNetwork, run_quietly
from protoseg.inference.settings import PredictionSettings, read_evaluation_settings
from protoseg.models.prototype_head import PrototypeHead
from protoseg.models.query_decoder_head import QueryDecoderHead
from protoseg.models.wrapped_head import WrappedHead
from protoseg.training.evaluation.saved_model import build_network, load_state
from protoseg.training.machine import determinism


class TrainedModel:
    """The network of a run with the weights of a checkpoint.

    Attributes:
        run_id: the run.
        spec: its settings.
        checkpoint: path of the checkpoint.
        iteration: iterations after which it was saved.
        state_sha256: digest of the weights, as in records.
        module: the mmseg segmentor, in evaluation mode.
        network: computes class scores with it.
        settings: how the run's evaluation predicts images.
        colors: (C, 3) uint8, the colour of each class, red first.
    """

    def __init__(self, saved: SavedRun, device: torch.device) -> None:
        if saved.spec.method.task == "weak":
            raise UsageError(
                f"{saved.run_id}: its method {saved.spec.method.kind} predicts pseudo-masks from "
                "image-level labels, so it cannot predict other images. Use protoseg masks, or "
                "name a run of another task."
            )
        self.run_id, self.spec = saved.run_id, saved.spec
        self.checkpoint, self.iteration = saved.path, saved.iteration
        self.device = device
        with determinism.use_level(saved.spec.determinism):
            self.module: Any = build_network(saved.spec, device)
        self.network = ScoreNetwork(self.module, saved.spec, device)
        self.state_sha256 = load_state(self.module, saved.path, saved.run_id, saved.state_sha256)
        self.settings = read_evaluation_settings(saved.spec.evaluation)
        self.colors = choose_colors(saved.spec.dataset)

    def __repr__(self) -> str:
        """The run and the size of its task."""
        return f"TrainedModel({self.run_id}, {len(self.classes)} classes, {self.device})"

    @contextlib.contextmanager
    def _prepare(self) -> Iterator[None]:
        """Compute without gradients, and at the run's level of determinism."""
        with determinism.use_level(self.spec.determinism), run_quietly():
            yield

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C classes; their order is that of label indices."""
        return self.spec.dataset.classes

    @property
    def num_prototypes(self) -> int:
        """K, prototypes, queries or weights per class."""
        return int(getattr(self.spec.method, "num_prototypes", 1))

    def predict(self, image: ImageInput, settings: PredictionSettings | None = None) -> Prediction:
        """Predict one image.

        Args:
            image: a path; a PIL image; or an array (H, W, 3) uint8, red first.
            settings: by default those of the run's evaluation (`settings`).

        Returns:
            The prediction at the size of the image.

        Raises:
            DataError: the image cannot be read, or needs more memory than there is.
            UsageError: another type or shape.
        """
        pixels = load_image(image)
        return self.predict_batch([pixels], settings)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], settings: PredictionSettings | None = None
    ) -> list[Prediction]:
        """Predict images of one size together.

        Args:
            images: results of `protoseg.inference.images.load_image`, (H, W, 3) uint8 each.
            settings: as for `predict`.

        Raises:
            DataError: as `predict`.
        """
        settings = settings or self.settings
        with explain_errors(images), self._prepare():
            return self._predict_batch(images, settings)

    def _predict_batch(
        self, images: Sequence[np.ndarray], settings: PredictionSettings
    ) -> list[Prediction]:
        if len(images) > 1 and self.network.is_large(images, settings):
            return [self._predict_batch([image], settings)[0] for image in images]
        if self.network.is_large(images, settings):
            return [self._predict_in_bands(images[0], settings)]
        probabilities: list[Tensor] | None = None
        for scale, is_flipped in settings.views:
            samples = self.network.run_view(images, settings, scale, is_flipped)
            if settings.is_plain:
                return [
                    Prediction(
                        self,
                        image,
                        settings,
                        self._narrow(sample.pred_sem_seg.data[0].cpu().numpy()),
                        sample.seg_logits.data,
                    )
                    for image, sample in zip(images, samples, strict=True)
                ]
            each = [sample.seg_logits.data.softmax(0) for sample in samples]
            if probabilities is None:
                probabilities = each
            else:
                probabilities = [a.add_(b) for a, b in zip(probabilities, each, strict=True)]
        assert probabilities is not None
        means = [total.div_(len(settings.views)) for total in probabilities]
        return [
            Prediction(self, image, settings, self._narrow(mean.argmax(0).cpu().numpy()), mean)
            for image, mean in zip(images, means, strict=True)
        ]

    def _predict_in_bands(self, image: np.ndarray, settings: PredictionSettings) -> Prediction:
        labels = np.empty(image.shape[:2], self._label_type)
        first = 0
        for band in self.network.iterate_bands(image, settings):
            labels[first : first + band.shape[1]] = band.argmax(0).cpu().numpy()
            first += band.shape[1]
        return Prediction(self, image, settings, labels, None)

    @property
    def _label_type(self) -> type[np.unsignedinteger[Any]]:
        return np.uint8 if len(self.classes) <= 256 else np.uint16

    def _narrow(self, labels: np.ndarray) -> np.ndarray:
        return labels.astype(self._label_type)

    def iterate_probabilities(
        self, image: np.ndarray, settings: PredictionSettings
    ) -> Iterator[np.ndarray]:
        """Predict a large image again, and yield bands of probabilities, (C, rows, W) float32.

        Args:
            image: (H, W, 3) uint8, blue first.
            settings: how to predict it.
        """
        bands = self.network.iterate_bands(image, settings)
        while True:
            # Not while the caller has the band.
            with explain_errors([image]), self._prepare():
                band = next(bands, None)
                if band is None:
                    return
                values = band.softmax(0) if settings.is_plain else band
            yield values.float().cpu().numpy()

    def compute_embedding(self, image: np.ndarray) -> Tensor:
        """Compute the features that are classified, (D, h, w); unit vectors for the cosine.

        The network sees the whole image at the size of the evaluation, also in mode ``slide``.

        Args:
            image: (H, W, 3) uint8, blue first.

        Raises:
            UsageError: the head does not classify pixel features.
        """
        head = self._require_head(
            WrappedHead, "has no pixel features. Use a method with a linear or prototype classifier"
        )
        with self._prepare():
            small = resize_image(image, self.spec.evaluation.scale)
            maps = self.module.extract_feat(self.network.normalise(make_input(small)))
            if isinstance(head, PrototypeHead):
                return head.compute_embeddings(maps)[0].permute(2, 0, 1)
            features: Tensor = head.features(maps)[0]
            return features

    def assign_prototypes(self, embedding: Tensor) -> Tensor:
        """Assign each pixel to the nearest prototype of its predicted class, (h, w) int64.

        Args:
            embedding: (D, h, w).

        Returns:
            Columns ``c·K + k``: prototype k of class c.

        Raises:
            UsageError: the head has no prototypes.
        """
        head = self._require_head(
            PrototypeHead, "has no prototypes. Use a run of a prototype method"
        )
        channels, height, width = embedding.shape
        number = head.bank.num_prototypes
        with self._prepare():
            pixels = embedding.permute(1, 2, 0).reshape(-1, channels)
            similarities = head.bank.compute_similarities(pixels)
            scores = head.scale_scores(compute_class_scores(similarities, number))
            classes = scores.argmax(1)
            own = similarities.unflatten(1, (-1, number))
            nearest = own[torch.arange(len(own), device=own.device), classes].argmax(1)
            return (classes * number + nearest).view(height, width)

    def _require_head(self, head_class: type, problem: str) -> Any:
        head = self.module.decode_head
        if not isinstance(head, head_class) or isinstance(head, QueryDecoderHead):
            raise UsageError(f"{self.run_id}: its method {self.spec.method.kind} {problem}.")
        return head


def load_run(
    name: str | Path, device: str | None = None, runs: str | Path | None = None
) -> TrainedModel:
    """Load the model of a run; the run's data set is not needed.

    Args:
        name: a run id or a unique part of it; a run folder; or a checkpoint in a run folder
            (``iter_*.pth``, ``best_*.pth``).
        device: of torch, such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
        runs: the folder of runs; by default PROTOSEG_RUNS, or ``runs`` in the checkout.

    Raises:
        UsageError: an unknown run or device.
        ProtosegError: no valid checkpoint, or one that differs from the record.
    """
    return TrainedModel(find_saved_run(name, runs), choose_device(device))


def choose_device(name: str | None) -> torch.device:
    """The device of a name; by default a GPU if there is one.

    Raises:
        UsageError: an unknown device, or one that this machine does not have.
    """
    number = torch.cuda.device_count()
    try:
        device = torch.device(name or ("cuda" if number else "cpu"))
    except RuntimeError:
        device = None
    if (
        device is None
        or device.type not in ("cpu", "cuda")
        or (device.index or 0) >= max(number, 1)
    ):
        known = ["cpu", *(f"cuda:{index}" for index in range(number))]
        raise UsageError(f"device: unknown '{name}'. Use one of {', '.join(known)}.")
    if device.type == "cuda" and not number:
        raise UsageError(f"device: '{name}' needs a GPU, and torch finds none. Use cpu.")
    return device
