"""``python -m protoseg.training.timing [REQUEST ANSWER]``: time the iterations of a run.

The model is that of the run with random weights, and the crops are synthetic, so neither data nor
weights are needed. It runs in a separate process: if the run does not fit into memory, only this
process ends. Without arguments it prints the device as JSON.
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from protoseg import files
from protoseg.config.identity import read_spec
from protoseg.config.schema import RunSpec
from protoseg.datasets.labels import ignored_label
from protoseg.errors import UsageError
from protoseg.training import failures
from protoseg.training.builders.components import build_model, build_optimizer, use_mmseg
from protoseg.training.builders.config import build_config
from protoseg.training.builders.freezing import freeze_modules
from protoseg.training.machine import determinism
from protoseg.training.machine.device import get_device_name, get_peak_memory_mib
from protoseg.training.machine.network import turn_network_off
from protoseg.training.synthetic_batches import make_crops, make_label_maps

WARM_UP = 3
"""Iterations before the timed ones, in which torch selects kernels and allocates memory."""
WARM_UP_SECONDS = 20.0
"""Time limit of the warm-up; at least one iteration is run."""
SECONDS = 60.0
"""Time limit of the timed iterations; at least one is timed."""
LEARNING_RATE_FACTOR = 1e-3
"""Factor on the learning rate, as in a warm-up: an iteration that diverges may take longer."""


def main(arguments: list[str] | None = None) -> int:
    """Time the spec of the request file; write the times or the reason of the failure."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(json.dumps({"device": get_device_name(), "gpu": torch.cuda.is_available()}))
        return 0
    turn_network_off()
    request, answer = json.loads(Path(arguments[0]).read_bytes()), Path(arguments[1])
    try:
        spec = read_spec(request["spec"], "timing")
        torch.set_num_threads(request["threads"])
        if not torch.cuda.is_available():
            limit_memory()
        result = time_iterations(
            spec, request["iterations"], lambda done: files.write_json(answer, {"done": done})
        )
    except Exception as error:
        reason, message = failures.classify_error(error)
        result = {"reason": reason.value, "message": message}
    files.write_json(answer, result)
    return 0


def time_iterations(
    spec: RunSpec, iterations: int, progress: Callable[[int], None] = lambda number: None
) -> dict[str, Any]:
    """Train a few iterations of a run and measure their time.

    Args:
        iterations: maximum number of timed iterations; fewer if they exceed `SECONDS`.
        progress: called after each timed iteration with their number so far.

    Returns:
        ``seconds`` (median), ``fastest``, ``slowest``, ``iterations`` and ``memory_mib``.

    Raises:
        UsageError: settings that cannot be trained.
    """
    if spec.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("precision: fp16 needs a GPU; here use precision=bf16 or precision=fp32.")
    determinism.apply_level(spec.determinism)
    model, optimizer = build_network(spec)
    for group in optimizer.param_groups:
        group["lr"] *= LEARNING_RATE_FACTOR
    batch = make_batch(spec)

    def time_step() -> float:
        start = time.perf_counter()
        losses = model.train_step(batch, optim_wrapper=optimizer)
        for value in losses.values():  # as in the training loop; waits for the GPU
            float(torch.as_tensor(value).detach())
        return time.perf_counter() - start

    start = time.monotonic()
    for _ in range(WARM_UP):
        time_step()
        if time.monotonic() - start > WARM_UP_SECONDS:
            break
    start, times = time.monotonic(), [time_step()]
    progress(1)
    while len(times) < iterations and time.monotonic() - start < SECONDS:
        times.append(time_step())
        progress(len(times))
    return {
        "seconds": statistics.median(times),
        "fastest": min(times),
        "slowest": max(times),
        "iterations": len(times),
        "memory_mib": round(get_peak_memory_mib(), 1),
    }


def build_network(spec: RunSpec) -> tuple[Any, Any]:
    """The segmentor of a spec with random weights, and its optimiser; on the GPU if available.

    Raises:
        UsageError: settings that mmseg refuses.
    """
    use_mmseg()
    torch.manual_seed(0)
    config = build_config(spec, data_root=Path())
    model = build_model(config.model, None).train()
    freeze_modules(model, spec.schedule.frozen)
    return model, build_optimizer(model, config)


def make_batch(spec: RunSpec) -> dict[str, Any]:
    """A synthetic batch with a run's batch size, crop size and classes, and the labels it needs."""
    classes = len(spec.dataset.classes)
    size = spec.augmentation.crop_size
    maps = make_label_maps(spec.schedule.batch_size, *size, classes, ignored_label(spec.dataset))
    batch = make_crops(maps)
    if spec.method.task == "weak":
        for sample, truth in zip(batch["data_samples"], maps, strict=True):
            present = [c for c in truth.unique().tolist() if 0 < c < classes]
            sample.set_metainfo({"image_labels": present})
    return batch


def limit_memory() -> None:
    """Limit this process to the free memory, and make it the first one that the kernel kills.

    Otherwise the kernel may kill any process when memory runs out.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    free = read_free_bytes(Path("/proc"), Path("/sys/fs/cgroup"))
    if free is not None:
        _, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
        limit = free + _read_own_bytes()
        limit = limit if hard_limit == resource.RLIM_INFINITY else min(limit, hard_limit)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard_limit))


def _read_own_bytes() -> int:
    """Bytes of this process that count towards the limit, most of them reserved but unused."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/self/status").read_text()
        return int(text.partition("VmData:")[2].split()[0]) * 1024
    return 0


def read_free_bytes(proc: Path, cgroup: Path) -> int | None:
    """Free memory in bytes: the smaller of the machine's and the container's; None if unknown.

    Args:
        proc: folder of the kernel's process information.
        cgroup: folder of the container's control group (version 2).
    """
    free = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (proc / "meminfo").read_text()
        free.append(int(text.partition("MemAvailable:")[2].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (cgroup / "memory.stat").read_text()
        cached = int(text.partition("inactive_file ")[2].split()[0])
        used = int((cgroup / "memory.current").read_text()) - cached
        free.append(int((cgroup / "memory.max").read_text()) - used)
    return max(0, min(free)) if free else None


if __name__ == "__main__":
    sys.exit(main())
