"""``protoseg figures`` of a matrix with a search."""

from __future__ import annotations

import shutil
from pathlib import Path

from cli.conftest import REPOSITORY, CommandLine
from cli.tuning.conftest import Tuned

VALUES = (40.0, 50.0, 45.0, 30.0, 20.0, 35.0)
OF_TRIALS = ("--kind", "trials", "--kind", "tuning_curves")


def test_trials_are_drawn_before_the_choice(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.record_trials((*VALUES[:2], None, *VALUES[3:]))
    result = protoseg("figures", tuned.path, *OF_TRIALS, "--json")
    assert (result.status, result.err) == (0, "")
    figures = result.json["figures"]["tuned"]
    assert list(figures) == ["trials", "tuning_curves"]
    rows = figures["trials"]["content"]["rows"]
    assert [[trial["result"] for trial in row["trials"]] for row in rows] == [
        [40.0, 50.0], [30.0, 20.0, 35.0],
    ]  # fmt: skip
    assert "Left out: 1 of 6 trials (not run)." in figures["trials"]["notes"]
    curve = figures["tuning_curves"]["content"]["curves"][0]
    assert (curve["mean"], curve["high"]) == ([45.0, 47.5], [50.0, 50.0])
    names = [path.rpartition("/")[2] for path in result.json["written"]["tuned"]]
    assert names == [
        f"tuned_{name}.{form}" for name in ("trials", "tuning_curves")
        for form in ("svg", "pdf", "png")
    ]  # fmt: skip


def test_figures_of_final_runs_need_a_choice(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.record_trials(VALUES)
    result = protoseg("figures", tuned.path, *OF_TRIALS, "--kind", "metric")
    assert result.status == 1
    assert "tuned: its settings are not chosen yet" in result.err


def test_without_a_finished_trial_nothing_is_drawn(protoseg: CommandLine, tuned: Tuned) -> None:
    result = protoseg("figures", tuned.path, "--kind", "trials")
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        "protoseg figures: tuned: trials: no trial has finished, so there is nothing to draw. "
        "Train with: protoseg sweep tuned"
    ]


def test_a_matrix_without_a_search_has_no_trials(protoseg: CommandLine) -> None:
    result = protoseg("figures", "quickstart", "--kind", "tuning_curves")
    assert result.status == 2
    assert result.err.splitlines() == [
        "protoseg figures: quickstart: tuning_curves: it has no search. Name a matrix with a block "
        "tune."
    ]


def test_after_the_choice_all_figures_are_drawn_and_verified(
    protoseg: CommandLine, tuned: Tuned
) -> None:
    tuned.record_trials(VALUES, in_runs=False)
    for run in tuned.list_finals((2, 3)):
        protoseg.record(run, 50.0 + run.spec.seed)
    assert protoseg("sweep", tuned.path).status == 0
    result = protoseg("figures", tuned.path, "--json")
    assert (result.status, result.err) == (0, "")
    figures = result.json["figures"]["tuned"]
    assert list(figures) == ["metric", "trials", "tuning_curves"]
    assert [row["chosen"] for row in figures["trials"]["content"]["rows"]] == [2, 3]

    def list_problems() -> tuple[int, set[str]]:
        checks = protoseg("verify", tuned.path, "--json").json["checks"]
        (check,) = (check for check in checks if check["group"] == "figures")
        return check["count"], {problem["file"] for problem in check["problems"]}

    assert list_problems() == (9, set())
    protoseg.record(tuned.trials()[0], 41.0)
    assert list_problems() == (
        9,
        {
            f"figures/tuned_{name}.{form}" for name in ("trials", "tuning_curves")
            for form in ("svg", "pdf", "png")
        },
    )  # fmt: skip


def test_without_a_name_matrices_without_a_search_are_left_out(
    protoseg: CommandLine, tuned: Tuned, tmp_path: Path
) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(
        REPOSITORY / "experiments", experiments, ignore=lambda *_: ["matrices"],
    )  # fmt: skip
    (experiments / "matrices").mkdir()
    for path in (REPOSITORY / "experiments" / "matrices" / "quickstart.yaml", Path(tuned.path)):
        shutil.copy(path, experiments / "matrices")
    tuned.record_trials(VALUES)
    options = ("--experiments", str(experiments), "--json")
    result = protoseg("figures", "--kind", "trials", *options)
    assert (result.status, result.err) == (0, "")
    assert list(result.json["figures"]) == ["tuned"]
