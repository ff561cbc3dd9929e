"""Loads the model of a finished run, and evaluates it on another split of its data set."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from protoseg.config.identity import read_spec
from protoseg.config.schema import RunSpec
from protoseg.datasets.check import require_labelled_pixels
from protoseg.datasets.digest import UNPINNED, verify_digest
from protoseg.datasets.layout import find_root, find_splits
from protoseg.errors import ProtosegError, UsageError, describe_unknown_name
from protoseg.runs.evaluation import name_evaluation
from protoseg.runs.folder import RunFolder, now
from protoseg.runs.record import read_record
from protoseg.training import checkpoint
from protoseg.training.builders.components import TrainingComponents, build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation import confusion
from protoseg.training.evaluation.evaluate import evaluate
from protoseg.training.machine.determinism import hash_state
from protoseg.training.provenance.environment import collect_provenance, read_kernel_settings
from protoseg.training.signals import StopRequest


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
    saved, problems = checkpoint.find_newest(folder.checkpoints)
    if saved is None:
        detail = f" ({problems[0]})" if problems else ""
        raise ProtosegError(
            f"{folder.checkpoints}: no valid checkpoint of {folder.run_id}{detail}. Train the run "
            "again, for example with protoseg reproduce."
        )
    state = torch.load(saved.path, map_location="cpu", weights_only=True)
    parts.module.load_state_dict(state["model"])
    if hash_state(parts.module.state_dict()) != record["provenance"]["state_sha256"]:
        raise ProtosegError(
            f"{saved.path}: differs from the model that {folder.run_id} was recorded with. Train "
            "the run again."
        )
    return parts


def evaluate_finished_run(
    folder: RunFolder,
    split: str,
    data: Path,
    choice: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], bytes]:
    """Evaluate a finished run on a split of its data set, with the settings of its evaluation.

    Args:
        folder: of the run.
        split: name of the split.
        data: the data folder.
        choice: digest of the choice of its settings.
        progress: called with (evaluated images, all images).

    Returns:
        The content of the evaluation (`protoseg.runs.evaluation`), and the packed counts.

    Raises:
        UsageError: an unknown split, or a run of the task ``weak``.
        ProtosegError: the run has not finished, or its checkpoint is missing or differs.
        DataError: the data differ from their digest, or have no labels.
    """
    spec, record = read_finished_run(folder)
    if spec.method.task == "weak":
        raise UsageError(
            f"{folder.run_id}: pseudo-masks are evaluated at the threshold that is best on the "
            "same images, so another split has no evaluation. Name a run of another task."
        )
    root = find_root(spec.dataset, data)
    digest = verify_digest(root, spec.dataset)
    trained_on = record["provenance"].get("data_digest")
    if trained_on not in (digest, UNPINNED):
        raise ProtosegError(
            f"{root}: has other data (digest {digest[:10]}) than {folder.run_id} was trained on "
            f"({str(trained_on)[:10]}). Name the folder of those with --data."
        )
    splits = find_splits(root, spec.dataset)
    if split not in splits:
        raise UsageError(describe_unknown_name("split", split, spec.dataset.name, splits))
    require_labelled_pixels(root, spec.dataset, split)
    spec = dataclasses.replace(spec, evaluation=spec.evaluation.select_split(split))
    parts = load_model(folder, record, spec, root)
    if progress is not None:
        _report_progress(parts, progress)
    start = time.perf_counter()
    overall, per_class, counts, images = evaluate(parts, spec, StopRequest())
    content = {
        "run_id": record["run_id"],
        "record": record["digest"],
        "state_sha256": record["provenance"]["state_sha256"],
        "split": split,
        "choice": choice,
        "metrics": {**overall, "images": images},
        "per_class": per_class,
        "confusion": {
            "file": f"{name_evaluation(record['run_id'], split, choice)}.npz",
            "sha256": confusion.hash_bytes(counts),
        },
        "seconds": round(time.perf_counter() - start, 2),
        "provenance": {
            **collect_provenance(),
            "kernels": read_kernel_settings(),
            "data_digest": digest,
        },
        "finished": now(),
    }
    return content, counts


def _report_progress(parts: TrainingComponents, progress: Callable[[int, int], None]) -> None:
    """Report each batch of the test loader; it has one image."""
    total, done = len(parts.test_loader), 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        progress(done, total)

    parts.module.register_forward_hook(count)
