"""Export the pseudo-masks of a finished run as a data set, to train a segmentor on."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from protoseg import files
from protoseg.config.fields import to_plain
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.core.weak_supervision import make_pseudo_labels
from protoseg.datasets.digest import folder_digest, verify_digest
from protoseg.datasets.layout import find_pairs, find_root
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.folder import RunFolder
from protoseg.training.evaluation.finished_run import load_model, read_finished_run
from protoseg.training.machine.determinism import use_level

OPTION = "dataset.yaml"
"""The config file of the data set; copy it to ``experiments/dataset``."""
ORIGIN = "masks.json"
"""The origin of the masks: run, digest of the network's state, threshold."""


def write_masks(
    folder: RunFolder,
    data: Path,
    target: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the pseudo-masks of a run's evaluation split, at the threshold of its record.

    Images, and the label maps of all other splits, become symbolic links. The folder is created
    completely or not at all.

    Args:
        folder: run folder of a finished run of the task ``weak``.
        data: the data folder that the run was trained on.
        target: the folder to create.
        progress: called with (finished images, total number of images).

    Returns:
        ``name``, ``digest``, ``images``, ``threshold`` and ``miou`` of the masks, and their origin.

    Raises:
        UsageError: a run of another task, or an existing target.
        ProtosegError: the run has not finished, or its last checkpoint is missing or differs from
            the record.
    """
    spec, record = _read_weak_run(folder)
    if target.exists():
        raise UsageError(f"{target}: exists already. Name another folder, or move this one.")
    root = find_root(spec.dataset, data)
    verify_digest(root, spec.dataset)
    parts = load_model(folder, record, spec, root)
    members = find_pairs(root, spec.dataset, spec.evaluation.split)
    threshold = float(record["metrics"]["threshold"])
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with use_level(spec.determinism):
            masks = _predict_masks(parts, threshold, len(members), progress)
            for pair, mask in zip(members, masks, strict=True):
                _link(pair.image, root, temporary)
                _save_mask(mask, spec.dataset, temporary / pair.annotation.relative_to(root))
        for split in spec.dataset.counts or (spec.dataset.train_split,):
            if split != spec.evaluation.split:
                for path in (
                    path for pair in find_pairs(root, spec.dataset, split) for path in pair
                ):
                    _link(path, root, temporary)
        description = _write_description(spec, record, temporary, target.name)
        files.make_folder(target.parent)
        temporary.rename(target)
    except OSError as error:
        raise ProtosegError(f"{target}: cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return description


def _read_weak_run(folder: RunFolder) -> tuple[RunSpec, dict[str, Any]]:
    spec, record = read_finished_run(folder)
    if spec.method.task != "weak":
        raise UsageError(
            f"{folder.run_id}: its method {spec.method.kind} has no pseudo-masks. Name a run of "
            "method=cam or method=weak_contrast."
        )
    if spec.evaluation.holdout.is_set:
        raise UsageError(
            f"{folder.run_id}: was evaluated on a holdout, so its masks would be of a part of "
            f"'{spec.dataset.train_split}' only. Name a run that is evaluated on a whole split."
        )
    if spec.dataset.palette or spec.dataset.split_files:
        raise UsageError(
            f"dataset {spec.dataset.name}: masks have label values and one folder per split, so a "
            "data set with palette or split_files has no masks. Convert it to that layout first."
        )
    if spec.dataset.annotation_suffix != ".png":
        raise UsageError(
            f"dataset.annotation_suffix: masks are PNG files, but {spec.dataset.name} has "
            f"'{spec.dataset.annotation_suffix}'. Use a copy of the data set with .png."
        )
    return spec, record


def _predict_masks(
    parts: Any, threshold: float, number: int, progress: Callable[[int, int], None] | None
) -> Any:
    """Yield the mask of each image in order: class numbers, (height, width) int64."""
    parts.model.eval()
    with torch.no_grad():
        for done, batch in enumerate(parts.test_loader, start=1):
            (sample,) = parts.model.test_step(batch)
            yield make_pseudo_labels(sample.seg_logits.data[None, 1:], threshold)[0].cpu().numpy()
            if progress is not None:
                progress(done, number)


def _save_mask(mask: np.ndarray[Any, Any], dataset: DatasetSpec, path: Path) -> None:
    values = np.asarray(dataset.label_values)
    dtype = np.uint8 if values.max() < 256 else np.uint16
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values[mask].astype(dtype)).save(path)


def _link(path: Path, root: Path, target: Path) -> None:
    """Link a file of the data set at the same relative path below ``target``."""
    link = target / path.relative_to(root)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path.resolve())


def _write_description(
    spec: RunSpec, record: dict[str, Any], folder: Path, name: str
) -> dict[str, Any]:
    """Write the config file and the origin of a folder of masks, and return the origin."""
    dataset = dataclasses.replace(
        spec.dataset, name=name, folder=name, generator={}, image_labels="", image_label_share=0.0
    )
    digest = folder_digest(folder, dataset)
    origin = {
        "name": name,
        "digest": digest,
        "run_id": record["run_id"],
        "record": record["digest"],
        "state_sha256": record["provenance"]["state_sha256"],
        "split": spec.evaluation.split,
        "images": record["metrics"]["images"],
        "threshold": record["metrics"]["threshold"],
        "miou": record["metrics"]["miou"],
    }
    files.write_json(folder / ORIGIN, origin)
    values = to_plain(dataclasses.replace(dataset, digest=digest))
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    comment = [
        f"# {spec.dataset.name}, with pseudo-masks as the label maps of {spec.evaluation.split}:",
        f"# run {record['run_id']}, background threshold {origin['threshold']}.",
        "defaults: [schema, _self_]",
    ]
    files.write_bytes(folder / OPTION, "\n".join([*comment, *lines, ""]).encode())
    return origin
