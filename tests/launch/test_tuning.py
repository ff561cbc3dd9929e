"""A sweep of a matrix with a search that trains really: both stages, and kills in each of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reference.choices import main as reference_main
from waiting import wait_until

from launch.harness import Harness
from protoseg.runs.claim import live_holder
from protoseg.runs.folder import RunFolder
from protoseg.runs.results.choice import read_choice

MATRIX = Path(__file__).parents[1] / "cli" / "tuning" / "tuned.yaml"
"""Two rows x three trials, then two rows x two seeds."""
HOLDOUT = "{metric: miou, on: holdout, share: 0.25, blocks: 3, gap: 1}"
OPTIONS = ("--jobs", "2", "--threads", "1", "--checkpoint-seconds", "0")

pytestmark = pytest.mark.slow


def copy_matrix(harness: Harness, select: str = HOLDOUT) -> str:
    """Copy the matrix into the folder of the harness; settings are selected on a holdout."""
    path = harness.folder / "tuned.yaml"
    text = MATRIX.read_text()
    assert "{metric: miou, on: val}" in text
    path.write_text(text.replace("{metric: miou, on: val}", select))
    return str(path)


def choice_of(harness: Harness) -> Path:
    return harness.runs / "choices" / "tuned.json"


def count_records(harness: Harness) -> int:
    return len(list(harness.runs.glob("*/record.json")))


def read_results(harness: Harness) -> dict[str, Any]:
    """Run id -> metrics and losses, of every record."""
    records = [json.loads(p.read_text()) for p in harness.runs.glob("*/record.json")]
    return {record["run_id"]: (record["metrics"], record["losses"]) for record in records}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Harness:
    """A sweep through both stages in one call."""
    harness = Harness(tmp_path_factory.mktemp("tuned"), data)
    result = harness.run("sweep", copy_matrix(harness), *OPTIONS)
    assert result.returncode == 0, result.stderr
    assert result.stdout.index("6 runs: 6 new.") < result.stdout.index("4 runs: 4 new.")
    return harness


def test_one_call_trains_trials_and_final_runs(finished: Harness) -> None:
    choice = read_choice(choice_of(finished))
    assert count_records(finished) == 6 + 4
    for row in choice["rows"]:
        values = {}
        for trial in row["trials"]:
            record = json.loads((finished.runs / trial["run_id"] / "record.json").read_text())
            assert record["metrics"]["miou"] == trial["value"]
            assert record["spec"]["schedule"]["iterations"] == 4
            assert record["spec"]["evaluation"]["holdout"]["blocks"] == 3
            assert record["metrics"]["images"] == 3
            values[trial["number"]] = trial["value"]
        best = max(values.values())
        assert row["chosen"] == min(number for number, value in values.items() if value == best)


def test_the_final_runs_train_on_all_images(finished: Harness) -> None:
    choice = read_choice(choice_of(finished))
    trials = {trial["run_id"] for row in choice["rows"] for trial in row["trials"]}
    finals = [p for p in finished.runs.glob("*/record.json") if p.parent.name not in trials]
    assert len(finals) == 4
    for path in finals:
        record = json.loads(path.read_text())
        assert record["spec"]["evaluation"].get("holdout") is None
        assert (record["metrics"]["images"], record["spec"]["schedule"]["iterations"]) == (4, 6)


def test_results_are_published_and_verified(harness: Harness, finished: Harness) -> None:
    harness.copy(finished)
    matrix = copy_matrix(harness)
    tables = harness.run("tables", matrix, "--keep-records")
    assert (
        "Tuned: 3 trials per row, each of 4 iterations, selected by mIoU on holdout (25% of "
        in (tables.stdout)
    )
    assert "oracle" not in tables.stdout
    results = harness.folder / "results"
    # A script without code of protoseg comes to the same trials.
    assert reference_main(str(results / "choices" / "tuned.json"), str(results / "records")) == 0
    shutil.rmtree(harness.runs)
    verified = harness.run("verify", matrix)
    assert verified.returncode == 0, verified.stderr
    assert "choices          1  ok" in verified.stdout


def test_final_runs_are_evaluated_on_another_split(harness: Harness, finished: Harness) -> None:
    harness.copy(finished)
    matrix, results = copy_matrix(harness), harness.folder / "results"
    choice = read_choice(choice_of(harness))["digest"]
    evaluated = harness.run("evaluate", matrix, "--split", "train")
    assert evaluated.returncode == 0, evaluated.stderr
    evaluations = list((harness.runs / "evaluations").glob("*.train.*.json"))
    assert len(evaluations) == 4
    for path in evaluations:
        evaluation = json.loads(path.read_text())
        assert (evaluation["choice"], evaluation["metrics"]["images"]) == (choice, 12)
    harness.run("tables", matrix, "--keep-records")
    tables = harness.run("tables", matrix, "--split", "train", "--keep-records")
    assert f"after the settings of all rows were chosen (choice {choice[:10]})" in tables.stdout
    shutil.rmtree(harness.runs)
    verified = harness.run("verify", matrix)
    assert verified.returncode == 0, verified.stderr
    assert "evaluations 4 ok" in " ".join(verified.stdout.split())
    # Without the choice the evaluations count for nothing.
    (results / "choices" / "tuned.json").unlink()
    assert "is not in choices" in harness.run("verify").stderr
    refused = harness.run("tables", matrix, "--split", "train")
    assert refused.returncode == 1
    assert "its settings are not chosen yet" in refused.stderr


def test_more_trials_train_only_the_new_ones(harness: Harness, finished: Harness) -> None:
    harness.copy(finished)
    matrix = copy_matrix(harness)
    Path(matrix).write_text(Path(matrix).read_text().replace("trials: 3", "trials: 4"))
    refused = harness.run("sweep", matrix, *OPTIONS)
    assert refused.returncode == 2
    assert "Move it away to choose again." in refused.stderr
    choice_of(harness).unlink()
    result = harness.run("sweep", matrix, *OPTIONS)
    assert result.returncode == 0, result.stderr
    assert "8 runs: 6 done, 2 new." in result.stdout or "8 runs: 2 new, 6 done." in result.stdout


def test_a_halving_trains_the_best_trials_further(harness: Harness, finished: Harness) -> None:
    matrix = Path(copy_matrix(harness))
    matrix.write_text(matrix.read_text().replace("trials: 3", "trials: 3\n  halving: {rungs: [2]}"))
    result = harness.run("sweep", str(matrix), *OPTIONS)
    assert result.returncode == 0, result.stderr
    steps = ["6 runs: 6 new.", "8 runs: 2 new, 6 done.", "4 runs: 4 new."]
    assert sorted(steps, key=result.stdout.index) == steps
    choice, whole = read_choice(choice_of(harness)), read_choice(choice_of(finished))
    for row, other in zip(choice["rows"], whole["rows"], strict=True):
        (rung,) = row["rungs"]
        values = {trial["number"]: trial["value"] for trial in rung["trials"]}
        assert rung["promoted"] == [row["chosen"]] == [max(values, key=lambda n: (values[n], -n))]
        chosen = row["trials"][row["chosen"] - 1]
        record = json.loads((harness.runs / chosen["run_id"] / "record.json").read_text())
        continued = record["provenance"]["continued"]
        assert continued["run_id"] == rung["trials"][row["chosen"] - 1]["run_id"]
        # The same bits as the trial that was trained in one piece.
        assert chosen == other["trials"][row["chosen"] - 1]
    tables = harness.run("tables", str(matrix), "--keep-records")
    assert "Successive halving: of 3 trials of a row go on 1 after iteration 2." in tables.stdout
    results = harness.folder / "results"
    assert reference_main(str(results / "choices" / "tuned.json"), str(results / "records")) == 0
    shutil.rmtree(harness.runs)
    verified = harness.run("verify", str(matrix))
    assert verified.returncode == 0, verified.stderr
    assert "choices          1  ok" in verified.stdout


def test_kills_in_both_stages_change_nothing(harness: Harness, finished: Harness) -> None:
    matrix = copy_matrix(harness)
    events: tuple[Callable[[], bool], ...] = (
        lambda: count_records(harness) >= 2,  # in the first stage
        choice_of(harness).exists,  # between the stages
        lambda: count_records(harness) >= 6 + 2,  # in the second stage
    )
    for event in events:
        process = harness.start("sweep", matrix, *OPTIONS)
        wait_until(lambda: event() or process.poll() is not None, "a stage", logs=harness.logs())  # noqa: B023
        assert process.poll() is None, "the sweep ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        end_workers(harness)
    result = harness.run("sweep", matrix, *OPTIONS)
    assert result.returncode == 0, result.stderr
    assert choice_of(harness).read_bytes() == choice_of(finished).read_bytes()
    assert read_results(harness) == read_results(finished)


def end_workers(harness: Harness) -> None:
    """Kill the workers of a killed sweep too."""
    for path in harness.runs.glob("*/spec.json"):
        if holder := live_holder(RunFolder(path.parent).claim):
            os.kill(holder.pid, signal.SIGKILL)
            wait_until(lambda: not live_holder(RunFolder(path.parent).claim), "an end")  # noqa: B023
