"""Small runs for tests: 12 iterations on 16 generated images of 48×48 pixels."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from forked import ForkedProcess, start_forked
from waiting import finish, log_tails, wait_until

from protoseg.cli.stages import is_unchosen, make_example
from protoseg.config.compose import Composer
from protoseg.config.fields import to_plain
from protoseg.config.identity import run_id
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix
from protoseg.config.overrides import parse_overrides
from protoseg.config.schema import RunSpec
from protoseg.datasets import shapes
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record

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
TREE = "dataset.hierarchy={ground: null, round: [disk, ring], cornered: [box, triangle, bar]}"
"""A tree of the classes of the built-in data."""
HIERARCHICAL = ("method=hierarchical", "~method.num_prototypes", "~method.momentum", TREE)


@functools.cache
def composer() -> Composer:
    return Composer(EXPERIMENTS)


@functools.cache
def matrix(name: str) -> Matrix:
    """A matrix of experiments/, loaded once; of a search, with the values of the first trials."""
    loaded = load_matrix(composer(), name)
    return make_example(loaded) if is_unchosen(loaded) else loaded


def compose(*overrides: str) -> RunSpec:
    """A spec from experiments/ with overrides."""
    settings = [s for _, values in parse_overrides(overrides) for s in values]
    return composer().spec(settings, "test")


def small_spec(*overrides: str) -> RunSpec:
    """A small run on the built-in data; the method is ``paper`` unless overridden."""
    return compose(*BASE, *overrides)


def make_folder(parent: Path, spec: RunSpec, data: Path, **launch: Any) -> RunFolder:
    """Make a run folder, ready for a worker; ``launch`` replaces launch settings."""
    folder = RunFolder(parent / run_id(spec))
    settings = {
        "data": str(data),
        "weights": str(data / "weights"),
        "threads": 1,
        "workers": 0,
        "checkpoint_seconds": 60.0,
        **launch,
    }
    folder.create(to_plain(spec, identity=True), settings)
    return folder


WORKER_MODULES = (
    "protoseg.training.worker",
    "protoseg.training.run",
    "protoseg.training.distributed.process_group",
    "protoseg.training.distributed.rendezvous",
    # Imported when the objects of a training are built.
    "mmseg.datasets",
    "mmseg.engine",
    "mmseg.evaluation",
    "torch._dynamo",
    "PIL.PngImagePlugin",
)
"""Modules that the fork server imports before it forks a worker."""
PAUSE = """
import time
from protoseg.training.loop import TrainingLoop
report = TrainingLoop._report
def pause(self, iteration):
    report(self, iteration)
    while iteration == {} and self.stop.signal_number is None:
        time.sleep(0.01)
TrainingLoop._report = pause
"""
"""Template of `pause_after`. The pause begins after the log line and the checkpoint of the
iteration are on disk."""


def pause_after(iteration: int) -> str:
    """Code for `start_worker` that pauses the training after an iteration until a signal."""
    return PAUSE.format(iteration)


def worker_environment() -> dict[str, str]:
    """The environment of a worker outside SLURM."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return {**environment, "OMP_NUM_THREADS": "1"}


def start_worker(
    folder: RunFolder,
    code: str = "",
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    process_group: int | None = None,
    output: Path | None = None,
) -> ForkedProcess:
    """Start the worker in a fork of the fork server, which has imported torch and mmseg.

    Args:
        code: code that the process runs first.
        arguments: command-line arguments after the run folder.
        environment: by default `worker_environment`.
        process_group: as for `subprocess.Popen`.
        output: a file for the output that does not go to the attempt's log.
    """
    program = f"import sys\nfrom protoseg.training import worker\n{code}\n"
    return start_forked(
        f"{program}sys.exit(worker.main(sys.argv[1:]))",
        [str(folder.path), *arguments],
        modules=WORKER_MODULES,
        environment=worker_environment() if environment is None else environment,
        process_group=process_group,
        output=output,
    )


def start_new_worker(folder: RunFolder) -> subprocess.Popen[str]:
    """Start the worker as a new Python process, as users and SLURM do; takes seconds."""
    return subprocess.Popen(
        [sys.executable, "-m", "protoseg.training.worker", str(folder.path)],
        env=worker_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def work(folder: RunFolder, code: str = "") -> tuple[int, str]:
    """Run the worker to its end; its exit status, and its output outside the attempt's log."""
    process = start_worker(folder, code)
    output, _ = finish(process, logs=log_paths(folder))
    assert process.returncode is not None
    return process.returncode, output


def log_paths(folder: RunFolder) -> Iterator[Path]:
    """The logs of all attempts and ranks; found when the iterator is used."""
    yield from sorted(folder.attempts_folder.glob("*/log*.txt"))


def wait_for_checkpoint(folder: RunFolder, iteration: int, *processes: ForkedProcess) -> None:
    """Wait until the checkpoint of an iteration is on disk.

    Raises:
        AssertionError: a process of the run ended first, or the deadline passed.
    """
    digest_file = folder.checkpoints / f"iter_{iteration:08}.json"

    def is_over() -> bool:
        return digest_file.exists() or any(process.poll() is not None for process in processes)

    what = f"the checkpoint of iteration {iteration}"
    wait_until(is_over, what, logs=log_paths(folder))
    assert digest_file.exists(), f"a process ended before {what}{log_tails(log_paths(folder))}"


def ends(folder: RunFolder) -> list[str | None]:
    """The reasons of the ends of all attempts, oldest first; None for success."""
    return [attempt.reason and attempt.reason.value for attempt in folder.attempts()]


def log(folder: RunFolder, attempt: int = -1) -> str:
    """The log of an attempt; empty before the log is opened."""
    paths = sorted(folder.attempts_folder.glob("*/log.txt"))
    return paths[attempt].read_text() if paths else ""


def record_of(folder: RunFolder) -> dict[str, Any]:
    return read_record(folder.record)


def result(folder: RunFolder) -> dict[str, Any]:
    """The part of a record that equal specs have in common: no times, machine or attempts."""
    record = record_of(folder)
    keys = ("spec", "metrics", "per_class", "parameters", "losses", "confusion")
    values = {key: record[key] for key in keys} | {"curve": record.get("curve")}
    return json.loads(json.dumps(values))


def cells(path: Path) -> Iterator[tuple[int, int, int, int]]:
    """(image, ground truth, prediction, count) of each cell in a file of confusion counts."""
    with np.load(path) as file:
        num_classes = int(file["num_classes"])
        for image, cell, count in zip(file["image"], file["cell"], file["count"], strict=True):
            truth, prediction = divmod(int(cell), num_classes)
            yield int(image), truth, prediction, int(count)
