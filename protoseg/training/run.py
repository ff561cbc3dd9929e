"""One run: train it from the start or from a checkpoint, evaluate it, write its record.

Several processes may execute a run together. Each trains on its share of every batch and evaluates
its share of the images. Rank 0 prepares the data, selects the checkpoint and writes the files.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import torch

from protoseg import files
from protoseg.config.fields import to_plain
from protoseg.config.identity import spec_digest
from protoseg.config.plugins import list_packages
from protoseg.config.schema import RunSpec
from protoseg.core.collective import all_max
from protoseg.datasets.check import require_labelled_pixels
from protoseg.datasets.digest import verify_digest
from protoseg.datasets.layout import find_root
from protoseg.datasets.pairing.holdout_check import check_holdout
from protoseg.errors import UsageError
from protoseg.runs.folder import START_PHASES, Launch, RunFolder, now
from protoseg.runs.record import seal
from protoseg.training import checkpoint
from protoseg.training.builders.components import TrainingComponents, build_components
from protoseg.training.builders.config import build_config
from protoseg.training.builders.parameter_counts import count_parameters
from protoseg.training.continuation import find_continued
from protoseg.training.distributed.process_group import Processes
from protoseg.training.evaluation import confusion
from protoseg.training.evaluation.evaluate import evaluate
from protoseg.training.evaluation.metric_curve import MetricCurve
from protoseg.training.evaluation.samples import collect_samples
from protoseg.training.evaluation.smallest_image import predict_smallest_image
from protoseg.training.loop import TrainingLoop
from protoseg.training.machine.allocator import keep_freed_memory
from protoseg.training.machine.determinism import hash_state
from protoseg.training.machine.device import get_peak_memory_mib
from protoseg.training.provenance.environment import read_kernel_settings, record_attempt_code
from protoseg.training.reporting.run_log import RunLog
from protoseg.training.signals import StopRequest, raise_if_stop_requested
from protoseg.training.weights.init_from import find_start
from protoseg.training.weights.load import find_weights

PREPARATION_SECONDS = 4 * 3600.0
"""Time limit for rank 0 to read all data for the digest."""


def execute_run(
    spec: RunSpec,
    folder: RunFolder,
    launch: Launch,
    stop: StopRequest,
    processes: Processes | None = None,
    run_log: RunLog | None = None,
) -> None:
    """Train ``spec`` in ``folder`` until its record is written.

    Args:
        processes: the processes that train together, by default only this one. Each of them calls
            this function.
        run_log: the loggers, which are started here; by default there are none.

    Raises:
        DataError, UsageError, StorageError: an error that the user can correct.
        StopRequested: a signal stopped the run; it can be resumed from its last checkpoint.
        ClaimLost: another worker took the run over.
    """
    processes, run_log = processes or Processes(), run_log or RunLog()
    keep_freed_memory()
    if launch.threads:
        torch.set_num_threads(launch.threads)
    if spec.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("precision: fp16 needs a GPU; here use precision=bf16 or precision=fp32.")
    # Read the commit before training: a commit made during it is not the code that trains.
    project = Path(launch.project) if launch.project else None
    origin = (
        record_attempt_code(folder, list_packages(spec), project) if processes.rank == 0 else {}
    )
    # Several processes must stop together, so they stop only at `raise_if_stop_requested`.
    with stop.raise_immediately() if processes.size == 1 else contextlib.nullcontext():
        _log_phase(0)
        data_record, saved = _prepare(spec, folder, launch, processes)
        data_root = find_root(spec.dataset, Path(launch.data))
        weights = find_weights(spec.backbone, Path(launch.weights))
        weights_sha256 = files.file_digest(weights) if weights else None
        network = find_start(spec, Path(launch.weights))
        network_record = {"init_from_sha256": files.file_digest(network)} if network else {}
        start = saved.iteration if saved else 0
        _log_phase(1)
        config = build_config(
            spec,
            data_root=data_root,
            num_workers=launch.workers,
            world_size=processes.size,
            start=start,
        )
        parts = build_components(
            config,
            weights,
            spec.schedule.ema,
            start=network,
            skip=spec.init_from_skip,
            frozen=spec.schedule.frozen,
        )
        iterations, batch = spec.schedule.last_iteration, spec.schedule.batch_size
        metrics = MetricCurve(
            spec.evaluation.every, iterations, lambda: evaluate(parts, spec, stop, processes)[:2]
        )
        loop = TrainingLoop(
            parts,
            folder,
            iterations,
            launch.checkpoint_seconds,
            stop,
            processes,
            metrics,
            scheduled=spec.schedule.iterations,
            run_log=run_log,
            step_every=spec.schedule.accumulative_counts,
        )
        if saved:
            loop.resume(saved)
            other = "" if saved.path.parent == folder.checkpoints else f" of {saved.run_id}"
            print(f"{now()}  resuming from iteration {start}{other}", flush=True)
        predict_smallest_image(parts, spec.evaluation.scale)
    raise_if_stop_requested(stop, processes)
    run_log.start(spec, iterations, start)
    _log_phase(2)
    loop.run(start)
    if parts.averaged:
        parts.averaged.swap()  # what follows uses the average
    state_sha256 = hash_state(parts.module.state_dict()) if processes.rank == 0 else ""
    evaluation_start = time.perf_counter()
    overall, per_class, counts, images = evaluate(parts, spec, stop, processes)
    evaluation_seconds = time.perf_counter() - evaluation_start
    loop.finish_metrics(overall, per_class)
    run_log.log_metrics(iterations, overall)
    memory = float(all_max(torch.tensor(get_peak_memory_mib())))
    if processes.rank > 0:
        return
    record_exists = UsageError(f"{folder.record}: a record exists already; it is kept.")

    def check_ownership() -> None:
        """Protect the counts and the record of another worker."""
        stop.check_ownership()
        if folder.record.exists():
            raise record_exists

    check_ownership()
    files.write_with(folder.confusion, lambda file: file.write(counts), check_ownership)
    attempts = folder.attempts()
    gpus = processes.size if torch.cuda.is_available() else 0
    record: dict[str, Any] = {
        "run_id": folder.run_id,
        "spec": to_plain(spec, identity=True),  # `spec_digest` is the digest of this
        "spec_digest": spec_digest(spec),
        "metrics": {**overall, "images": images},
        "per_class": per_class,
        "parameters": count_parameters(parts, spec.schedule.frozen),
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
            "kernels": read_kernel_settings(),
            "processes": processes.size,
            **data_record,
            "weights_sha256": weights_sha256,
            **network_record,
            "state_sha256": state_sha256,  # of the model at the end of training
            **({"continued": loop.continued} if loop.continued else {}),
        },
        "confusion": {"file": folder.confusion.name, "sha256": confusion.hash_bytes(counts)},
        "attempts": len(attempts),
        "started": attempts[0].start["time"] if attempts else now(),
        "finished": now(),
    }
    if metrics.every:
        record["curve"] = metrics.points
        record["cost"]["curve_seconds"] = round(metrics.seconds, 2)
    # Once the record is written, the run is done.
    if not files.create_json(folder.record, seal(record)):
        raise record_exists
    if spec.method.task != "weak":
        _write_samples(parts, spec, counts, folder, Path(launch.data), state_sha256)


def _write_samples(
    parts: TrainingComponents,
    spec: RunSpec,
    counts: bytes,
    folder: RunFolder,
    data: Path,
    state_sha256: str,
) -> None:
    """Write the samples of the finished run; an error is logged, because the run is done."""
    try:
        images = confusion.unpack_counts(counts)
        samples = collect_samples(parts, spec, images, data, folder.run_id, state_sha256)
        files.write_bytes(folder.samples, samples.pack())
    except Exception as error:  # also one of a head of another package
        with contextlib.suppress(OSError):
            print(
                f"{now()}  no samples ({type(error).__name__}: {error}). To make them: protoseg "
                f"samples {folder.run_id}",
                flush=True,
            )


def _log_phase(number: int) -> None:
    """Log what the run does before its first iteration; ``protoseg sweep`` shows it."""
    with contextlib.suppress(OSError):
        print(f"{now()}  {START_PHASES[number]}", flush=True)


def _prepare(
    spec: RunSpec, folder: RunFolder, launch: Launch, processes: Processes
) -> tuple[dict[str, Any], checkpoint.Checkpoint | None]:
    """Prepare and verify the data and find the checkpoint to resume from.

    Rank 0 does this for all processes: the data may have to be generated, or read completely.

    Returns:
        What the record contains about the data (empty where the rank is not 0): the digest and the
        holdout, if there is one; and the checkpoint or None.
    """
    if processes.rank > 0:
        start = processes.wait_for("start", PREPARATION_SECONDS)
        return {}, checkpoint.locate(Path(start)) if start else None
    root = find_root(spec.dataset, Path(launch.data))
    data_record: dict[str, Any] = {"data_digest": verify_digest(root, spec.dataset)}
    # Training of the task weak reads no label maps.
    train_splits = () if spec.method.task == "weak" else (spec.dataset.train_split,)
    if spec.evaluation.holdout.is_set:
        summary = check_holdout(root, spec.dataset, spec.evaluation.holdout, train_splits)
        data_record["holdout"] = summary.to_dict()
        print(f"{now()}  {summary.describe()}", flush=True)
    else:
        for split in dict.fromkeys((*train_splits, spec.evaluation.split)):
            require_labelled_pixels(root, spec.dataset, split)
    saved, problems = checkpoint.find_newest(folder.checkpoints)
    for problem in problems:
        print(problem, flush=True)
    saved = saved or find_continued(spec, folder, data_record["data_digest"])
    processes.publish("start", str(saved.path) if saved else "")
    return data_record, saved
