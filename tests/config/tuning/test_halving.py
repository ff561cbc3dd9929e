"""Successive halving: its rungs, the runs of trials that end early, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from config.tuning.test_tune import ROWS, TUNE, Expand, expect_error, tuning_of
from protoseg.config.identity import run_id
from protoseg.config.tuning.expand import finalise, make_trial_matrix
from protoseg.config.tuning.halving import Halving

HALVED = TUNE.replace("trials: 3", "trials: 6\n  halving: {rungs: [5, 10], factor: 2}")


def test_each_rung_keeps_a_part_of_the_trials() -> None:
    halving = Halving((250, 500), 2)
    assert halving.list_budget(12, 1000) == [(12, 250), (6, 500), (3, 1000)]
    assert Halving((100,), 3).list_budget(10, 400) == [(10, 100), (3, 400)]
    assert Halving().list_budget(12, 1000) == [(12, 1000)]


def test_a_trial_has_a_run_for_each_rung(expand: Expand) -> None:
    tuning = tuning_of(expand(ROWS + HALVED))
    for row in tuning.rows:
        for trial in row.trials:
            ends = [run.spec.schedule.stop_after for run in trial.runs]
            assert ends == [5, 10, 0]
            assert [run.start for run in trial.runs] == [0, 5, 10]
            for run in trial.runs:
                schedule = dataclasses.replace(run.spec.schedule, stop_after=0)
                assert dataclasses.replace(run.spec, schedule=schedule) == trial.run.spec
            assert len({run_id(run.spec) for run in trial.runs}) == 3


def test_only_trials_that_go_on_are_planned_further(expand: Expand) -> None:
    matrix = expand(ROWS + HALVED)
    tuning = tuning_of(matrix)
    first = make_trial_matrix(matrix).runs
    assert [run.spec.schedule.stop_after for run in first] == [5] * 12
    promoted = {"Parametric": ((2, 3, 5),)}
    tuning = dataclasses.replace(tuning, promoted=promoted)
    second = make_trial_matrix(dataclasses.replace(matrix, tuning=tuning)).runs
    assert len(second) == 15
    assert [run.axes["trial"] for run in second if run.spec.schedule.stop_after == 10] == [2, 3, 5]
    assert tuning.count_rungs(tuning.rows[0]) == {1: 0, 2: 1, 3: 1, 4: 0, 5: 1, 6: 0}


def test_a_choice_has_the_trials_that_went_on(expand: Expand) -> None:
    rungs = [{"promoted": [1, 2, 4]}, {"promoted": [4]}]
    rows = [
        {"row": name, "chosen": 4, "rungs": rungs} for name in ("Parametric", "ProtoSeg, K = 4")
    ]
    matrix = finalise(expand(ROWS + HALVED), {"rows": rows})
    assert tuning_of(matrix).promoted["Parametric"] == ((1, 2, 4), (4,))
    assert len(make_trial_matrix(matrix).runs) == 2 * (6 + 3 + 1)


def test_trials_without_halving_keep_their_ids(expand: Expand) -> None:
    plain, halved = (tuning_of(expand(ROWS + text)) for text in (TUNE, HALVED))
    for before, after in zip(plain.rows, halved.rows, strict=True):
        for one, other in zip(before.trials, after.trials, strict=False):
            assert one.run.run_id == other.run.run_id


@pytest.mark.parametrize(
    ("halving", "message"),
    [
        ("[5, 10]", "tune.halving: expected rungs and factor, found [5, 10]."),
        ("{rung: [5]}", "tune.halving: unknown key 'rung'. Did you mean 'rungs'?"),
        ("{factor: 2}", "expected a list of iterations, found None. Set e.g. [250, 500]."),
        ("{rungs: []}", "expected a list of iterations, found []."),
        ("{rungs: [0, 5]}", "expected a list of iterations, found [0, 5]."),
        ("{rungs: [10, 5]}", "tune.halving.rungs: [10, 5] does not ascend. Sort the iterations."),
        ("{rungs: [5], factor: 1}", "factor: expected a whole number from 2, found 1."),
        ("{rungs: [5, 10], factor: 3}", "6 trials are too few for 2 rungs of factor 3: no trial"),
        ("{rungs: [20]}", "the rung 20 is not before the last of 20 iterations of a trial."),
    ],
)
def test_bad_rungs_are_refused(expand: Expand, halving: str, message: str) -> None:
    text = HALVED.replace("{rungs: [5, 10], factor: 2}", halving)
    assert message in expect_error(expand, ROWS + text)


def test_rungs_are_multiples_of_an_accumulation(expand: Expand) -> None:
    text = HALVED.replace("seed: 100", "seed: 100, schedule.accumulative_counts: 4")
    message = expect_error(expand, ROWS + text)
    assert "the rung 5: schedule.stop_after: 5 is not a multiple" in message


@pytest.mark.parametrize("part", ["search", "base"])
def test_the_end_of_a_trial_is_set_by_its_rungs_only(expand: Expand, part: str) -> None:
    old = {"search": "schedule.head_lr_mult: [1, 3, 10]", "base": "seed: 100"}[part]
    new = {"search": "schedule.stop_after: [4, 5]", "base": "seed: 100, schedule.stop_after: 5"}
    message = expect_error(expand, ROWS + HALVED.replace(old, new[part]))
    assert "'schedule.stop_after' cannot be" in message
    assert "it is the budget, which tune.halving sets. Remove it." in message
