"""Short timings of runs that no record is like, each in a process of its own.

They lie beside the run folders, ``RUNS/.timings/HASH.json``, one for each kind of run, device and
state of the code: what was timed once is known to the next plan, also on a machine without a GPU.
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
from protoseg.config.fields import plain
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError
from protoseg.planning.workload import describe_workload, workload_digest
from protoseg.runs.states import Reason

FOLDER = ".timings"
ITERATIONS = 10
MODULE = "protoseg.training.timing"
SOURCES = ("core", "models", "training/parts.py", "training/recipe.py", "training/timing.py")
"""Where the code of an iteration lies, below the package."""
PACKAGES = ("torch", "onedl-mmsegmentation", "mmsegmentation")
PATIENCE = 15 * 60.0
"""Seconds after which a timing is given up."""
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Device:
    """What iterations were timed on."""

    name: str
    """The GPU's, or the processor's with the number of threads."""
    gpu: bool


@dataclass(frozen=True)
class Timing:
    """What an iteration of a kind of run takes on a device."""

    kind: str
    """Its `protoseg.planning.workload.workload_digest`."""
    what: str
    """The kind for people."""
    code: str
    device: str
    gpu: bool
    iterations: int
    seconds: float
    """The median of the iterations."""
    fastest: float
    slowest: float
    memory_mib: float
    time: str


@dataclass(frozen=True)
class Failure:
    """Why a kind of run could not be timed."""

    what: str
    message: str
    memory: bool
    """It does not fit into the memory of the device, which is an answer."""


def this_device(threads: int) -> Device:
    """What a run is trained on here, as torch says in a process of its own.

    Raises:
        ProtosegError: torch can not be asked.
    """
    command = [sys.executable, "-m", MODULE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        name = found["device"] + ("" if found["gpu"] else f", {_threads(threads)}")
        return Device(name, found["gpu"])
    except (IndexError, ValueError, KeyError) as error:
        raise ProtosegError(f"plan --time: torch can not be asked: {_last(done.stderr)}") from error


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number > 1)}"


def read(runs_folder: Path) -> list[Timing]:
    """All timings of the code as it is, oldest first; those that can not be read are left out."""
    paths = list((runs_folder / FOLDER).glob("*.json"))
    found = []
    for data in map(files.read_json, paths):
        with contextlib.suppress(TypeError):
            found.append(Timing(**data))
    return sorted((t for t in found if t.code == code_version()), key=lambda t: t.time)


def chosen(timings: Iterable[Timing], device: Device | None = None) -> dict[str, Timing]:
    """The one timing of each kind: of that device, else of a GPU, else the newest."""

    def rank(timing: Timing) -> tuple[bool, bool, str]:
        return (device is not None and timing.device == device.name, timing.gpu, timing.time)

    return {timing.kind: timing for timing in sorted(timings, key=rank)}


def take(
    spec: RunSpec,
    runs_folder: Path,
    device: Device,
    *,
    iterations: int,
    threads: int,
    on_iteration: Callable[[int], None] = lambda done: None,
) -> Timing | Failure:
    """Time the kind of a run on this machine, and keep what came of it.

    Args:
        device: as `this_device` names it.
        iterations: at most; fewer where they take long.
        threads: of torch.
        on_iteration: told how many are done.

    Raises:
        ProtosegError: the folder can not be written.
    """
    request = {"spec": plain(spec), "iterations": iterations, "threads": threads}
    found = _ask(request, threads, on_iteration)
    what = describe_workload(spec)
    if "seconds" not in found:
        memory = found["reason"] == Reason.OUT_OF_MEMORY.value
        message = f"does not fit into the memory of {device.name}" if memory else found["message"]
        return Failure(what, message, memory)
    timing = Timing(
        kind=workload_digest(spec),
        what=what,
        code=code_version(),
        device=device.name,
        gpu=device.gpu,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **found,
    )
    key = hashlib.sha256(f"{timing.kind} {timing.device} {timing.code}".encode()).hexdigest()[:16]
    folder = files.make_folder(runs_folder / FOLDER)
    files.write_json(folder / f"{key}.json", dataclasses.asdict(timing))
    return timing


def _ask(
    request: Mapping[str, Any], threads: int, on_iteration: Callable[[int], None]
) -> dict[str, Any]:
    """What the process that times answers, or that it can not answer any more."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with tempfile.TemporaryDirectory() as place:
        given, answer, log = (Path(place) / name for name in ("given.json", "answer.json", "log"))
        files.write_json(given, request)
        command = [sys.executable, "-m", MODULE, str(given), str(answer)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        end, seen = time.monotonic() + PATIENCE, 0
        try:
            while process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
                done = (files.read_json(answer) or {}).get("done", seen)
                if done != seen:
                    on_iteration(seen := done)
            late = process.poll() is None
        finally:
            process.kill()
            process.wait()
        found: dict[str, Any] = files.read_json(answer) or {}
        if {"seconds", "reason"} & found.keys():
            return found
        return _silence(None if late else process.returncode, log.read_text(errors="replace"))


def _silence(status: int | None, log: str) -> dict[str, Any]:
    """Why a process gave no answer.

    Args:
        status: with which it ended; None where it did not.
    """
    if status is None:
        message = f"given up after {PATIENCE / 60:.0f} minutes"
        return {"reason": Reason.TIMEOUT.value, "message": message}
    if status == -signal.SIGKILL:  # nobody else ends it so
        return {"reason": Reason.OUT_OF_MEMORY.value, "message": "killed"}
    return {"reason": Reason.CODE_ERROR.value, "message": _last(log) or f"it ended with {status}"}


def _last(text: str) -> str:
    return ([line for line in text.splitlines() if line.strip()] or [""])[-1]


@functools.cache
def code_version() -> str:
    """A digest of what an iteration's time may depend on: protoseg's own modules, torch, mmseg."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for source in SOURCES:
        place = package / source
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(path.name.encode() + path.read_bytes())
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.hexdigest()
