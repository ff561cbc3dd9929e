"""One run: train or go on, evaluate, write the record."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import torch

from protoseg.datasets.digest import verify
from protoseg.datasets.layout import find_root
from protoseg.errors import UsageError
from protoseg.runs import atomic
from protoseg.runs.folder import Launch, RunFolder, now
from protoseg.runs.record import seal
from protoseg.spec.fields import plain
from protoseg.spec.identity import spec_digest
from protoseg.spec.schema import RunSpec
from protoseg.training import checkpoint, metric
from protoseg.training.loop import TrainingLoop
from protoseg.training.parts import Parts, build_parts
from protoseg.training.provenance import provenance
from protoseg.training.recipe import build_config
from protoseg.training.stop import StopRequest
from protoseg.training.weights import find_weights


def execute(spec: RunSpec, folder: RunFolder, launch: Launch, stop: StopRequest) -> None:
    """Train ``spec`` in ``folder`` until its record is written.

    Raises:
        DataError, UsageError, StorageError: what the user can put right.
        Stopped: a signal asked to; the run can go on from its last checkpoint.
    """
    if launch.threads:
        torch.set_num_threads(launch.threads)
    if spec.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("precision: fp16 needs a GPU; here use precision=bf16 or precision=fp32.")
    # Now, not at the end: a commit made meanwhile is not the code that trained.
    origin = provenance()
    data_root = find_root(spec.dataset, Path(launch.data))
    data_digest = verify(data_root, spec.dataset)
    weights = find_weights(spec.backbone, Path(launch.weights))
    weights_sha256 = atomic.file_digest(weights) if weights else None
    found, problems = checkpoint.newest(folder.checkpoints)
    for problem in problems:
        print(problem, flush=True)
    start = found.iteration if found else 0
    config = build_config(spec, data_root=data_root, num_workers=launch.workers, start=start)
    parts = build_parts(config, weights)
    loop = TrainingLoop(parts, folder, spec.schedule.iterations, launch.checkpoint_seconds, stop)
    if found:
        loop.resume(found)
        print(f"{now()}  going on from iteration {start}", flush=True)
    stop.check()
    loop.run(start)
    begun = time.perf_counter()
    overall, per_class, counts, images = evaluate(parts, spec, stop)
    evaluation_seconds = time.perf_counter() - begun
    stop.confirm()
    atomic.write_bytes(folder.confusion, counts)
    attempts = folder.attempts()
    iterations, batch = spec.schedule.iterations, spec.schedule.batch_size
    record = {
        "run_id": folder.run_id,
        "spec": plain(spec),
        "spec_digest": spec_digest(spec),
        "metrics": {**overall, "images": images},
        "per_class": per_class,
        "parameters": count_parameters(parts),
        "cost": {
            "seconds": round(loop.seconds, 2),
            "evaluation_seconds": round(evaluation_seconds, 2),
            "iterations_per_second": round(iterations / loop.seconds, 4),
            "images_per_second": round(iterations * batch / loop.seconds, 3),
            "peak_memory_mib": round(peak_memory_mib(), 1),
            "gpu_hours": round(loop.seconds / 3600, 5) if torch.cuda.is_available() else 0.0,
        },
        "losses": loop.curve,
        "provenance": {
            **origin,
            "data_digest": data_digest,
            "weights_sha256": weights_sha256,
        },
        "confusion": {"file": folder.confusion.name, "sha256": metric.sha256(counts)},
        "attempts": len(attempts),
        "started": attempts[0].start["time"] if attempts else now(),
        "finished": now(),
    }
    # Last of all: from here on the run is done, whatever happens.
    if not atomic.create_json(folder.record, seal(record)):
        raise UsageError(f"{folder.record}: a record is there already; it is kept.")


def evaluate(
    parts: Parts, spec: RunSpec, stop: StopRequest
) -> tuple[dict[str, float], list[Any], bytes, int]:
    """Overall metrics, per-class metrics, packed per-image counts, and the number of images."""
    num_classes = len(spec.dataset.classes)
    counter = metric.ConfusionCounts(num_classes)
    parts.model.eval()
    with torch.no_grad():
        for batch in parts.test_loader:
            stop.check()
            samples = parts.model.test_step(batch)
            counter.process(batch, [sample.to_dict() for sample in samples])
    counter.evaluate(len(parts.test_loader))
    matrix = metric.total(counter.images, num_classes)
    overall, per_class = metric.summarise(matrix, spec.dataset.classes)
    return overall, per_class, metric.pack(counter.images, num_classes), len(counter.images)


def count_parameters(parts: Parts) -> dict[str, int]:
    """Learnable numbers of the model, without auxiliary heads, and numbers held in prototypes.

    Auxiliary heads are thrown away after training, so the literature does not count them.
    """
    model = parts.module
    learnable = sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith("auxiliary_head")
    )
    bank = getattr(model.decode_head, "bank", None)
    return {"learnable": learnable, "prototype": bank.prototypes.numel() if bank else 0}


def peak_memory_mib() -> float:
    """Highest memory of the GPU, or of this process on a CPU, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
