"""Loads the model of a finished run, and prepares its evaluation on another split or data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from protoseg.config.identity import read_spec
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.datasets.check import require_labelled_pixels
from protoseg.datasets.digest import UNPINNED, verify_digest
from protoseg.datasets.layout import find_root, find_splits
from protoseg.errors import ProtosegError, UsageError, describe_unknown_name, join_names
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation.saved_model import build_network, find_last_model, load_state

SHOWN = 8
"""Classes that a message names."""


def read_finished_run(folder: RunFolder) -> tuple[RunSpec, dict[str, Any]]:
    """Read the spec and the record of a finished run.

    Raises:
        ProtosegError: it has no record, or a damaged one.
    """
    if not folder.record.is_file():
        raise ProtosegError(
            f"{folder.run_id}: no record in {folder.path}. This needs a finished run; train it "
            "first."
        )
    record = read_record(folder.record)
    return read_spec(record["spec"], folder.run_id), record


def load_model(folder: RunFolder, record: dict[str, Any], spec: RunSpec, root: Path) -> Any:
    """Build the parts of a run and load the weights from which its metrics were computed.

    Args:
        folder: of the run.
        record: of the run.
        spec: its spec; with another evaluation, the parts load other images.
        root: folder of the data set.

    Returns:
        The `TrainingComponents`.

    Raises:
        ProtosegError: the last checkpoint is missing, or differs from the record.
    """
    parts = build_components(build_config(spec, data_root=root), None)
    _load_weights(parts.module, folder, record)
    return parts


def load_network(folder: RunFolder, record: dict[str, Any], spec: RunSpec) -> Any:
    """Build the segmentor of a finished run with its weights; no data set is needed.

    Args:
        folder: of the run.
        record: of the run.
        spec: its spec.

    Returns:
        The segmentor, on the GPU if available, in evaluation mode.

    Raises:
        ProtosegError: as `load_model`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_network(spec, device)
    _load_weights(network, folder, record)
    return network


def _load_weights(network: Any, folder: RunFolder, record: dict[str, Any]) -> None:
    saved = find_last_model(folder)
    load_state(network, saved.path, folder.run_id, record["provenance"]["state_sha256"])


def select_data(
    run_id: str,
    spec: RunSpec,
    record: dict[str, Any] | None,
    split: str,
    data: Path,
    dataset: DatasetSpec | None = None,
) -> tuple[RunSpec, Path, str]:
    """Select and check the images of an evaluation of a run.

    Args:
        run_id: of the run.
        spec: of the run.
        record: of the run; None if it has not finished.
        split: name of the split.
        data: the data folder.
        dataset: another data set with the same classes; None for that of the run.

    Returns:
        The spec with this split and data set, the folder of the data set, and its digest.

    Raises:
        UsageError: an unknown split, other classes, or a run of the task ``weak``.
        ProtosegError: the data differ from those that the run was trained on.
        DataError: the data differ from their digest, or have no labels.
    """
    if spec.method.task == "weak":
        raise UsageError(
            f"{run_id}: pseudo-masks are evaluated at the threshold that is best on the same "
            "images, so another split has no evaluation. Name a run of another task."
        )
    if dataset is not None:
        require_same_classes(run_id, spec.dataset, dataset)
        spec = dataclasses.replace(spec, dataset=keep_class_weights(dataset, spec))
    root = find_root(spec.dataset, data)
    digest = verify_digest(root, spec.dataset)
    trained_on = None if record is None else record["provenance"].get("data_digest")
    if dataset is None and record is not None and trained_on not in (digest, UNPINNED):
        raise ProtosegError(
            f"{root}: has other data (digest {digest[:10]}) than {run_id} was trained on "
            f"({str(trained_on)[:10]}). Name the folder of those with --data."
        )
    splits = find_splits(root, spec.dataset)
    if split not in splits:
        raise UsageError(describe_unknown_name("split", split, spec.dataset.name, splits))
    require_labelled_pixels(root, spec.dataset, split)
    evaluation = spec.evaluation.select_split(split)
    return dataclasses.replace(spec, evaluation=evaluation), root, digest


def keep_class_weights(dataset: DatasetSpec, spec: RunSpec) -> DatasetSpec:
    """Another data set with the class weights of a run's loss: the network is built with them."""
    return dataclasses.replace(dataset, class_weights=spec.dataset.class_weights)


def require_same_classes(run_id: str, trained: DatasetSpec, other: DatasetSpec) -> None:
    """Check that two data sets have the same classes in the same order.

    Raises:
        UsageError: names the classes that differ.
    """
    if trained.classes == other.classes:
        return
    missing = [name for name in trained.classes if name not in other.classes]
    further = [name for name in other.classes if name not in trained.classes]
    parts = [f"lacks {_join_first(missing)}"] if missing else []
    parts += [f"adds {_join_first(further)}"] if further else []
    raise UsageError(
        f"dataset {other.name}: {' and '.join(parts) or 'has another order of the classes'}. "
        f"{run_id} was trained on the {len(trained.classes)} classes of {trained.name}. Name a "
        "data set with the same classes in the same order."
    )


def _join_first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return join_names(names[:SHOWN]) + more
