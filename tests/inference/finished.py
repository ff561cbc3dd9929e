"""Finished run folders without a training: random weights, checkpoint and record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from report.lab import make_record
from torch import Tensor
from training.small import make_folder, small_spec

from protoseg.config.schema import RunSpec
from protoseg.datasets.digest import verify_digest
from protoseg.datasets.layout import find_root
from protoseg.runs.folder import RunFolder
from protoseg.training import checkpoint
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation.confusion import hash_bytes
from protoseg.training.evaluation.evaluate import evaluate
from protoseg.training.evaluation.finished_run import load_model, read_finished_run
from protoseg.training.machine.determinism import hash_state
from protoseg.training.signals import StopRequest


def make_finished_run(parent: Path, data: Path, *overrides: str) -> RunFolder:
    """Make the folder of a small run whose weights are initial ones with added noise."""
    spec: RunSpec = small_spec(*overrides)
    folder = make_folder(parent, spec, data)
    root = find_root(spec.dataset, data)
    parts = build_components(build_config(spec, data_root=root), None)
    generator = torch.Generator().manual_seed(3)
    for name, value in parts.module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            # Variances and counters of classes stay positive.
            value.mul_(1 + 0.5 * noise.abs()) if "var" in name else value.add_(0.3 * noise)
    checkpoint.save(parts, folder.checkpoints, 12, {})
    provenance = {
        "state_sha256": hash_state(parts.module.state_dict()),
        "data_digest": verify_digest(root, spec.dataset),
    }
    metrics, per_class, counts, images = evaluate(parts, spec, StopRequest())
    folder.confusion.write_bytes(counts)
    record = make_record(
        spec,
        metrics["miou"],
        metrics={**metrics, "images": images},
        per_class=per_class,
        confusion={"file": folder.confusion.name, "sha256": hash_bytes(counts)},
        provenance=provenance,
    )
    folder.record.write_text(json.dumps(record))
    return folder


def predict_evaluated_images(folder: RunFolder, data: Path) -> list[tuple[str, Tensor]]:
    """Predict the evaluated images of a finished run as its evaluation does.

    Returns:
        Path and label map, (H, W), of each image.
    """
    spec, record = read_finished_run(folder)
    parts = load_model(folder, record, spec, find_root(spec.dataset, data))
    parts.model.eval()
    results = []
    with torch.no_grad():
        for batch in parts.test_loader:
            (sample,) = parts.model.test_step(batch)
            results.append((sample.img_path, sample.pred_sem_seg.data[0]))
    return results


def change_record(folder: RunFolder, **provenance: Any) -> None:
    """Replace values in the provenance of a record, and seal it again."""
    from protoseg.runs.record import read_record, seal

    record = read_record(folder.record)
    del record["digest"]
    record["provenance"] |= provenance
    folder.record.write_text(json.dumps(seal(record)))
