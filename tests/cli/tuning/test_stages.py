"""``plan``, ``sweep``, ``tables``, ``explain`` and ``status`` of a matrix with a search.

No run is trained here: records of trials and final runs are written by the tests.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli.conftest import CommandLine
from cli.tuning.conftest import Tuned
from protoseg.runs.results.choice import read_choice

VALUES = (40.0, 50.0, 45.0, 30.0, 20.0, 35.0)
"""The best trials are the second one of the first row, and the third one of the second."""
CHOSEN = (2, 3)


def finish(tuned: Tuned) -> None:
    """Record trials and final runs, and make the choice with a sweep that trains nothing."""
    tuned.record_trials(VALUES)
    tuned.record_finals(CHOSEN)
    assert tuned.protoseg("sweep", tuned.path).status == 0


def read_footnotes(protoseg: CommandLine, tuned: Tuned) -> list[str]:
    """The footnotes of the table."""
    lines = protoseg("tables", tuned.path, "--markdown").out.splitlines()
    return [line[2:].replace("\\", "") for line in lines if line.startswith("- ")]


def test_a_plan_shows_both_stages(protoseg: CommandLine, tuned: Tuned) -> None:
    result = protoseg("plan", tuned.path)
    assert result.status == 0
    first, second = result.out.split("tuned: Two tuned heads\n")
    assert first.startswith("tuned: trials of Two tuned heads\n")
    assert re.search(r"^ Parametric +100 +3 new", first, re.MULTILINE)
    assert "6 runs: 6 new." in first
    assert re.search(r"^ ProtoSeg, K = 2 +0, 1 +to be chosen +unknown", second, re.MULTILINE)
    assert "After the trials: 4 runs to be chosen by miou on val (oracle)." in second
    data = protoseg("plan", tuned.path, "--json").json
    assert len(data["runs"]) == 6
    (later,) = data["to_be_chosen"]
    assert (later["runs"], later["seeds"], later["left_seconds"]) == (4, [0, 1], None)


def test_the_cost_of_the_final_runs_comes_from_the_trials(
    protoseg: CommandLine, tuned: Tuned
) -> None:
    tuned.record_trials(VALUES, in_runs=False)
    (later,) = protoseg("plan", tuned.path, "--json").json["to_be_chosen"]
    assert later["left_seconds"] == pytest.approx(4 * 6 / 5.0)  # 5 iterations a second


def test_a_sweep_chooses_when_all_trials_are_done(protoseg: CommandLine, tuned: Tuned) -> None:
    finals = tuned.record_finals(CHOSEN)
    tuned.record_trials(VALUES)
    result = protoseg("sweep", tuned.path)
    assert (result.status, result.err) == (0, "")
    assert "trial 2 of 3, mIoU 50.00)" in result.out
    assert "4 runs: 4 done." in result.out
    choice = read_choice(tuned.choice)
    assert [row["chosen"] for row in choice["rows"]] == list(CHOSEN)
    assert [trial["value"] for trial in choice["rows"][0]["trials"]] == list(VALUES[:3])
    assert not choice["allow_missing"]
    plan = protoseg("plan", tuned.path)
    assert "tuned: chosen settings" in plan.out
    planned = protoseg("plan", tuned.path, "--json").json
    assert [run["run_id"] for run in planned["runs"]] == [run.run_id for run in finals]
    assert "to_be_chosen" not in planned
    again = protoseg("sweep", tuned.path)
    assert "Nothing to do" in again.out
    assert "Chosen" not in again.out


def test_equal_values_choose_the_lowest_trial(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.record_trials((40.0, 50.0, 50.0, 30.0, 30.0, 30.0))
    tuned.record_finals((2, 1))
    assert protoseg("sweep", tuned.path).status == 0
    assert [row["chosen"] for row in read_choice(tuned.choice)["rows"]] == [2, 1]


def test_another_metric_selects(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.change("metric: miou", "metric: macc")
    for run, macc in zip(tuned.trials(), (1.0, 2.0, 3.0, 3.0, 2.0, 1.0), strict=True):
        protoseg.record(run, 50.0, in_runs=True, metrics={"macc": macc})
    tuned.record_finals((3, 1))
    assert protoseg("sweep", tuned.path).status == 0
    assert [row["chosen"] for row in read_choice(tuned.choice)["rows"]] == [3, 1]


@pytest.mark.parametrize("metric", ["mioux", "parameters", "gpu_hours"])
def test_a_metric_that_no_counts_give_is_refused(
    protoseg: CommandLine, tuned: Tuned, metric: str
) -> None:
    tuned.change("metric: miou", f"metric: {metric}")
    result = protoseg("plan", tuned.path)
    assert result.status == 2
    assert f"tune.select.metric: unknown metric '{metric}'" in result.err
    assert "Known: aacc, macc, miou, miou_present; with a tree of classes " in result.err


def fail_a_trial(tuned: Tuned) -> None:
    """Record all trials but one, which failed, and the final runs of the best finished ones."""
    tuned.record_trials((None, *VALUES[1:]))
    tuned.protoseg.lab.fail(tuned.trials()[0].spec, "bad_data", "no images")
    tuned.record_finals(CHOSEN)


def test_a_failed_trial_leaves_its_row_to_be_chosen(protoseg: CommandLine, tuned: Tuned) -> None:
    fail_a_trial(tuned)
    result = protoseg("sweep", tuned.path)
    assert result.status == 1
    assert (
        "tuned: Parametric: to be chosen: 1 of 3 trials has no result: trial 1 (failed: bad_data)."
    ) in result.err
    assert "--allow-missing" in result.err
    assert "ProtoSeg, K = 2: to be chosen" not in result.err
    assert not tuned.choice.exists()
    data = protoseg("sweep", tuned.path, "--json").json
    assert list(data["to_be_chosen"]["tuned"]) == ["Parametric"]


def test_allow_missing_chooses_among_finished_trials_and_marks_the_table(
    protoseg: CommandLine, tuned: Tuned
) -> None:
    fail_a_trial(tuned)
    result = protoseg("sweep", tuned.path, "--allow-missing")
    assert result.status == 0, result.err
    choice = read_choice(tuned.choice)
    assert choice["allow_missing"]
    assert choice["rows"][0]["trials"][0]["value"] is None
    first = read_footnotes(protoseg, tuned)[0]
    assert first.startswith("The rows were not tuned alike: ")
    assert "Parametric was chosen among 2 of 3 trials (no result: 1)" in first


def test_a_table_needs_a_choice(protoseg: CommandLine, tuned: Tuned) -> None:
    for verb in ("tables", "figures"):
        result = protoseg(verb, tuned.path)
        assert result.status == 1
        assert "tuned: its settings are not chosen yet, so it has no final runs." in result.err
    result = protoseg("explain", tuned.path, "Parametric")
    assert "its settings are not chosen yet" in result.err


def test_a_split_is_evaluated_after_the_choice(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.record_trials(VALUES)
    result = protoseg("evaluate", tuned.path, "--split", "train")
    assert result.status == 1
    assert "its settings are not chosen yet, so it has no final runs" in result.err
    finish(tuned)
    (protoseg.lab.runs / tuned.list_finals(CHOSEN)[0].run_id / "record.json").unlink()
    result = protoseg("evaluate", tuned.path, "--split", "train")
    assert result.status == 1
    assert "1 of 4 runs have no record" in result.err
    assert "so that no result on this split can change what is trained." in result.err


def test_the_footnotes_show_search_and_choice(protoseg: CommandLine, tuned: Tuned) -> None:
    finish(tuned)
    out = "\n".join(read_footnotes(protoseg, tuned))
    assert (
        "3 trials per row, each of 4 iterations, selected by mIoU on val. This is an oracle" in out
    )
    assert "schedule.learning_rate: 0.0003 to 0.01, logarithmic; method.score_temperature: " in out
    assert "Chosen: Parametric: schedule.learning_rate=" in out
    assert "The rows were not tuned alike" not in out


def test_selecting_on_another_split_than_the_reported_one_is_no_oracle(
    protoseg: CommandLine, tuned: Tuned
) -> None:
    tuned.change("{train: 12, val: 4}", "{train: 12, val: 4, test: 4}")
    tuned.change("title:", "# test is a split of another data set\ntitle:")
    tuned.change("dataset.digest: unpinned", "dataset.digest: unpinned\n  evaluation.split: test")
    finish(tuned)
    notes = read_footnotes(protoseg, tuned)
    assert any("selected by mIoU on val." in note for note in notes)
    assert not any("oracle" in note for note in notes)


def test_a_value_at_the_edge_of_its_range_is_noted(protoseg: CommandLine, tuned: Tuned) -> None:
    finish(tuned)
    (edge,) = read_choice(tuned.choice)["rows"][1]["at_edge"]
    out = "\n".join(read_footnotes(protoseg, tuned))
    assert f"so a wider one may be better: {edge} of ProtoSeg, K = 2." in out


def test_unequal_budgets_are_the_first_footnote(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.change("{label: Parametric,", "{label: Parametric, schedule.batch_size: 4,")
    finish(tuned)
    first = read_footnotes(protoseg, tuned)[0]
    assert first == (
        "The rows were not tuned alike: 8 to 16 training images a trial (ProtoSeg, K = 2; "
        "Parametric)."
    )


def test_a_row_with_fewer_different_trials_is_in_the_first_footnote(
    protoseg: CommandLine, tuned: Tuned
) -> None:
    tuned.change("{schedule.learning_rate: {log_uniform: [3e-4, 1e-2]}}", "{}")
    tuned.change("[0.05, 0.1, 0.2]}", "{uniform: [0.05, 0.2]}}")
    tuned.record_trials((40.0, 40.0, 40.0, 30.0, 20.0, 35.0))
    tuned.record_finals((1, 3))
    assert protoseg("sweep", tuned.path).status == 0
    assert read_footnotes(protoseg, tuned)[0] == (
        "The rows were not tuned alike: 1 to 3 different trials (Parametric; ProtoSeg, K = 2)."
    )


def test_trials_are_listed(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.record_trials((40.0, 50.0, None, 30.0, 20.0, 35.0))
    result = protoseg("tables", tuned.path, "--trials")
    assert "Not chosen yet." in result.out
    rows = protoseg("tables", tuned.path, "--trials", "--json").json["trials"]["tuned"]
    assert [(row["row"], row["trial"], row["miou"]) for row in rows[:4]] == [
        ("Parametric", "1", 40.0), ("Parametric", "2", 50.0), ("Parametric", "3", "not run"),
        ("ProtoSeg, K = 2", "1", 30.0),
    ]  # fmt: skip
    assert rows[0]["method.score_temperature"] == "–"
    assert [row["run"] for row in rows] == [run.run_id for run in tuned.trials()]
    assert not (Path(tuned.path).parent / "tables").exists()


def test_the_chosen_trial_is_marked_in_the_list(protoseg: CommandLine, tuned: Tuned) -> None:
    finish(tuned)
    out = protoseg("tables", tuned.path, "--trials", "--markdown").out
    assert out.count("(chosen)") == 2
    assert "50.00" in next(line for line in out.splitlines() if "(chosen)" in line)


def test_a_list_of_trials_needs_a_search(protoseg: CommandLine) -> None:
    result = protoseg("tables", "quickstart", "--trials")
    assert result.status == 2
    assert "no search in quickstart" in result.err


def test_a_tuned_cell_explains_its_choice(protoseg: CommandLine, tuned: Tuned) -> None:
    finish(tuned)
    notes = protoseg("explain", tuned.path, "Parametric", "--json").json["notes"]
    chosen, second, choice = notes[-3:]
    assert "(trial 2); mIoU 50.0000 on val (oracle), run " in chosen
    assert "Rule: highest miou of a row; equal values: the lowest number of a trial." in chosen
    assert second.startswith("Next best: trial 3, 45.0000 ")
    assert read_choice(tuned.choice)["digest"][:10] in choice


def test_the_status_has_trials_and_final_runs(protoseg: CommandLine, tuned: Tuned) -> None:
    assert len(protoseg("status", tuned.path, "--json").json["runs"]) == 6
    finish(tuned)
    data = protoseg("status", tuned.path, "--json").json
    assert (len(data["runs"]), data["counts"]["done"]) == (10, 10)


def test_a_choice_is_never_overwritten(protoseg: CommandLine, tuned: Tuned) -> None:
    finish(tuned)
    before = tuned.choice.read_bytes()
    tuned.change("trials: 3", "trials: 4")
    result = protoseg("sweep", tuned.path)
    assert result.status == 2
    digests = re.findall(r"digest ([0-9a-f]{10}); tuned has ([0-9a-f]{10})", result.err)
    assert len(digests) == 1
    assert len(set(digests[0])) == 2
    assert tuned.choice.read_bytes() == before
    # Plans show the trials of the changed search; those of the first one are done.
    plan = protoseg("plan", tuned.path)
    assert "is the choice of another search" in plan.err
    assert "8 runs: 2 new, 6 done." in plan.out


def test_records_and_choice_are_published_and_verified(protoseg: CommandLine, tuned: Tuned) -> None:
    finish(tuned)
    for path in protoseg.lab.runs.glob("*/record.json"):
        (path.parent / "confusion.npz").write_bytes(b"")
    protoseg("tables", tuned.path, "--keep-records")
    assert tuned.committed.read_bytes() == tuned.choice.read_bytes()
    tuned.choice.unlink()
    assert "chosen settings" in protoseg("plan", tuned.path).out


def verify_choices(protoseg: CommandLine, path: str) -> list[str]:
    """The messages about choices of ``verify``."""
    checks = protoseg("verify", path, "--json").json["checks"]
    (check,) = [check for check in checks if check["group"] == "choices"]
    assert check["count"] == 1
    return [f"{problem['row']}: {problem['message']}" for problem in check["problems"]]


def test_verify_recomputes_a_choice(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.record_trials(VALUES, in_runs=False)
    tuned.record_finals(CHOSEN)
    assert protoseg("sweep", tuned.path).status == 0
    tuned.committed.parent.mkdir()
    tuned.choice.rename(tuned.committed)
    assert verify_choices(protoseg, tuned.path) == []
    # Another result of a trial.
    best = tuned.trials()[0]
    protoseg.record(best, 60.0)
    assert verify_choices(protoseg, tuned.path) == [
        "Parametric: trial 2 is chosen; the records give trial 1.",
        "Parametric: trial 1 has 40.0; the records give 60.0.",
    ]
    (protoseg.lab.records / f"{best.run_id}.json").unlink()
    assert (
        "1 of 3 trials has no result: trial 1 (not run)" in verify_choices(protoseg, tuned.path)[0]
    )


def test_an_edited_choice_is_detected(protoseg: CommandLine, tuned: Tuned) -> None:
    finish(tuned)
    choice = json.loads(tuned.choice.read_text())
    choice["rows"][0]["chosen"] = 1
    tuned.choice.write_text(json.dumps(choice))
    result = protoseg("plan", tuned.path)
    assert result.status == 1
    assert "edited or damaged choice" in result.err


def test_two_different_choices_are_refused(protoseg: CommandLine, tuned: Tuned) -> None:
    fail_a_trial(tuned)
    assert protoseg("sweep", tuned.path, "--allow-missing").status == 0
    tuned.committed.parent.mkdir()
    tuned.choice.rename(tuned.committed)
    tuned.record_trials(VALUES)
    protoseg("sweep", tuned.path, "--ignore-records")
    result = protoseg("plan", tuned.path)
    assert result.status == 1
    assert "two different choices" in result.err


def test_overrides_have_a_choice_of_their_name(protoseg: CommandLine, tuned: Tuned) -> None:
    finish(tuned)
    out = protoseg("plan", tuned.path, "schedule.power=0.9").out
    assert "6 runs: 6 new." in out
    assert "to be chosen" in out
    # More seeds change the final runs only.
    assert "6 runs: 2 new, 4 done." in protoseg("plan", tuned.path, "seed=0,1,2").out


def test_rows_that_tune_to_one_run_are_trained_once(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.change(
        '{label: "ProtoSeg, K = 2", method: paper, method.num_prototypes: 2}',
        '{label: "Parametric, again", method: parametric}',
    )
    tuned.change('rows: {"ProtoSeg*": {method.score_temperature: [0.05, 0.1, 0.2]}}', "rows: {}")
    plan = protoseg("plan", tuned.path).out
    assert "trial 1 of Parametric, again is the same run as trial 1 of Parametric; it is" in plan
    assert "3 runs (6 in the tables, 3 shared): 3 new." in plan
    tuned.record_trials((1.0, 3.0, 2.0, 1.0, 3.0, 2.0))
    tuned.record_finals((2, 2))
    result = protoseg("sweep", tuned.path)
    assert result.status == 0, result.err
    assert (
        "Parametric, again and Parametric are the same runs; they are trained once." in result.out
    )
    assert "2 runs: 2 done." in result.out
    assert protoseg("tables", tuned.path).status == 0


def test_a_sweep_prints_its_choice_as_json(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.record_trials(VALUES)
    tuned.record_finals(CHOSEN)
    data = protoseg("sweep", tuned.path, "--json").json
    assert data["chosen"] == {"tuned": {"Parametric": CHOSEN[0], "ProtoSeg, K = 2": CHOSEN[1]}}
    assert data["to_be_chosen"] == {}
