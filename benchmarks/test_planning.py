"""How long `plan`, `status` and `tables` take for many runs; there is nothing to compare with."""

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
from protoseg.config.fields import plain
from protoseg.config.identity import spec_digest
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import PlannedRun
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import seal

ROOT = Path(__file__).parents[1]
TEMPLATE = "camvid-mobilenet_v2-segformer-parametric-k1-s0-*.json"


def matrix_file(folder: Path, runs: int) -> Path:
    """A matrix of ten methods and so many seeds that there are ``runs`` runs."""
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


def record(run: PlannedRun, template: dict[str, Any]) -> dict[str, Any]:
    """A sealed record of a run, with the numbers of another."""
    own = {
        "run_id": run.run_id,
        "spec": plain(run.spec, identity=True),
        "spec_digest": spec_digest(run.spec),
    }
    return seal({**{k: v for k, v in template.items() if k != "digest"}, **own})


def call(*words: str) -> str:
    """What a call of ``protoseg`` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(words) == 0
    return printed.getvalue()


def laboratory(folder: Path, runs: int, done: float) -> list[str]:
    """Runs of which a part have records, as many more have begun; the words of a call."""
    matrix = matrix_file(folder, runs)
    planned = load_matrix(Composer(ROOT / "experiments"), str(matrix), []).runs
    assert len(planned) == runs
    path = next((ROOT / "results" / "records").glob(TEMPLATE))
    template = json.loads(path.read_text())
    records = folder / "records"
    records.mkdir()
    measured = int(runs * done)
    for run in planned[:measured]:
        (records / f"{run.run_id}.json").write_text(json.dumps(record(run, template)))
    begun = planned[measured : measured + (runs - measured) // 2]
    for run in begun:
        RunFolder(folder / "runs" / run.run_id).create(
            plain(run.spec, identity=True), {"data": "data"}
        )
    return [str(matrix), "--runs", str(folder / "runs"), "--results", str(folder)]


@pytest.mark.parametrize("runs", [1_000, 10_000])
@pytest.mark.parametrize("verb", ["plan", "status"])
def test_plan(case: Callable[..., None], tmp_path: Path, verb: str, runs: int) -> None:
    words = laboratory(tmp_path, runs, done=0.5)
    counted = json.loads(call(verb, *words, "--json"))["counts"]
    assert counted["done"] == runs // 2
    name = f"protoseg {verb}, {runs:,} runs, half of them done"
    case("planning and reporting", name, functools.partial(call, verb, *words), rounds=(5, 10))


def test_tables(case: Callable[..., None], tmp_path: Path) -> None:
    words = laboratory(tmp_path, 1_000, done=1.0)
    text = call("tables", *words, "--markdown")
    assert text.count("| ") > 10
    name = "protoseg tables, 1,000 records"
    case("planning and reporting", name, functools.partial(call, "tables", *words), rounds=(5, 10))
