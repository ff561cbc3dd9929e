"""The block ``tune`` of a matrix: its trials, its final runs, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from protoseg.config.compose import Composer
from protoseg.config.matrix import Matrix, Tuning
from protoseg.config.overrides import Setting
from protoseg.config.tuning.expand import finalise, make_trial_matrix
from protoseg.errors import UsageError

Expand = Callable[..., Matrix]

BASE = "base: {schedule.norm_decay: never}"
ROWS = f"""{BASE}
rows:
  - {{label: Parametric, method: parametric}}
  - {{label: "ProtoSeg, K = 4", method: paper, method.num_prototypes: 4}}
seeds: [0, 1]
"""
TUNE = """
tune:
  search: {schedule.learning_rate: {log_uniform: [3e-4, 1e-2]}, schedule.head_lr_mult: [1, 3, 10]}
  rows: {"ProtoSeg*": {method.score_temperature: [0.05, 0.1, 0.2]}}
  trials: 3
  base: {schedule.iterations: 20, seed: 100}
  select: {on: val}
"""


def tuning_of(matrix: Matrix) -> Tuning:
    assert matrix.tuning is not None
    return matrix.tuning


def run_ids(matrix: Matrix) -> list[str]:
    return [run.run_id for run in matrix.runs]


def choose(matrix: Matrix, *numbers: int) -> Matrix:
    return finalise(matrix, {"rows": [{"chosen": number} for number in numbers]})


def expect_error(expand: Expand, text: str, *overrides: str) -> str:
    """The message for an invalid block, which must be one line that names the file or override."""
    with pytest.raises(UsageError) as caught:
        expand(text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(("m.yaml: ", "override "))
    return message


def test_each_row_has_the_same_number_of_trials(expand: Expand) -> None:
    matrix = expand(ROWS + TUNE)
    rows = tuning_of(matrix).rows
    assert matrix.runs == ()
    assert [row.name for row in rows] == ["Parametric", "ProtoSeg, K = 4"]
    assert [[trial.number for trial in row.trials] for row in rows] == [[1, 2, 3]] * 2
    assert [list(row.spaces) for row in rows] == [
        ["schedule.learning_rate", "schedule.head_lr_mult"],
        ["schedule.learning_rate", "schedule.head_lr_mult", "method.score_temperature"],
    ]
    for row in rows:
        for trial in row.trials:
            spec = trial.run.spec
            assert (spec.seed, spec.schedule.iterations, spec.evaluation.split) == (100, 20, "val")
            assert spec.schedule.learning_rate == trial.values["schedule.learning_rate"]
            assert spec.schedule.head_lr_mult == trial.values["schedule.head_lr_mult"]
    first, second = rows
    shared = [{k: trial.values[k] for k in first.spaces} for trial in second.trials]
    assert shared == [trial.values for trial in first.trials]


def test_a_trial_is_an_ordinary_run(expand: Expand, composer: Composer) -> None:
    trial = tuning_of(expand(ROWS + TUNE)).rows[1].trials[2]
    settings = [
        Setting("method", "paper"),
        Setting("method.num_prototypes", 4),
        Setting("schedule.norm_decay", "never"),
        Setting("schedule.iterations", 20),
        Setting("seed", 100),
        *(Setting(key, value) for key, value in trial.values.items()),
    ]
    assert trial.run.spec == composer.spec(settings, "test")


def test_more_trials_keep_the_first_ones(expand: Expand) -> None:
    few = run_ids(make_trial_matrix(expand(ROWS + TUNE)))
    many = run_ids(make_trial_matrix(expand(ROWS + TUNE.replace("trials: 3", "trials: 5"))))
    assert many[:3] == few[:3]
    assert many[5:8] == few[3:]


def test_a_changed_pattern_keeps_the_trials_of_other_rows(expand: Expand) -> None:
    before, after = expand(ROWS + TUNE), expand(ROWS + TUNE.replace("0.05, 0.1", "0.07, 0.1"))
    old, new = (run_ids(make_trial_matrix(matrix)) for matrix in (before, after))
    assert old[:3] == new[:3]
    assert tuning_of(before).digest != tuning_of(after).digest


def test_the_final_runs_have_the_chosen_values_and_the_seeds_of_the_matrix(expand: Expand) -> None:
    matrix = expand(ROWS + TUNE)
    final = choose(matrix, 2, 3)
    rows = tuning_of(matrix).rows
    assert [run.spec.seed for run in final.runs] == [0, 1, 0, 1]
    assert [run.axes for run in final.runs] == [{"label": row.name} for row in rows for _ in "01"]
    for run, values in zip(
        final.runs[::2], (rows[0].trials[1].values, rows[1].trials[2].values), strict=True
    ):
        assert run.spec.schedule.learning_rate == values["schedule.learning_rate"]
        assert run.spec.schedule.iterations != 20, "tune.base is for trials only"


def test_final_runs_are_those_of_a_matrix_with_these_values(expand: Expand) -> None:
    matrix = expand(ROWS + TUNE)
    values = tuning_of(matrix).rows[0].trials[0].values
    typed = ", ".join(f"{key}: {value}" for key, value in values.items())
    text = f"rows: [{{label: P, method: parametric, {typed}}}]"
    assert run_ids(expand(f"{BASE}\n{text}\nseeds: [0, 1]")) == run_ids(choose(matrix, 1, 1))[:2]


def test_a_digest_depends_on_the_trials_and_not_on_the_final_runs(expand: Expand) -> None:
    def digest(text: str, *overrides: str) -> str:
        return tuning_of(expand(text, *overrides)).digest

    text = ROWS + TUNE
    assert digest(text) == digest(text.replace("[0, 1]", "[0, 1, 2]"))
    assert digest(text) == digest(text.replace("never}", "never, schedule.iterations: 30}"))
    for changed in (
        text.replace("trials: 3", "trials: 4"),
        text.replace("never}", "never, schedule.power: 0.9}"),
    ):
        assert digest(text) != digest(changed)
    assert digest(text) != digest(text, "schedule.power=0.9")


def test_a_full_grid(expand: Expand) -> None:
    search = "{schedule.power: [0.5, 1.0], schedule.warmup_iterations: [1, 10]}"
    matrix = expand(f"tune: {{search: {search}, grid: true, select: {{on: val}}}}")
    (row,) = tuning_of(matrix).rows
    assert row.name == "the only run"
    assert [tuple(trial.values.values()) for trial in row.trials] == [
        (0.5, 1), (0.5, 10), (1.0, 1), (1.0, 10),
    ]  # fmt: skip


def test_patterns_match_axis_values_where_rows_have_no_label(expand: Expand) -> None:
    matrix = expand(
        """
        grid: {method.num_prototypes: [1, 4], method.momentum: [0.9, 0.99]}
        tune:
          search: {schedule.power: {uniform: [0.5, 1]}}
          rows: {"method.num_prototypes=4, *": {schedule.warmup_iterations: [1, 10]}}
          trials: 2
          select: {on: val}
        """
    )
    rows = tuning_of(matrix).rows
    assert [row.name for row in rows][1] == "method.num_prototypes=1, method.momentum=0.99"
    assert [len(row.spaces) for row in rows] == [1, 1, 2, 2]


def test_a_group_can_be_searched(expand: Expand) -> None:
    tune = "tune: {search: {method: [paper, parametric]}, grid: true, select: {on: val}}"
    (row,) = tuning_of(expand(tune)).rows
    assert [trial.run.spec.method.kind for trial in row.trials] == ["prototype", "parametric"]


def test_equal_trials_are_named(expand: Expand) -> None:
    assert tuning_of(expand(ROWS + TUNE)).list_shared_trials() == []
    text = "tune: {search: {schedule.power: [0.5, 1.0]}, trials: 3, select: {on: val}}"
    shared = tuning_of(expand(text)).list_shared_trials()
    assert len(shared) == 1
    assert "of the only run is the same run as trial" in shared[0]


@pytest.mark.parametrize(
    ("on", "split", "is_oracle"),
    [("val", "val", True), ("val", "test", False), ("test", "val", True), ("test", "test", True)],
)
def test_selecting_on_what_is_reported_is_an_oracle(
    expand: Expand, on: str, split: str, is_oracle: bool
) -> None:
    rows = ROWS.replace("never}", f"never, dataset: camvid, evaluation.split: {split}}}")
    matrix = expand(rows + TUNE.replace("on: val", f"on: {on}"))
    assert tuning_of(matrix).is_oracle is is_oracle


BAD = [
    ("trials: 3", "trials: 0", "tune.trials: expected a whole number from 1"),
    ("trials: 3", "trials: true", "tune.trials: expected a whole number from 1"),
    ("trials: 3", "grid: true", "a grid needs a list of values; 0.0003 to 0.01"),
    ("trials: 3", "trials: 3\n  grid: true", "grid tries every combination"),
    ("trials: 3\n", "\n", "the number of trials is missing"),
    ("trials: 3", "trial: 3", "unknown key 'trial'. Did you mean 'trials'?"),
    ("schedule.head_lr_mult", "schedule.learning_rat", "unknown key 'schedule.learning_rat'"),
    (
        "schedule.head_lr_mult",
        "evaluation.split",
        "cannot be searched: it belongs to the evaluation",
    ),
    ("schedule.head_lr_mult", "dataset.ignore_index", "it belongs to the data set"),
    ("schedule.head_lr_mult", "seed", "cannot be searched: it is the seed"),
    ("schedule.head_lr_mult", "schedule.iterations", "it is the budget"),
    ("[1, 3, 10]", "[-1, 3, 10]", "schedule.head_lr_mult: -1.0 is out of range"),
    ("[1, 3, 10]", "[3]", "has one value, so nothing is searched"),
    ("[3e-4, 1e-2]", "[0, 1e-2]", "0 has no logarithm"),
    ("[3e-4, 1e-2]", "[1e-2, 3e-4]", "Put the smaller number first"),
    ("schedule.head_lr_mult: [1, 3, 10]", "method.num_prototypes: [1, 2]", "but the row sets it"),
    ("schedule.head_lr_mult: [1, 3, 10]", "method.momentum: [0.5, 0.9]", "Parametric: "),
    ('"ProtoSeg*"', '"Protoseg*"', "the pattern 'Protoseg*' matches no row. Rows: "),
    ("seed: 100", "schedule.head_lr_mult: 1", "'schedule.head_lr_mult' is searched too"),
    ("seed: 100", "evaluation.split: val", "tune.base: 'evaluation.split' cannot be set"),
    ("seed: 100", "schedule.itrations: 1", "unknown key 'schedule.itrations'"),
    ("{on: val}", "{on: val, share: 0.2}", "share would have no effect, because on is val"),
    ("{on: val}", "{on: vall}", "unknown split of shapes 'vall'"),
    ("{on: val}", "{on: train}", "the trials are trained on train"),
    ("{on: val}", "{}", "holdout needs a rule"),
    ("{on: val}", "{split: val}", "unknown key 'split'"),
    ("{on: val}", "[val]", "tune.select: expected metric, split and holdout"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_a_bad_block_is_refused(expand: Expand, old: str, new: str, message: str) -> None:
    assert old in TUNE
    assert message in expect_error(expand, ROWS + TUNE.replace(old, new))


@pytest.mark.parametrize("text", ["tune:", "tune: []", "tune: {trials: 3}", "tune: {search: {}}"])
def test_an_empty_block_is_refused(expand: Expand, text: str) -> None:
    assert "m.yaml: tune" in expect_error(expand, text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.head_lr_mult=2", "m.yaml searches it"),
        ("schedule.head_lr_mult=2,3", "is searched, but the row sets it"),
        ("tune.trials=5", "the search cannot be changed by an override"),
    ],
)
def test_an_override_that_changes_the_search_is_refused(
    expand: Expand, override: str, message: str
) -> None:
    assert message in expect_error(expand, ROWS + TUNE, override)


def test_an_axis_of_budgets_by_an_override_is_refused(expand: Expand) -> None:
    text = ROWS + TUNE.replace("schedule.iterations: 20, ", "")
    message = expect_error(expand, text, "schedule.iterations=20,30")
    assert "gives the trials of some rows a larger budget" in message
    # The budget of the final runs may be an axis.
    assert len(tuning_of(expand(ROWS + TUNE, "schedule.iterations=20,30")).rows) == 4


def test_an_override_changes_trials_and_final_runs(expand: Expand) -> None:
    matrix: Any = expand(ROWS + TUNE, "schedule.iterations=15", "seed=5")
    final = choose(matrix, 1, 1)
    assert {run.spec.schedule.iterations for run in final.runs} == {15}
    assert [run.spec.seed for run in final.runs] == [5, 5]
    trials = make_trial_matrix(matrix).runs
    assert {(run.spec.schedule.iterations, run.spec.seed) for run in trials} == {(15, 100)}


def test_a_multiplier_that_changes_the_decay_of_norms_is_refused(expand: Expand) -> None:
    message = expect_error(expand, ROWS.replace(BASE, "") + TUNE)
    assert "schedule.head_lr_mult would change the weight decay of norms too" in message
    # Also if the final runs only would have it.
    tune = TUNE.replace("seed: 100", "seed: 100, schedule.norm_decay: never")
    assert "schedule.norm_decay is recipe" in expect_error(expand, ROWS.replace(BASE, "") + tune)


HOLDOUT = "{on: holdout, share: 0.2, blocks: 10, gap: 2, seed: 3}"


def test_trials_are_evaluated_on_the_holdout_and_final_runs_are_not(expand: Expand) -> None:
    matrix = expand(ROWS + TUNE.replace("{on: val}", HOLDOUT))
    tuning = tuning_of(matrix)
    for run in make_trial_matrix(matrix).runs:
        evaluation = run.spec.evaluation
        assert evaluation.split == "holdout"
        assert (evaluation.holdout.share, evaluation.holdout.seed) == (0.2, 3)
    assert not any(run.spec.evaluation.holdout.is_set for run in choose(matrix, 1, 1).runs)
    assert not tuning.is_oracle


def test_the_holdout_of_final_runs_is_not_the_one_of_trials_on_another_split(
    expand: Expand,
) -> None:
    base = "never, evaluation.split: holdout, evaluation.holdout: {share: 0.3, blocks: 5}}"
    rows = ROWS.replace("never}", base)
    matrix = expand(rows + TUNE)
    assert not any(run.spec.evaluation.holdout.is_set for run in make_trial_matrix(matrix).runs)
    assert choose(matrix, 1, 1).runs[0].spec.evaluation.holdout.share == 0.3
    on_another_holdout = expand(rows + TUNE.replace("{on: val}", HOLDOUT))
    assert tuning_of(on_another_holdout).is_oracle, "both are parts of train"


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("{on: holdout, share: 0.2}", "needs a rule that groups the images"),
        ("{on: holdout, share: 0, blocks: 5}", "evaluation.holdout.share: 0.0 is out of range"),
        ("{on: holdout, share: 0.2, blocks: -1}", "evaluation.holdout.blocks: -1 is out of range"),
        ("{on: holdout, share: 0.2, block: 5}", "unknown key 'block'. Did you mean 'blocks'?"),
        ("{on: holdout, share: 0.99, blocks: 100}", "none is left to train on"),
    ],
)
def test_a_bad_holdout_is_refused(expand: Expand, select: str, message: str) -> None:
    assert message in expect_error(expand, ROWS + TUNE.replace("{on: val}", select))


def test_searched_schedules_have_one_budget(expand: Expand) -> None:
    text = (ROWS + TUNE).replace(
        "search: {schedule.learning_rate: {log_uniform: [3e-4, 1e-2]}, schedule.head_lr_mult: "
        "[1, 3, 10]}",
        "search: {schedule: [cpu_800, cpu_2000]}",
    )
    text = text.replace("base: {schedule.iterations: 20, seed: 100}", "base: {seed: 100}")
    message = expect_error(expand, text)
    assert "different budgets (800 iterations of 8 images and 2000 iterations" in message
