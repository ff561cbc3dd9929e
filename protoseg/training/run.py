"""One run: train or go on, evaluate, write the record.

Several processes do it together: each loads and trains its share of every batch and evaluates its
share of the images; the first one prepares, decides where to go on, and writes.
"""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path
from typing import Any

import torch

from protoseg import files
from protoseg.config.fields import plain
from protoseg.config.identity import spec_digest
from protoseg.config.plugins import packages
from protoseg.config.schema import RunSpec
from protoseg.core.collective import all_max
from protoseg.datasets.digest import verify
from protoseg.datasets.layout import find_root
from protoseg.errors import UsageError
from protoseg.runs.folder import START_PHASES, Launch, RunFolder, now
from protoseg.runs.record import seal
from protoseg.training import checkpoint
from protoseg.training.allocator import keep_freed_memory
from protoseg.training.build.components import TrainingComponents, build_components
from protoseg.training.build.config import build_config
from protoseg.training.determinism import state_digest
from protoseg.training.distributed.process_group import Processes
from protoseg.training.evaluation import confusion
from protoseg.training.evaluation.cam_masks import counter_of
from protoseg.training.loop import TrainingLoop
from protoseg.training.provenance.environment import begin, kernels
from protoseg.training.signals import StopRequest, StopRequested
from protoseg.training.weights.load import find_weights

PREPARATION_SECONDS = 4 * 3600.0
"""How long the first process may take to read all data for their digest."""


def execute(
    spec: RunSpec,
    folder: RunFolder,
    launch: Launch,
    stop: StopRequest,
    processes: Processes | None = None,
) -> None:
    """Train ``spec`` in ``folder`` until its record is written.

    Args:
        processes: those that train together, each of which calls this; by default one.

    Raises:
        DataError, UsageError, StorageError: what the user can put right.
        Stopped: a signal asked to; the run can go on from its last checkpoint.
    """
    processes = processes or Processes()
    keep_freed_memory()
    if launch.threads:
        torch.set_num_threads(launch.threads)
    if spec.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("precision: fp16 needs a GPU; here use precision=bf16 or precision=fp32.")
    # Now, not at the end: a commit made meanwhile is not the code that trained.
    origin = begin(folder, packages(spec)) if processes.rank == 0 else {}
    # Processes that wait for each other stop together, at `_check`.
    with stop.immediately() if processes.size == 1 else contextlib.nullcontext():
        _log_phase(0)
        data_digest, found = _prepare(spec, folder, launch, processes)
        data_root = find_root(spec.dataset, Path(launch.data))
        weights = find_weights(spec.backbone, Path(launch.weights))
        weights_sha256 = files.file_digest(weights) if weights else None
        start = found.iteration if found else 0
        _log_phase(1)
        config = build_config(
            spec,
            data_root=data_root,
            num_workers=launch.workers,
            world_size=processes.size,
            start=start,
        )
        parts = build_components(config, weights)
        loop = TrainingLoop(
            parts, folder, spec.schedule.iterations, launch.checkpoint_seconds, stop, processes
        )
        if found:
            loop.resume(found)
            print(f"{now()}  going on from iteration {start}", flush=True)
    _check(stop, processes)
    _log_phase(2)
    loop.run(start)
    state_sha256 = state_digest(parts.module.state_dict()) if processes.rank == 0 else ""
    begun = time.perf_counter()
    overall, per_class, counts, images = evaluate(parts, spec, stop, processes)
    evaluation_seconds = time.perf_counter() - begun
    memory = float(all_max(torch.tensor(peak_memory_mib())))
    if processes.rank > 0:
        return
    kept = UsageError(f"{folder.record}: a record is there already; it is kept.")

    def check_ownership() -> None:
        """Neither the counts nor the record of another worker are touched."""
        stop.check_ownership()
        if folder.record.exists():
            raise kept

    check_ownership()
    files.write_with(folder.confusion, lambda file: file.write(counts), check_ownership)
    attempts = folder.attempts()
    iterations, batch = spec.schedule.iterations, spec.schedule.batch_size
    gpus = processes.size if torch.cuda.is_available() else 0
    record = {
        "run_id": folder.run_id,
        "spec": plain(spec, identity=True),  # whose digest is `spec_digest`
        "spec_digest": spec_digest(spec),
        "metrics": {**overall, "images": images},
        "per_class": per_class,
        "parameters": count_parameters(parts),
        "cost": {
            "seconds": round(loop.seconds, 2),
            "evaluation_seconds": round(evaluation_seconds, 2),
            "iterations_per_second": round(iterations / loop.seconds, 4),
            "images_per_second": round(iterations * batch / loop.seconds, 3),
            "peak_memory_mib": round(memory, 1),
            "gpu_hours": round(gpus * loop.seconds / 3600, 5),
        },
        "losses": loop.curve,
        "provenance": {
            **origin,
            "kernels": kernels(),
            "processes": processes.size,
            "data_digest": data_digest,
            "weights_sha256": weights_sha256,
            "state_sha256": state_sha256,  # of what the training ended with
        },
        "confusion": {"file": folder.confusion.name, "sha256": confusion.sha256(counts)},
        "attempts": len(attempts),
        "started": attempts[0].start["time"] if attempts else now(),
        "finished": now(),
    }
    # Last of all: from here on the run is done, whatever happens.
    if not files.create_json(folder.record, seal(record)):
        raise kept


def _log_phase(number: int) -> None:
    """Write to the log what the run does before its first iteration; a sweep shows it."""
    with contextlib.suppress(OSError):
        print(f"{now()}  {START_PHASES[number]}", flush=True)


def _prepare(
    spec: RunSpec, folder: RunFolder, launch: Launch, processes: Processes
) -> tuple[str, checkpoint.Checkpoint | None]:
    """The digest of the data, there and verified, and the checkpoint to go on from.

    The first process looks, for all: the data may have to be made, or read as a whole.
    """
    if processes.rank > 0:
        start = processes.wait_for("start", PREPARATION_SECONDS)
        return "", checkpoint.at(folder.checkpoints, start) if start else None
    data_digest = verify(find_root(spec.dataset, Path(launch.data)), spec.dataset)
    found, problems = checkpoint.newest(folder.checkpoints)
    for problem in problems:
        print(problem, flush=True)
    processes.publish("start", found.iteration if found else 0)
    return data_digest, found


def _check(stop: StopRequest, processes: Processes) -> None:
    """Raise `StopRequested` in all processes if a signal came to any of them."""
    signal_number = processes.agree(stop.signal_number)
    if signal_number is not None:
        raise StopRequested(signal_number)


def evaluate(
    parts: TrainingComponents, spec: RunSpec, stop: StopRequest, processes: Processes | None = None
) -> tuple[dict[str, Any], list[Any], bytes, int]:
    """Overall metrics, per-class metrics, packed per-image counts, and the number of images."""
    processes = processes or Processes()
    num_classes = len(spec.dataset.classes)
    counter = counter_of(spec)
    parts.model.eval()
    batches = iter(parts.test_loader)
    # The first process has the largest share; the others take part in its questions to the end.
    longest = int(all_max(torch.tensor(len(parts.test_loader))))
    with torch.no_grad():
        for _ in range(longest):
            stop.raise_if_taken_over()
            _check(stop, processes)
            batch = next(batches, None)
            if batch is not None:
                samples = parts.model.test_step(batch)
                counter.process(batch, [sample.to_dict() for sample in samples])
    images = counter.results
    if processes.size > 1:
        parts_of_all = processes.gather_bytes(confusion.encode(images))
        images = [image for data in parts_of_all for image in confusion.decode(data)]
    counter.compute_metrics(images)
    matrix = confusion.total(counter.images, num_classes)
    overall, per_class = confusion.summarise(matrix, spec.dataset.classes)
    overall |= counter.details
    return overall, per_class, confusion.pack(counter.images, num_classes), len(counter.images)


def count_parameters(parts: TrainingComponents) -> dict[str, int]:
    """Learnable numbers of the model as it is evaluated, and numbers held in prototypes.

    Auxiliary heads, and what else serves training alone, are thrown away after it, so the
    literature does not count them.
    """
    model = parts.module
    alone = getattr(model.decode_head, "training_only", ())
    thrown_away = ("auxiliary_head.", *(f"decode_head.{name}." for name in alone))
    learnable = sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith(thrown_away)
    )
    bank = getattr(model.decode_head, "bank", None)
    return {"learnable": learnable, "prototype": bank.prototypes.numel() if bank else 0}


def peak_memory_mib() -> float:
    """Highest memory of the GPU, or of this process on a CPU, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
