"""A matrix with successive halving on the command line: plan, sweep, trials, explain, verify."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from cli.conftest import CommandLine
from cli.tuning.conftest import Tuned
from protoseg.cli.commands import sweep
from protoseg.config.matrix import PlannedRun
from protoseg.errors import ProtosegError
from protoseg.runs.results.choice import read_choice

FIRST = {1: 40.0, 2: 50.0, 3: 45.0, 4: 20.0}
"""mIoU of four trials of each row at the first rung: 2 and 3 go on."""
LAST = {2: 51.0, 3: 52.0}


@pytest.fixture
def halved(tuned: Tuned) -> Tuned:
    tuned.change("trials: 3", "trials: 4\n  halving: {rungs: [2]}")
    return tuned


def record_rung(halved: Tuned, number: int, values: Mapping[int, float]) -> list[PlannedRun]:
    """Record trials of both rows at a rung."""
    runs = [row.trials[trial - 1].runs[number] for row in halved.rows() for trial in values]
    for run, miou in zip(runs, [*values.values()] * 2, strict=True):
        halved.protoseg.record(run, miou, in_runs=True)
    return runs


def planned(protoseg: CommandLine, halved: Tuned) -> dict[str, str]:
    """Run -> state, of the runs in a plan."""
    runs = protoseg("plan", halved.path, "--json").json["runs"]
    return {run["run_id"]: run["state"] for run in runs}


def test_a_plan_has_the_trials_whose_rung_is_decided(protoseg: CommandLine, halved: Tuned) -> None:
    first = [trial.runs[0].run_id for row in halved.rows() for trial in row.trials]
    assert [*planned(protoseg, halved)] == first
    record_rung(halved, 0, FIRST)
    later = [run_id for run_id, state in planned(protoseg, halved).items() if state == "new"]
    assert later == [row.trials[number].run.run_id for row in halved.rows() for number in (1, 2)]
    out = protoseg("plan", halved.path).out
    assert "Successive halving: of 4 trials of a row go on 2 after iteration 2." in out


def test_a_rung_waits_for_all_its_trials(protoseg: CommandLine, halved: Tuned) -> None:
    for number, miou in {1: 40.0, 2: 50.0, 3: 45.0}.items():
        protoseg.record(halved.rows()[0].trials[number - 1].runs[0], miou, in_runs=True)
    assert len(planned(protoseg, halved)) == 8


def test_the_cost_counts_each_iteration_once(protoseg: CommandLine, halved: Tuned) -> None:
    """Records have 5 iterations a second; a trial that goes on has 2 of 4 iterations left."""
    rate = 5.0
    for number, miou in {1: 40.0, 2: 50.0, 3: 45.0}.items():  # no rung is decided
        for row in halved.rows():
            protoseg.record(row.trials[number - 1].runs[0], miou, in_runs=True)
    data = protoseg("plan", halved.path, "--json").json
    left = [run["left_seconds"] for run in data["runs"] if run["state"] == "new"]
    assert left == pytest.approx([2 / rate] * 2)
    # Two trials of each row go on, and there are four final runs of 6 iterations.
    later = data["to_be_chosen"][0]["left_seconds"]
    assert later == pytest.approx((2 * 2 * 2 + 4 * 6) / rate)
    record_rung(halved, 0, FIRST)
    data = protoseg("plan", halved.path, "--json").json
    left = [run["left_seconds"] for run in data["runs"] if run["state"] == "new"]
    assert left == pytest.approx([2 / rate] * 4)
    assert data["to_be_chosen"][0]["left_seconds"] == pytest.approx(4 * 6 / rate)


def test_only_trials_at_the_end_can_be_chosen(protoseg: CommandLine, halved: Tuned) -> None:
    record_rung(halved, 0, FIRST)
    record_rung(halved, 1, LAST)
    halved.record_finals((3, 3))
    result = protoseg("sweep", halved.path)
    assert (result.status, result.err) == (0, "")
    choice = read_choice(halved.choice)
    for row in choice["rows"]:
        assert row["chosen"] == 3
        assert row["rungs"][0]["promoted"] == [2, 3]
        assert [trial.get("stopped_after") for trial in row["trials"]] == [2, None, None, 2]
        assert [trial["value"] for trial in row["trials"]] == [40.0, 51.0, 52.0, 20.0]
    listed = protoseg("tables", halved.path, "--trials", "--json").json["trials"]["tuned"][:4]
    assert [(row["iterations"], row["miou"]) for row in listed] == [
        ("2", 40.0), ("4", 51.0), ("4", 52.0), ("2", 20.0),
    ]  # fmt: skip
    explained = protoseg("explain", halved.path, "Parametric").out
    assert "Next best: trial 2, 51.0000" in explained


def test_a_trial_that_scores_more_before_it_stops_is_not_chosen(
    protoseg: CommandLine, halved: Tuned
) -> None:
    record_rung(halved, 0, {1: 60.0, 2: 59.0, 3: 58.5, 4: 58.0})
    record_rung(halved, 1, {1: 50.0, 2: 51.0})
    halved.record_finals((2, 2))
    assert protoseg("sweep", halved.path).status == 0
    assert [row["chosen"] for row in read_choice(halved.choice)["rows"]] == [2, 2]
    explained = protoseg("explain", halved.path, "Parametric").out
    assert "Next best: trial 1, 50.0000" in explained


def test_equal_values_at_a_rung_keep_the_lowest_numbers(
    protoseg: CommandLine, halved: Tuned
) -> None:
    record_rung(halved, 0, dict.fromkeys((1, 2, 3, 4), 40.0))
    later = [run_id for run_id, state in planned(protoseg, halved).items() if state == "new"]
    assert later == [row.trials[number].run.run_id for row in halved.rows() for number in (0, 1)]


def test_figures_show_the_trials_that_were_compared_last(
    protoseg: CommandLine, halved: Tuned
) -> None:
    record_rung(halved, 0, FIRST)
    record_rung(halved, 1, LAST)
    figures = protoseg("figures", halved.path, "--kind", "trials", "--json").json["figures"]
    assert "Left out: 4 of 8 trials (ended early)." in json.dumps(figures)
    refused = protoseg("figures", halved.path, "--kind", "tuning_curves")
    assert refused.status == 2
    assert "its trials end early (tune.halving), so the best of n of them is unknown" in refused.err


def fail(protoseg: CommandLine, run: PlannedRun, reason: str) -> None:
    protoseg.lab.fail(run.spec, reason)


def test_a_failed_trial_does_not_hurry_the_rungs_after_it(
    protoseg: CommandLine, halved: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two rungs, a sweep that may miss trials still waits for interrupted ones."""
    for row in halved.rows():
        fail(protoseg, row.trials[3].runs[0], "bad_config")
        for number in (1, 2, 3):
            protoseg.record(row.trials[number - 1].runs[0], FIRST[number], in_runs=True)
        protoseg.record(row.trials[1].run, 30.0, in_runs=True)
        fail(protoseg, row.trials[2].run, "lost")  # it is resumed by the next sweep
    status = protoseg("status", halved.path, "--json").json["runs"]
    assert [run["state"] for run in status if run["iterations"] == 4] == ["done", "interrupted"] * 2

    def refuse(*_: object) -> None:
        raise ProtosegError("nothing is trained in this test.")

    monkeypatch.setattr(sweep, "_train_here", refuse)
    assert "nothing is trained" in protoseg("sweep", halved.path, "--allow-missing").err
    assert not halved.choice.exists()


def test_a_failed_trial_may_be_missing_at_its_rung(protoseg: CommandLine, halved: Tuned) -> None:
    for row in halved.rows():
        fail(protoseg, row.trials[0].runs[0], "bad_config")
        for number in (2, 3, 4):
            protoseg.record(row.trials[number - 1].runs[0], FIRST[number], in_runs=True)
        for number, miou in LAST.items():
            protoseg.record(row.trials[number - 1].run, miou, in_runs=True)
    halved.record_finals((3, 3))
    assert "trial 1 (failed: bad_config)" in protoseg("sweep", halved.path).err
    assert protoseg("sweep", halved.path, "--allow-missing").status == 0
    choice = read_choice(halved.choice)
    assert choice["allow_missing"]
    assert [row["chosen"] for row in choice["rows"]] == [3, 3]
    assert choice["rows"][0]["rungs"][0]["promoted"] == [2, 3]
    assert choice["rows"][0]["trials"][0]["value"] is None


def test_trials_on_different_images_are_not_compared(protoseg: CommandLine, halved: Tuned) -> None:
    record_rung(halved, 0, FIRST)
    run = halved.rows()[0].trials[0].runs[0]
    protoseg.record(run, 40.0, in_runs=True, provenance={"data_digest": "0" * 64})
    result = protoseg("plan", halved.path)
    assert result.status == 1
    assert "were trained or evaluated on different images (data_digest, holdout)" in result.err
