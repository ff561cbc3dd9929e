"""Times of `plan`, `status` and `tables` for many runs, and of a search next to plain runs."""

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
from protoseg.config.tuning.expand import make_trial_matrix
from protoseg.report.tuning.choose import choose_settings
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import seal
from protoseg.runs.store import RecordStore

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


def write_search(folder: Path, runs: int) -> Path:
    """Write a matrix with a search of ``runs`` trials: ten rows of ``runs / 10`` trials."""
    path = folder / f"bench_search_{runs}.yaml"
    rows = [{"label": f"K = {number}", "method.num_prototypes": number} for number in range(1, 11)]
    matrix = {
        "title": "Benchmark",
        "base": {"dataset": "shapes", "schedule.norm_decay": "never"},
        "rows": rows,
        "seeds": [0, 1, 2],
        "tune": {
            "search": {
                "schedule.learning_rate": {"log_uniform": [3e-4, 1e-2]},
                "schedule.head_lr_mult": [1, 3, 10],
            },
            "trials": runs // 10,
            "base": {"seed": 100},
            "select": {"metric": "miou", "on": "val"},
        },
        "table": {"metrics": ["miou"]},
    }
    path.write_text(json.dumps(matrix))
    return path


def load_runs(matrix: Path) -> tuple[PlannedRun, ...]:
    """Load a matrix and return its runs, or its trials."""
    loaded = load_matrix(Composer(ROOT / "experiments"), str(matrix), [])
    return loaded.runs if loaded.tuning is None else make_trial_matrix(loaded).runs


def choose(matrix: Path, folder: Path) -> None:
    """Load a matrix with a search and choose the settings of its rows."""
    loaded = load_matrix(Composer(ROOT / "experiments"), str(matrix), [])
    choice = choose_settings(loaded, RecordStore([folder / "records"], folder / "runs")).choice
    assert choice is not None
    assert len(choice["rows"]) == 10


def create_runs(
    folder: Path, runs: int, done: float, write: Callable[[Path, int], Path] = write_matrix
) -> list[str]:
    """Create runs with and without records; return the arguments of a command.

    A share ``done`` of the runs has records, and half of the others is started.
    """
    folder.mkdir(exist_ok=True)
    matrix = write(folder, runs)
    planned = load_runs(matrix)
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


def test_plan_of_a_search(case: Callable[..., None], tmp_path: Path) -> None:
    runs = 1_000
    plain = create_runs(tmp_path / "plain", runs, done=0.5)
    search = create_runs(tmp_path / "search", runs, done=0.5, write=write_search)
    assert json.loads(call_protoseg("plan", *search, "--json"))["counts"]["done"] == runs // 2
    case(
        "planning and reporting",
        f"protoseg plan, 10 rows × {runs // 10} trials, half of them done",
        functools.partial(call_protoseg, "plan", *search),
        {f"{runs:,} plain runs": functools.partial(call_protoseg, "plan", *plain)},
        rounds=(5, 10),
    )


def test_choice(case: Callable[..., None], tmp_path: Path) -> None:
    runs = 1_000
    plain = create_runs(tmp_path / "plain", runs, done=1.0)
    search = create_runs(tmp_path / "search", runs, done=1.0, write=write_search)
    case(
        "planning and reporting",
        f"choice among {runs:,} trials of 10 rows",
        functools.partial(choose, Path(search[0]), tmp_path / "search"),
        {f"tables of {runs:,} plain runs": functools.partial(call_protoseg, "tables", *plain)},
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
