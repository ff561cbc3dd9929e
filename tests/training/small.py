"""Runs small enough for a test: 12 iterations on 16 images of 48×48 that the program makes."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from protoseg.datasets import shapes
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.spec.compose import Composer, parse_overrides
from protoseg.spec.fields import plain
from protoseg.spec.identity import run_id
from protoseg.spec.schema import RunSpec

REPOSITORY = Path(__file__).parents[2]
EXPERIMENTS = REPOSITORY / "experiments"
GENERATOR = {"name": "shapes", "version": 1, "seed": 0, "size": 48, "train": 16, "val": 4}
BASE = (
    *(f"dataset.generator.{key}={value}" for key, value in GENERATOR.items()),
    f"dataset.digest={shapes.generator_digest(GENERATOR)}",
    "dataset.counts.train=16",
    "dataset.counts.val=4",
    "augmentation.scale=[48,48]",
    "augmentation.crop_size=[48,48]",
    "schedule.iterations=12",
    "schedule.batch_size=4",
    "schedule.warmup_iterations=2",
    "method.num_prototypes=3",
    "method.momentum=0.9",
)


@functools.cache
def composer() -> Composer:
    return Composer(EXPERIMENTS)


def compose(*overrides: str) -> RunSpec:
    """A spec from experiments/, with overrides alone."""
    settings = [s for _, values in parse_overrides(overrides) for s in values]
    return composer().spec(settings, "test")


def small_spec(*overrides: str) -> RunSpec:
    """A small run on the built-in data; method paper unless overridden."""
    return compose(*BASE, *overrides)


def make_folder(place: Path, spec: RunSpec, data: Path, **launch: Any) -> RunFolder:
    """A run folder that waits for its worker."""
    folder = RunFolder(place / run_id(spec))
    settings = {
        "data": str(data),
        "weights": str(data / "weights"),
        "threads": 1,
        "workers": 0,
        "checkpoint_seconds": 60.0,
        **launch,
    }
    folder.create(plain(spec, identity=True), settings)
    return folder


def start_worker(folder: RunFolder, code: str = "") -> subprocess.Popen[str]:
    """The worker as its own process; ``code`` runs in it first."""
    arguments = ["-m", "protoseg.training.worker", str(folder.path)]
    if code:
        program = "import sys\nfrom protoseg.training import worker\n"
        arguments = ["-c", f"{program}{code}\nsys.exit(worker.main(sys.argv[1:]))", arguments[-1]]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def work(folder: RunFolder, code: str = "") -> tuple[int, str]:
    """Run the worker to its end: exit status, and what it printed beside its log."""
    process = start_worker(folder, code)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def ends(folder: RunFolder) -> list[str | None]:
    """The reasons with which the attempts ended, oldest first; None for a success."""
    return [attempt.reason and attempt.reason.value for attempt in folder.attempts()]


def log(folder: RunFolder, attempt: int = -1) -> str:
    """What an attempt has written; nothing before it has opened its log."""
    paths = sorted(folder.attempts_folder.glob("*/log.txt"))
    return paths[attempt].read_text() if paths else ""


def record_of(folder: RunFolder) -> dict[str, Any]:
    return read_record(folder.record)


def result(folder: RunFolder) -> dict[str, Any]:
    """Of a record what must be equal for equal specs: no times, no machine, no attempts."""
    record = record_of(folder)
    keys = ("spec", "metrics", "per_class", "parameters", "losses", "confusion")
    return json.loads(json.dumps({key: record[key] for key in keys}))


def cells(path: Path) -> Iterator[tuple[int, int, int, int]]:
    """(image, ground truth, prediction, count) out of a file of confusion counts."""
    with np.load(path) as file:
        c = int(file["num_classes"])
        for image, cell, count in zip(file["image"], file["cell"], file["count"], strict=True):
            yield int(image), int(cell) // c, int(cell) % c, int(count)
