"""Pseudo-masks of a finished run as a data set folder that a segmentor is trained on."""

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
from protoseg.config.fields import plain
from protoseg.config.identity import spec_from_dict
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.core.weak_supervision import make_pseudo_labels
from protoseg.datasets.digest import folder_digest, verify
from protoseg.datasets.layout import find_root, pairs
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.training import checkpoint
from protoseg.training.build.components import build_components
from protoseg.training.build.config import build_config
from protoseg.training.determinism import state_digest

OPTION = "dataset.yaml"
"""The data set as a config file, to be copied to ``experiments/dataset``."""
ORIGIN = "masks.json"
"""Where masks come from: run, state of the network, threshold."""


def write_masks(
    folder: RunFolder,
    data: Path,
    target: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the pseudo-masks of a run's evaluation split, at the threshold of its record.

    Images, and the label maps of all other splits, are linked. It appears whole or not at all.

    Args:
        folder: of a finished run of the task ``weak``.
        data: the data folder it was trained from.
        target: folder to make.
        progress: called with (images done, images in all).

    Returns:
        ``name``, ``digest``, ``images``, ``threshold`` and ``miou`` of the masks.

    Raises:
        UsageError: another task, or a target that is there already.
        ProtosegError: the run has not finished, or its last checkpoint is gone or another's.
    """
    spec, record = _finished(folder)
    if target.exists():
        raise UsageError(f"{target}: is there already; name another folder, or move it away.")
    root = find_root(spec.dataset, data)
    verify(root, spec.dataset)
    parts = build_components(build_config(spec, data_root=root), None)
    _load(folder, record, parts.module)
    members = pairs(root, spec.dataset, spec.evaluation.split)
    threshold = float(record["metrics"]["threshold"])
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        masks = _predict(parts, threshold, len(members), progress)
        for pair, mask in zip(members, masks, strict=True):
            _link(pair.image, root, temporary)
            _save(mask, spec.dataset, temporary / pair.annotation.relative_to(root))
        for split in spec.dataset.counts or (spec.dataset.train_split,):
            if split != spec.evaluation.split:
                for path in (path for pair in pairs(root, spec.dataset, split) for path in pair):
                    _link(path, root, temporary)
        made = _describe(spec, record, temporary, target.name)
        files.make_folder(target.parent)
        temporary.rename(target)
    except OSError as error:
        raise ProtosegError(f"{target}: can not be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return made


def _finished(folder: RunFolder) -> tuple[RunSpec, dict[str, Any]]:
    if not folder.record.is_file():
        raise ProtosegError(
            f"{folder.run_id}: has no record in {folder.path}; masks are those of a finished run."
        )
    record = read_record(folder.record)
    spec = spec_from_dict(record["spec"], folder.run_id)
    if spec.method.task != "weak":
        raise UsageError(
            f"{folder.run_id}: its method is {spec.method.kind}, which makes no pseudo-masks; "
            "name a run of method=cam or method=weak_contrast."
        )
    if spec.dataset.annotation_suffix != ".png":
        raise UsageError(
            f"dataset.annotation_suffix: masks are PNG files, {spec.dataset.name} has "
            f"'{spec.dataset.annotation_suffix}'; use a copy of it with .png."
        )
    return spec, record


def _load(folder: RunFolder, record: dict[str, Any], model: Any) -> None:
    """The weights that the record was measured with."""
    found, problems = checkpoint.newest(folder.checkpoints)
    if found is None:
        detail = f" ({problems[0]})" if problems else ""
        raise ProtosegError(
            f"{folder.checkpoints}: no checkpoint of {folder.run_id} is left{detail}; train it "
            "again, e.g. with protoseg reproduce."
        )
    state = torch.load(found.path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    if state_digest(model.state_dict()) != record["provenance"]["state_sha256"]:
        raise ProtosegError(
            f"{found.path}: is not the state that {folder.run_id} was recorded with; train it "
            "again."
        )


def _predict(
    parts: Any, threshold: float, number: int, progress: Callable[[int, int], None] | None
) -> Any:
    """The mask of each image, in order, (height, width) classes."""
    parts.model.eval()
    with torch.no_grad():
        for done, batch in enumerate(parts.test_loader, start=1):
            (sample,) = parts.model.test_step(batch)
            yield make_pseudo_labels(sample.seg_logits.data[None, 1:], threshold)[0].cpu().numpy()
            if progress is not None:
                progress(done, number)


def _save(mask: np.ndarray[Any, Any], dataset: DatasetSpec, path: Path) -> None:
    values = np.asarray(dataset.label_values)
    kind = np.uint8 if values.max() < 256 else np.uint16
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values[mask].astype(kind)).save(path)


def _link(path: Path, root: Path, target: Path) -> None:
    place = target / path.relative_to(root)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(path.resolve())


def _describe(spec: RunSpec, record: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """Write what the folder is; its digest is that of the files that a spec pins."""
    dataset = dataclasses.replace(
        spec.dataset, name=name, folder=name, generator={}, image_labels="", image_label_share=0.0
    )
    digest = folder_digest(folder, dataset)
    made = {
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
    files.write_json(folder / ORIGIN, made)
    values = plain(dataclasses.replace(dataset, digest=digest))
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    comment = [
        f"# {spec.dataset.name}, with pseudo-masks as the label maps of {spec.evaluation.split}:",
        f"# of {record['run_id']}, background threshold {made['threshold']}.",
        "defaults: [schema, _self_]",
    ]
    files.write_bytes(folder / OPTION, "\n".join([*comment, *lines, ""]).encode())
    return made
