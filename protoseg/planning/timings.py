"""Short timings of workloads without a record, each measured in a separate process.

They are stored beside the run folders as ``RUNS/.timings/HASH.json``, one for each workload, device
and version of the code. Later plans use them, also on a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.config.fields import to_plain
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError
from protoseg.planning.workload import describe_workload, workload_digest
from protoseg.runs.states import Reason

FOLDER = ".timings"
MODULE = "protoseg.training.timing"
SOURCES = (
    *("core", "models", "training/builders/components.py", "training/builders/config.py"),
    *("training/builders/optimizer_config.py", "training/timing.py"),
)
"""The code of an iteration, in the package ``protoseg``."""
PACKAGES = ("torch", "onedl-mmsegmentation", "mmsegmentation", "timm")
TIMEOUT_SECONDS = 15 * 60.0
"""A timing that takes longer is stopped."""
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Device:
    """The device that iterations are timed on."""

    name: str
    """Of the GPU, or of the processor with the number of threads."""
    gpu: bool


@dataclass(frozen=True)
class Timing:
    """The time of an iteration of a workload on a device."""

    kind: str
    """`protoseg.planning.workload.workload_digest` of the workload."""
    what: str
    """`protoseg.planning.workload.describe_workload` of it."""
    code: str
    """`code_version` of the code that was timed."""
    device: str
    gpu: bool
    iterations: int
    seconds: float
    """Median of the iterations."""
    fastest: float
    """Seconds."""
    slowest: float
    """Seconds."""
    memory_mib: float
    time: str
    """When it was measured; UTC, ISO 8601."""


@dataclass(frozen=True)
class Failure:
    """Why a workload could not be timed."""

    what: str
    """The workload, described."""
    message: str
    memory: bool
    """It does not fit into the memory of the device."""


def find_device(threads: int) -> Device:
    """Ask torch, in a separate process, which device runs are trained on here.

    Args:
        threads: of torch; part of the name of a processor.

    Raises:
        ProtosegError: the process fails.
    """
    command = [sys.executable, "-m", MODULE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        suffix = f", {threads} thread{'s' * (threads > 1)}"
        return Device(answer["device"] + ("" if answer["gpu"] else suffix), answer["gpu"])
    except (IndexError, ValueError, KeyError) as error:
        problem = files.last_line(done.stderr)
        raise ProtosegError(
            f"plan --time: torch does not start ({problem}). "
            "Run 'protoseg doctor' to check the installation."
        ) from error


def read_timings(runs_folder: Path) -> list[Timing]:
    """Read the timings of the current code, oldest first; unreadable ones are left out."""
    paths = list((runs_folder / FOLDER).glob("*.json"))
    timings = []
    for data in map(files.read_json, paths):
        with contextlib.suppress(TypeError):
            timings.append(Timing(**data))
    return sorted((t for t in timings if t.code == code_version()), key=lambda t: t.time)


def choose_timings(timings: Iterable[Timing], device: Device | None = None) -> dict[str, Timing]:
    """Choose one timing of each workload: of the given device, else of a GPU, else the newest.

    Returns:
        Digest of the workload -> timing.
    """

    def rank(timing: Timing) -> tuple[bool, bool, str]:
        return (device is not None and timing.device == device.name, timing.gpu, timing.time)

    return {timing.kind: timing for timing in sorted(timings, key=rank)}


def measure_workload(
    spec: RunSpec,
    runs_folder: Path,
    device: Device,
    *,
    iterations: int,
    threads: int,
    on_iteration: Callable[[int], None] = lambda done: None,
) -> Timing | Failure:
    """Time the workload of a run on this machine and store the timing.

    Args:
        device: from `find_device`.
        iterations: at most; fewer if they are slow.
        threads: of torch.
        on_iteration: called with the number of iterations done.

    Raises:
        ProtosegError: the folder cannot be written.
    """
    request = {"spec": to_plain(spec), "iterations": iterations, "threads": threads}
    result = _time_in_process(request, threads, on_iteration)
    what = describe_workload(spec)
    if "seconds" not in result:
        memory = result["reason"] == Reason.OUT_OF_MEMORY.value
        message = f"does not fit into the memory of {device.name}" if memory else result["message"]
        return Failure(what, message, memory)
    timing = Timing(
        kind=workload_digest(spec),
        what=what,
        code=code_version(),
        device=device.name,
        gpu=device.gpu,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **result,
    )
    key = hashlib.sha256(f"{timing.kind} {timing.device} {timing.code}".encode()).hexdigest()[:16]
    folder = files.make_folder(runs_folder / FOLDER)
    files.write_json(folder / f"{key}.json", dataclasses.asdict(timing))
    return timing


def _time_in_process(
    request: Mapping[str, Any], threads: int, on_iteration: Callable[[int], None]
) -> dict[str, Any]:
    """Run the timing process and return its result, or the reason why it has none."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with tempfile.TemporaryDirectory() as folder:
        names = ("request.json", "result.json", "log")
        request_file, result_file, log = (Path(folder) / name for name in names)
        files.write_json(request_file, request)
        command = [sys.executable, "-m", MODULE, str(request_file), str(result_file)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        deadline, reported = time.monotonic() + TIMEOUT_SECONDS, 0
        try:
            while process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
                done = (files.read_json(result_file) or {}).get("done", reported)
                if done != reported:
                    on_iteration(reported := done)
            timed_out = process.poll() is None
        finally:
            process.kill()
            process.wait()
        result: dict[str, Any] = files.read_json(result_file) or {}
        if {"seconds", "reason"} & result.keys():
            return result
        return _explain_failure(None if timed_out else process.returncode, log)


def _explain_failure(status: int | None, log: Path) -> dict[str, Any]:
    """Reason and message for a process that wrote no result.

    Args:
        status: exit status; None if it was stopped after `TIMEOUT_SECONDS`.
        log: what it printed.
    """
    if status is None:
        message = f"stopped after {TIMEOUT_SECONDS / 60:.0f} minutes"
        return {"reason": Reason.TIMEOUT.value, "message": message}
    if status == -signal.SIGKILL:  # by the kernel: protoseg kills it only after the timeout
        return {"reason": Reason.OUT_OF_MEMORY.value, "message": "killed"}
    message = files.read_last_line(log) or f"it ended with exit status {status}"
    return {"reason": Reason.CODE_ERROR.value, "message": message}


@functools.cache
def code_version() -> str:
    """Digest the code that the time of an iteration depends on: protoseg, torch, mmseg."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for source in SOURCES:
        origin = package / source
        for path in sorted(origin.glob("*.py")) if origin.is_dir() else [origin]:
            digest.update(path.name.encode() + path.read_bytes())
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.hexdigest()
