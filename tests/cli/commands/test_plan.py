"""``protoseg plan``: runs, states and training time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from cli.conftest import CommandLine
from protoseg.cli import context
from protoseg.config.compose import Composer
from protoseg.config.identity import run_id_pattern
from protoseg.config.recipes import locked
from protoseg.config.recipes.resolver import RecipeResolver

MATRICES = Path(__file__).parents[3] / "experiments" / "matrices"


def test_a_plan_of_all_matrices_has_valid_run_ids(protoseg: CommandLine) -> None:
    result = protoseg("plan", "--json")
    assert (result.status, result.err) == (0, "")
    runs = result.json["runs"]
    assert len(runs) > 9
    assert all(run_id_pattern().fullmatch(run["run_id"]) for run in runs)


def test_a_new_plan_shows_every_row_and_no_training_time(protoseg: CommandLine) -> None:
    result = protoseg("plan", "quickstart", "--jobs", "2")
    assert result.status == 0
    for label in ("Parametric, K = 1", "ProtoSeg, K = 1", "ProtoSeg, K = 4"):
        assert f" {label} " in result.out
    assert result.out.count("3 new") == 3
    assert "9 runs: 9 new." in result.out
    assert (
        "To train: 9 runs, on this machine, 2 at the same time. Training time unknown" in result.out
    )


def test_a_plan_counts_finished_runs_in_all_folders_and_estimates_the_time(
    protoseg: CommandLine,
) -> None:
    runs = protoseg.quickstart()
    iterations = runs[0].spec.schedule.iterations
    cost = {"iterations_per_second": iterations / 200}
    protoseg.record(runs[0], 70.0, cost=cost)
    protoseg.record(runs[1], 71.0, in_runs=True, cost=cost)
    for run in (runs[3], runs[6]):  # one of K = 1 and one of K = 4
        protoseg.record(run, 72.0, cost={"iterations_per_second": iterations / 100})
    result = protoseg("plan", "quickstart")
    assert "2 done, 1 new" in result.out
    assert "9 runs: 5 new, 4 done." in result.out
    # Left: one parametric run of 200 s and four ProtoSeg runs of 100 s.
    assert "Training time by records of similar runs: 10 min in all." in result.out
    data = protoseg("plan", "quickstart", "--json").json
    assert data["left_seconds"] == pytest.approx(200 + 4 * 100)
    assert data["counts"]["done"] == 4
    assert [run["miou"] for run in data["runs"]][:4] == [70.0, 71.0, None, 72.0]
    ignoring = protoseg("plan", "quickstart", "--ignore-records", "--json").json
    assert ignoring["counts"]["done"] == 1, "a record in its run folder still counts"


def test_a_plan_names_recipes_that_differ_from_the_locked_ones(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert protoseg("plan", "quickstart", "--json").json["recipe_notes"] == []

    # An installed mmseg with another file of this recipe, in which one more value is set. The
    # composer that the tests share would keep the notes.
    monkeypatch.setattr(context, "Composer", Composer)
    name = "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
    monkeypatch.setattr(RecipeResolver, "_differs", lambda *_: True)
    monkeypatch.setattr(
        RecipeResolver,
        "_take_values",
        lambda _, role, *__: {**locked.read_sections(role, name), "added": 1},
    )
    result = protoseg("plan", "quickstart", "--json")
    notes = result.json["recipe_notes"]
    assert len(notes) == 3, "backbone, decoder and schedule"
    assert all(f"{name}: the installed mmseg differs from " in note for note in notes)
    assert all("added None -> 1. Runs with these values are other runs." in note for note in notes)
    assert notes[0].split()[0] in result.err


def test_a_finished_plan_has_nothing_to_train(protoseg: CommandLine) -> None:
    for run in protoseg.quickstart():
        protoseg.record(run, 70.0)
    result = protoseg("plan", "quickstart")
    assert "9 runs: 9 done." in result.out
    assert "To train" not in result.out
    assert protoseg("status", "quickstart").status == 0


def test_a_run_of_several_tables_is_counted_once(protoseg: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    quickstart = yaml.safe_load((MATRICES / "quickstart.yaml").read_text())
    base = {**quickstart["base"], "method": "parametric"}
    path.write_text(yaml.safe_dump({"base": base, "seeds": [0, 5]}))
    data = protoseg("plan", "quickstart", str(path), "--json").json
    assert (data["listed"], len(data["runs"])) == (11, 10)
    assert data["runs"][0]["matrices"] == ["quickstart", "other"]
    assert "10 runs (11 in the tables, 1 shared)" in protoseg("plan", "quickstart", str(path)).out


def test_the_record_of_another_run_is_an_error(protoseg: CommandLine) -> None:
    first, second, *_ = protoseg.quickstart()
    path = protoseg.record(first, 70.0)
    path.rename(path.with_name(f"{second.run_id}.json"))
    result = protoseg("plan", "quickstart")
    assert result.status == 1
    assert f"is the record of {first.run_id}" in result.err
    assert "8 new, 1 failed" in result.out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_record_without_read_permission_is_an_error(protoseg: CommandLine) -> None:
    path = protoseg.record(protoseg.quickstart()[0], 70.0)
    path.chmod(0)
    result = protoseg("plan", "quickstart")
    assert result.status == 1
    assert "be read: Permission denied" in result.err


def test_the_plan_of_a_matrix_names_what_its_seeds_detect(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    assert "Smallest true difference" not in protoseg("plan", "quickstart").out
    for number, run in enumerate(runs):
        protoseg.record(run, 70.0 + number % 3 + number * number / 10)
    result = protoseg("plan", "quickstart")
    assert "Smallest true difference in mIoU that is found with 80% probability" in result.out
    data = protoseg("plan", "quickstart", "--json").json["power"]["quickstart"]
    assert (data["seeds"], data["comparisons"]) == (3, 2)
    assert sorted(data["detectable"], key=int) == ["3", "5", "10"]
