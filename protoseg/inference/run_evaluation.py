"""Evaluates the model of a run on a split, also of another checkpoint or with augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from torch import nn

from protoseg.config.fields import to_plain
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.errors import DataError
from protoseg.inference.saved_run import SavedRun
from protoseg.inference.settings import (
    PredictionSettings,
    change_settings,
    read_evaluation_settings,
)
from protoseg.inference.trained_model import TrainedModel, choose_device
from protoseg.runs.results.evaluation import name_evaluation, name_variant
from protoseg.runs.sealed import RecordError
from protoseg.training.builders.components import EvaluationComponents, build_loader
from protoseg.training.builders.dataloaders import build_test_loader, make_test_loader
from protoseg.training.evaluation.finished_run import select_data
from protoseg.training.evaluation.measurement import measure_network
from protoseg.training.evaluation.saved_model import read_state
from protoseg.training.machine.determinism import hash_state, use_level


class AugmentedNetwork(nn.Module):
    """Predicts the images of a loader as `TrainedModel.predict_batch` does, with several passes.

    Args:
        model: the model.
        settings: of the prediction.
    """

    def __init__(self, model: TrainedModel, settings: PredictionSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def test_step(self, batch: dict[str, Any]) -> list[Any]:
        """Predict a batch, as a segmentor of mmseg does.

        Args:
            batch: ``inputs``, (3, H, W) uint8 each, at the size of the image; ``data_samples``.

        Returns:
            The data samples with ``pred_sem_seg``, (1, H, W).

        Raises:
            DataError: an image needs more memory than there is.
        """
        samples: list[Any] = self(batch)
        return samples

    def forward(self, batch: dict[str, Any]) -> list[Any]:
        """See `test_step`."""
        samples: list[Any] = batch["data_samples"]
        for pixels, sample in zip(batch["inputs"], samples, strict=True):
            image = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
            try:
                (prediction,) = self.model.predict_batch([image], self.settings)
            except DataError as error:
                raise DataError(f"{sample.img_path}: {error}") from error
            labels = torch.from_numpy(prediction.labels.astype(np.int64))
            sample.pred_sem_seg = PixelData(data=labels[None])
        return samples


def evaluate_saved_run(
    saved: SavedRun,
    split: str,
    data: Path,
    *,
    choice: str = "",
    dataset: DatasetSpec | None = None,
    scales: tuple[float, ...] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], bytes]:
    """Evaluate the checkpoint of a run on a split, with the settings of the run's evaluation.

    Args:
        saved: the run and its checkpoint.
        split: name of the split.
        data: the data folder.
        choice: digest of the choice of the run's settings.
        dataset: another data set with the same classes; None for that of the run.
        scales: of test-time augmentation, which also flips; empty for one pass.
        progress: called with (evaluated images, all images).

    Returns:
        The content of the evaluation (`protoseg.runs.results.evaluation`), and the packed counts.

    Raises:
        UsageError: an unknown split, other classes, or a run of the task ``weak``.
        ProtosegError: the checkpoint is damaged, or differs from the record.
        DataError: the data differ from their digest, or have no labels.
    """
    record = saved.record
    spec, root, digest = select_data(saved.run_id, saved.spec, record, split, data, dataset)
    variant = describe_variant(saved.spec, saved, scales)
    name = name_evaluation(
        saved.run_id, split, choice, dataset.name if dataset else "", name_described(variant)
    )
    model = TrainedModel(saved, choose_device(None))
    if scales:
        network: Any = AugmentedNetwork(model, augment(model.settings, scales))
        loader = make_test_loader(spec.dataset, split, root, [])  # each pass has its own resize
    else:
        network, loader = model.module, build_test_loader(spec, root, 0)
    parts = EvaluationComponents(network, build_loader(loader))
    with use_level(spec.determinism):
        measured, counts = measure_network(parts, spec.dataset.classes, name, digest, progress)
    content = {
        "run_id": saved.run_id,
        "record": record["digest"] if record is not None else "",
        "state_sha256": model.state_sha256,
        "split": split,
        "choice": choice,
        **({"dataset": to_plain(spec.dataset)} if dataset is not None else {}),
        **variant,
        **measured,
    }
    return content, counts


def augment(settings: PredictionSettings, scales: tuple[float, ...]) -> PredictionSettings:
    """Change settings to mean probabilities over scales and the mirrored image."""
    return change_settings(settings, scales=scales, flip=True)


def describe_variant(
    spec: RunSpec, checkpoint: SavedRun | None, scales: tuple[float, ...]
) -> dict[str, Any]:
    """Describe what differs from the evaluation of a run's own model.

    Args:
        spec: of the run.
        checkpoint: of the run; None for that of its record.
        scales: of test-time augmentation; empty for one pass.

    Returns:
        ``checkpoint`` and ``prediction``, keys of an evaluation; each only if it differs.
    """
    variant: dict[str, Any] = {}
    if checkpoint is not None and checkpoint.state_sha256 is None:
        file, iteration = checkpoint.path.stem, checkpoint.iteration
        variant["checkpoint"] = {"file": file, "iteration": iteration}
    if scales:
        settings = augment(read_evaluation_settings(spec.evaluation), scales)
        variant["prediction"] = settings.to_dict()
    return variant


def name_described(variant: dict[str, Any]) -> str:
    """The part of a name (`name_variant`) for a result of `describe_variant`."""
    return name_variant(variant.get("checkpoint", {}).get("file", ""), variant.get("prediction"))


def require_same_weights(evaluation: dict[str, Any], saved: SavedRun, path: Path) -> None:
    """Check that an evaluation is of the weights that a checkpoint has now.

    Args:
        evaluation: content of the evaluation.
        saved: the run and its checkpoint.
        path: of the evaluation, for the message.

    Raises:
        RecordError: it is of other weights.
        ProtosegError: the checkpoint is damaged.
    """
    actual = hash_state(read_state(saved.path))
    if evaluation["state_sha256"] != actual:
        raise RecordError(
            f"{path}: is of other weights ({evaluation['state_sha256'][:10]}) than "
            f"{saved.path.name} has now ({actual[:10]}). Move it away and evaluate again."
        )
