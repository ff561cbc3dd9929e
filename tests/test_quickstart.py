"""`make quickstart`: the sweep, the table in all formats, and a second call."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import DEADLINE, finish, wait_until

ROOT = Path(__file__).parents[1]
SMALL = {
    "dataset.generator.train": 16,
    "dataset.generator.val": 4,
    "dataset.counts": {"train": 16, "val": 4},
    "dataset.digest": "unpinned",
    "schedule.iterations": 4,
    "schedule.batch_size": 2,
    "schedule.warmup_iterations": 1,
}
"""Changes of the matrix with which a run takes a fraction of a second."""


def recipe_lines() -> list[list[str]]:
    """The commands of the Makefile's target, run by this Python instead of that of the venv."""
    result = subprocess.run(
        ["make", "-n", "quickstart", "READY=/dev/null", "BIN=BIN"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("BIN/protoseg")]
    assert len(lines) == 2, result.stdout
    return [[sys.executable, "-m", "protoseg.cli", *line[1:]] for line in lines]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Environment variables with temporary folders for runs, data and results."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROTOSEG_")}
    folders = {f"PROTOSEG_{name.upper()}": str(tmp_path / name) for name in ("runs", "data")}
    return {**kept, **folders, "PROTOSEG_RESULTS": str(tmp_path / "results")}


def run_recipe(environment: Mapping[str, str], folder: Path) -> str:
    """Run the commands of the target and return their output.

    Args:
        folder: folder of the file with the output.
    """
    log = folder / "printed.txt"
    log.write_text("")
    for line in recipe_lines():
        with log.open("a") as file:
            process = subprocess.Popen(
                line, cwd=ROOT, env=environment, stdout=file, stderr=file, text=True
            )
        try:
            wait_for_runs(process, Path(environment["PROTOSEG_RUNS"]), log)
            assert process.wait() == 0, log.read_text()
        finally:
            process.terminate()  # a sweep stops its workers
            finish(process, logs=[log])
    return log.read_text()


def wait_for_runs(process: subprocess.Popen[str], runs: Path, log: Path) -> None:
    """Wait until a command exits; the deadline is extended with each finished run."""

    def count() -> int:
        return len(list(runs.glob("*/record.json")))

    while process.poll() is None:
        finished = count()
        wait_until(
            lambda finished=finished: process.poll() is not None or count() > finished,
            f"the end of {process.args}, or its run number {finished + 1}",
            logs=[log, *runs.glob("*/attempts/*/log.txt")],
            poll_seconds=0.1,
        )


def copy_experiments(
    environment: Mapping[str, str], folder: Path, **changes: Any
) -> dict[str, str]:
    """Copy the experiments with another matrix `quickstart`, and name the copy.

    Args:
        changes: keys of the matrix; a mapping is merged into that of the matrix.

    Returns:
        The environment with the folder of the copy.
    """
    experiments = folder / "experiments"
    shutil.copytree(ROOT / "experiments", experiments)
    path = experiments / "matrices" / "quickstart.yaml"
    matrix = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        matrix[key] = matrix[key] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(matrix, sort_keys=False))
    return {**environment, "PROTOSEG_EXPERIMENTS": str(experiments)}


def check_recipe(environment: Mapping[str, str], folder: Path, seeds: int) -> dict[str, float]:
    """Run the target twice: the first call trains all runs, the second only builds the table.

    Args:
        folder: folder of the file with the output.
        seeds: number of seeds of the matrix.

    Returns:
        Row of the table -> mIoU in %.
    """
    first = run_recipe(environment, folder)
    finished = [line for line in first.splitlines() if "done" in line and "shapes" in line]
    assert len(finished) >= 3 * seeds, first
    assert "ProtoSeg, K = 4" in first
    tables = Path(environment["PROTOSEG_RESULTS"]) / "tables"
    for ending in ("md", "tex", "csv", "html"):
        assert (tables / f"quickstart.{ending}").stat().st_size > 0
    runs = Path(environment["PROTOSEG_RUNS"])
    records = {path: path.stat().st_mtime_ns for path in runs.glob("*/record.json")}
    assert len(records) == 3 * seeds

    second = run_recipe(environment, folder)
    assert "Nothing to do" in second
    # One row of the table, and one of its comparisons.
    assert re.sub(r"\s+", " ", second).count("ProtoSeg, K = 4") == 2
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/record.json")} == records
    assert [len(list(path.parent.glob("attempts/*"))) for path in records] == [1] * 3 * seeds

    with open(tables / "quickstart.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "miou"]
    assert [row["n"] for row in rows] == [str(seeds)] * 3
    return {row["label"]: float(row["mean"]) for row in rows}


def test_make_quickstart_trains_a_small_copy_of_the_matrix(
    environment: dict[str, str], tmp_path: Path
) -> None:
    check_recipe(copy_experiments(environment, tmp_path, base=SMALL), tmp_path, seeds=3)


@pytest.mark.slow
def test_make_quickstart_trains_models_that_segment(
    environment: dict[str, str], tmp_path: Path
) -> None:
    # One seed is enough to see that each row learns.
    means = check_recipe(copy_experiments(environment, tmp_path, seeds=[0]), tmp_path, seeds=1)
    # A model that predicts "ground" for every pixel reaches 14%.
    assert min(means.values()) > 40, means
