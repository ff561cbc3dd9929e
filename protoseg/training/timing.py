"""``python -m protoseg.training.timing [REQUEST ANSWER]``: what an iteration of a run takes here.

The model is the run's own, with random weights; its crops are made up, so neither data nor weights
are needed. It is a process of its own: what does not fit into memory ends nothing else. Without
arguments it prints the device as JSON.
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
from protoseg.config.identity import spec_from_dict
from protoseg.config.schema import RunSpec
from protoseg.datasets.labels import ignored_label
from protoseg.errors import UsageError
from protoseg.training import determinism, failures
from protoseg.training.build.components import build_model, build_optimizer, use_mmseg
from protoseg.training.build.config import build_config
from protoseg.training.provenance.environment import device_name
from protoseg.training.synthetic_batches import crops, label_maps

WARM_UP = 3
"""Iterations before those that are timed: kernels are chosen, memory is taken."""
WARM_UP_SECONDS = 20.0
"""After so long one iteration of warming up is enough."""
SECONDS = 60.0
"""After so long no further iteration is timed, but one always is."""
GENTLE = 1e-3
"""Of the learning rate, as in a run's own warm-up: what diverges may take another time."""


def main(arguments: list[str] | None = None) -> int:
    """Time the spec of the request, and write seconds, or why there are none, to the answer."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        print(json.dumps({"device": device_name(), "gpu": torch.cuda.is_available()}))
        return 0
    request, answer = json.loads(Path(given[0]).read_bytes()), Path(given[1])
    try:
        spec = spec_from_dict(request["spec"], "timing")
        torch.set_num_threads(request["threads"])
        if not torch.cuda.is_available():
            stay_within_memory()
        found = measure(spec, request["iterations"], lambda done: _say(answer, done))
    except Exception as error:
        reason, message = failures.reason_of(error)
        found = {"reason": reason.value, "message": message}
    files.write_json(answer, found)
    return 0


def _say(answer: Path, done: int) -> None:
    files.write_json(answer, {"done": done})


def measure(
    spec: RunSpec, iterations: int, done: Callable[[int], None] = lambda number: None
) -> dict[str, Any]:
    """Train a few iterations of a run, and say what one takes.

    Args:
        iterations: to be timed at most; fewer where they take longer than `SECONDS`.
        done: told after each of them how many there are.

    Returns:
        ``seconds`` (the median), ``fastest``, ``slowest``, ``iterations`` and ``memory_mib``.

    Raises:
        UsageError: settings that can not be trained.
    """
    if spec.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("precision: fp16 needs a GPU; here use precision=bf16 or precision=fp32.")
    determinism.apply(spec.determinism)
    model, optimizer = network(spec)
    for group in optimizer.param_groups:
        group["lr"] *= GENTLE
    batch = batch_of(spec)

    def step() -> float:
        begun = time.perf_counter()
        losses = model.train_step(batch, optim_wrapper=optimizer)
        for value in losses.values():  # as the training loop does: it waits for the GPU
            float(torch.as_tensor(value).detach())
        return time.perf_counter() - begun

    begun = time.monotonic()
    for _ in range(WARM_UP):
        step()
        if time.monotonic() - begun > WARM_UP_SECONDS:
            break
    begun, times = time.monotonic(), [step()]
    done(1)
    while len(times) < iterations and time.monotonic() - begun < SECONDS:
        times.append(step())
        done(len(times))
    return {
        "seconds": statistics.median(times),
        "fastest": min(times),
        "slowest": max(times),
        "iterations": len(times),
        "memory_mib": round(peak_memory_mib(), 1),
    }


def network(spec: RunSpec) -> tuple[Any, Any]:
    """The segmentor of a spec, with random weights, and its optimiser; on the GPU if there is one.

    Raises:
        UsageError: settings that mmseg refuses.
    """
    use_mmseg()
    torch.manual_seed(0)
    config = build_config(spec, data_root=Path())
    model = build_model(config.model, None).train()
    return model, build_optimizer(model, config)


def batch_of(spec: RunSpec) -> dict[str, Any]:
    """A batch made up for a run: its images, crop and classes, and what its task learns from."""
    classes = len(spec.dataset.classes)
    size = spec.augmentation.crop_size
    maps = label_maps(spec.schedule.batch_size, *size, classes, ignored_label(spec.dataset))
    batch = crops(maps)
    if spec.method.task == "weak":
        for sample, truth in zip(batch["data_samples"], maps, strict=True):
            present = [c for c in truth.unique().tolist() if 0 < c < classes]
            sample.set_metainfo({"image_labels": present})
    return batch


def peak_memory_mib() -> float:
    """Highest memory of the GPU, or of this process on a CPU, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def stay_within_memory() -> None:
    """Refuse to take more memory than is free, and be the first to go where that is not enough.

    Else the kernel would end whichever process it likes, once all memory is gone.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    free = free_bytes(Path("/proc"), Path("/sys/fs/cgroup"))
    if free is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = free + _own_bytes()
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _own_bytes() -> int:
    """What counts towards that limit already, most of it reserved and not used."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/self/status").read_text()
        return int(text.partition("VmData:")[2].split()[0]) * 1024
    return 0


def free_bytes(proc: Path, group: Path) -> int | None:
    """Memory that is free, of the machine and within what a container may take; None: not known."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (proc / "meminfo").read_text()
        found.append(int(text.partition("MemAvailable:")[2].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (group / "memory.stat").read_text()
        cached = int(text.partition("inactive_file ")[2].split()[0])
        used = int((group / "memory.current").read_text()) - cached
        found.append(int((group / "memory.max").read_text()) - used)
    return max(0, min(found)) if found else None


if __name__ == "__main__":
    sys.exit(main())
