"""Times of `plan`, `status` and `tables` for many runs, without references."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protoseg.cli import main
from protoseg.config.compose import Composer
from protoseg.config.fields import to_plain
from protoseg.config.identity import spec_digest
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import PlannedRun
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import seal

ROOT = Path(__file__).parents[1]
TEMPLATE = "camvid-mobilenet_v2-segformer-parametric-k1-s0-*.json"


def write_matrix(folder: Path, runs: int) -> Path:
    """Write a matrix of ``runs`` runs: ten methods and ``runs / 10`` seeds."""
    path = folder / f"bench_{runs}.yaml"
    matrix = {
        "title": "Benchmark",
        "base": {"dataset": "shapes"},
        "grid": {"method.num_prototypes": list(range(1, 11))},
        "seeds": list(range(runs // 10)),
        "table": {"metrics": ["miou"]},
    }
    path.write_text(json.dumps(matrix))
    return path


def make_record(run: PlannedRun, template: dict[str, Any]) -> dict[str, Any]:
    """Make a sealed record of a run with the values of another run."""
    identity = {
        "run_id": run.run_id,
        "spec": to_plain(run.spec, identity=True),
        "spec_digest": spec_digest(run.spec),
    }
    return seal({**{k: v for k, v in template.items() if k != "digest"}, **identity})


def call_protoseg(*arguments: str) -> str:
    """Run a ``protoseg`` command and return its output."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(arguments) == 0
    return output.getvalue()


def create_runs(folder: Path, runs: int, done: float) -> list[str]:
    """Create runs with and without records; return the arguments of a command.

    A share ``done`` of the runs has records, and half of the others is started.
    """
    matrix = write_matrix(folder, runs)
    planned = load_matrix(Composer(ROOT / "experiments"), str(matrix), []).runs
    assert len(planned) == runs
    path = next((ROOT / "results" / "records").glob(TEMPLATE))
    template = json.loads(path.read_text())
    records = folder / "records"
    records.mkdir()
    num_done = int(runs * done)
    for run in planned[:num_done]:
        (records / f"{run.run_id}.json").write_text(json.dumps(make_record(run, template)))
    started = planned[num_done : num_done + (runs - num_done) // 2]
    for run in started:
        RunFolder(folder / "runs" / run.run_id).create(
            to_plain(run.spec, identity=True), {"data": "data"}
        )
    return [str(matrix), "--runs", str(folder / "runs"), "--results", str(folder)]


@pytest.mark.parametrize("runs", [1_000, 10_000])
@pytest.mark.parametrize("verb", ["plan", "status"])
def test_plan(case: Callable[..., None], tmp_path: Path, verb: str, runs: int) -> None:
    arguments = create_runs(tmp_path, runs, done=0.5)
    counted = json.loads(call_protoseg(verb, *arguments, "--json"))["counts"]
    assert counted["done"] == runs // 2
    name = f"protoseg {verb}, {runs:,} runs, half of them done"
    case(
        "planning and reporting",
        name,
        functools.partial(call_protoseg, verb, *arguments),
        rounds=(5, 10),
    )


def test_tables(case: Callable[..., None], tmp_path: Path) -> None:
    arguments = create_runs(tmp_path, 1_000, done=1.0)
    text = call_protoseg("tables", *arguments, "--markdown")
    assert text.count("| ") > 10
    name = "protoseg tables, 1,000 records"
    case(
        "planning and reporting",
        name,
        functools.partial(call_protoseg, "tables", *arguments),
        rounds=(5, 10),
    )
