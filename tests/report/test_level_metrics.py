"""Metrics of levels in reports: tables, Δ, explain, figures, web pages, numbers and compare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protoseg.config.hierarchy.tree import make_hierarchy
from protoseg.config.identity import run_id
from protoseg.config.matrix import FamilySpec, ImportedSpec, Matrix
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError
from protoseg.report.comparison import Options, compare_runs, find_runs
from protoseg.report.curves import build_best_table
from protoseg.report.explanation import explain_cell
from protoseg.report.figures.builder import FigureBuilder
from protoseg.report.figures.contents import DotPlot
from protoseg.report.formats.files import render_files
from protoseg.report.level_metrics import with_levels
from protoseg.report.metrics import METRICS, QUALITIES, check_metrics
from protoseg.report.page.builder import build_page
from protoseg.report.prose.result_reader import ResultReader
from protoseg.report.seed_power import estimate_power
from protoseg.report.split_table import build_split_table
from protoseg.runs.results.evaluation import write_evaluation
from protoseg.runs.store import CachedStore
from report.lab import Lab, cell, make_matrix, make_spec, method, with_table
from report.levels import add_trees, finish, pack

A, B = "parametric 1", "prototype 1"
METRICS_SHOWN = ("miou@2", "miou", "aacc@2", "mistake_distance")


def make_counts(right: int, sibling: int, other: int) -> list[list[int]]:
    """A confusion matrix: of 100 pixels of road, so many are predicted as road, car and sky."""
    return [[100, 0, 0], [other, right, sibling], [0, 0, 50]]


COUNTS = {
    A: [make_counts(60, 30, 10), make_counts(62, 26, 12), make_counts(58, 34, 8)],
    B: [make_counts(70, 10, 20), make_counts(71, 9, 20), make_counts(66, 12, 22)],
}


def expect(counts: list[list[int]]) -> dict[str, float]:
    """The values of a result of `make_counts`, from its definition: 250 pixels in two groups."""
    other, right, sibling = counts[1]
    sky, ground = 100 / (100 + other), (right + sibling + 50) / 150
    classes = [sky, right / 100, 50 / (50 + sibling)]
    return {
        "miou@2": 100 * (sky + ground) / 2,
        "miou": 100 * sum(classes) / 3,
        "aacc@2": 100 * (250 - other) / 250,
        "mistake_distance": (2 * sibling + 4 * other) / (sibling + other),
    }


def make_levels(**table: Any) -> Matrix:
    planned = [(method(name, seed), {"label": name}) for name in (A, B) for seed in range(3)]
    settings = {"metrics": METRICS_SHOWN, "baseline": {"label": A}, **table}
    return add_trees(make_matrix(planned, **settings))


def finish_all(lab: Lab, matrix: Matrix, **changes: Any) -> dict[str, Path]:
    """Write the records and counts of all runs; run id -> file of its counts."""
    return {
        run.run_id: finish(lab, run.spec, COUNTS[run.axes["label"]][run.spec.seed], **changes)
        for run in matrix.runs
    }


def average(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("in_runs", [False, True])
def test_a_table_has_the_metrics_of_levels(lab: Lab, in_runs: bool) -> None:
    matrix = make_levels()
    finish_all(lab, matrix, in_runs=in_runs)
    table = lab.table(matrix)
    for name in (A, B):
        for key in METRICS_SHOWN:
            expected = average(expect(counts)[key] for counts in COUNTS[name])
            assert cell(table, name, key).value == pytest.approx(expected), key
    differences = [
        expect(b)["miou@2"] - expect(a)["miou@2"] for a, b in zip(COUNTS[A], COUNTS[B], strict=True)
    ]
    assert cell(table, B, "delta").value == pytest.approx(average(differences))
    assert cell(table, B, "delta").n == 3
    assert table.family is not None
    (comparison,) = table.family.comparisons
    assert (comparison.metric, comparison.p is not None) == ("miou@2", True)
    assert not lab.store.warnings


def test_the_files_of_a_small_table_are_these(lab: Lab) -> None:
    matrix = make_levels(baseline={})
    finish_all(lab, matrix)
    files = render_files(lab.table(matrix))
    lines = files["test.md"].splitlines()
    golden = Path(__file__).with_name("level_table.md").read_text(encoding="utf-8").splitlines()
    assert lines == golden
    assert "parametric 1,parametric 1,miou@2,%,3,3," in files["test.csv"]
    assert "mistake_distance,edges,3,3," in files["test.csv"]
    assert "mIoU, level 2" in files["test.tex"]


def test_a_lower_mistake_distance_is_better(lab: Lab) -> None:
    matrix = make_levels(metrics=("mistake_distance",), baseline={})
    finish_all(lab, matrix)
    table = lab.table(matrix)
    assert cell(table, A, "mistake_distance").bold
    assert not cell(table, B, "mistake_distance").bold
    assert not METRICS["mistake_distance"].higher_is_better
    assert METRICS["mistake_distance"].unit == "edges"


def test_a_run_without_its_counts_has_no_value_and_a_warning(lab: Lab) -> None:
    matrix = make_levels(baseline={})
    counts = finish_all(lab, matrix)
    lost, changed = (counts[run.run_id] for run in matrix.runs[:2])
    lost.unlink()
    changed.write_bytes(changed.read_bytes() + b"0")
    table = lab.table(matrix)
    shown = cell(table, A, "miou@2")
    assert shown.n == 1
    assert shown.value == pytest.approx(expect(COUNTS[A][2])["miou@2"])
    assert cell(table, A, "miou").n == 3
    (note,) = [note.text for note in table.footnotes if note.mark == shown.mark]
    assert (
        note == "1 of 3 seeds, without seed 0 (no confusion counts), seed 1 (no confusion counts)."
    )
    assert lab.store.warnings == [
        f"{lost}: the confusion counts of {matrix.runs[0].run_id} are gone. Without it, the "
        "metrics on the levels of a tree have no value.",
        f"{changed}: the confusion counts do not match the record's digest. Without it, the "
        "metrics on the levels of a tree have no value.",
    ]


def test_a_setting_without_counts_and_one_without_mistakes_have_a_status(lab: Lab) -> None:
    planned = [(method(name), {"label": name}) for name in (A, B)]
    matrix = add_trees(make_matrix(planned, metrics=("mistake_distance", "miou@2")))
    finish(lab, method(A), make_counts(60, 30, 10)).unlink()
    finish(lab, method(B), [[5, 0, 0], [0, 5, 0], [0, 0, 5]])
    table = lab.table(matrix)
    assert cell(table, A, "miou@2").text == "no confusion counts"
    assert cell(table, A, "mistake_distance").text == "no confusion counts"
    assert cell(table, B, "mistake_distance").text == "no mistakes"
    assert cell(table, B, "miou@2").value == 100


def test_counts_of_other_classes_than_the_tree_are_no_values(lab: Lab) -> None:
    matrix = add_trees(make_matrix([(method(A), {"label": A})], metrics=("miou@2",)))
    path = finish(lab, method(A), [[5, 0], [0, 5]])
    assert cell(lab.table(matrix), A, "miou@2").text == "no confusion counts"
    assert f"{path}: has 2 classes, and the tree 3." in lab.store.warnings[0]


def test_each_data_set_has_its_own_tree(lab: Lab) -> None:
    other = make_spec(dataset={"name": "other", "classes": ["a", "b", "c"]})
    planned = [(method(A), {"dataset": "camvid"}), (other, {"dataset": "other"})]
    matrix = add_trees(make_matrix(planned, metrics=("miou@2", "mistake_distance")))
    deep = make_hierarchy([("p", "q", "a"), ("p", "q", "b"), ("p", "r", "c")])
    matrix.trees["other", ("a", "b", "c")] = deep  # type: ignore[index]
    counts = make_counts(60, 30, 10)
    for spec in (method(A), other):
        finish(lab, spec, counts)
    table = lab.table(matrix)
    expected = expect(counts)
    assert cell(table, "camvid", "miou@2").value == pytest.approx(expected["miou@2"])
    # The 10 pixels of b that are predicted as a are right on level 2, the 30 as c are not.
    assert cell(table, "other", "miou@2").value == pytest.approx(100 * (170 / 200 + 50 / 80) / 2)
    assert cell(table, "other", "mistake_distance").value == pytest.approx((10 * 2 + 30 * 4) / 40)
    (note,) = [note.text for note in table.footnotes if note.text.startswith("Level 2")]
    assert note.endswith("(camvid has 2 groups, other has 2 groups).")


def test_runs_that_average_different_groups_are_compared_over_those_present(lab: Lab) -> None:
    # Without a pixel of sky in the ground truth, a run that predicts sky averages it with IoU 0.
    planned = [(method(name, seed), {"label": name}) for name in (A, B) for seed in range(3)]
    matrix = make_matrix(planned, metrics=("miou@2",), baseline={"label": A})
    matrix = add_trees(matrix, make_hierarchy([("sky", "sky"), ("ground", "road"), ("b", "car")]))
    for spec, axes in planned:
        predicted = spec.seed + 10 if axes["label"] == B else 0
        finish(lab, spec, [[0, 0, 0], [predicted, 60, 10 + spec.seed], [0, 0, 50]])
    table = lab.table(matrix)
    assert table.family is not None
    (comparison,) = table.family.comparisons
    assert comparison.metric == "miou_present@2"
    assert comparison.notes[0] == (
        "Compared over the groups with ground truth (mIoU (present), level 2): the mIoU of these "
        "runs averages 2 to 3 groups, as it counts each group that a run predicts."
    )
    seeds = range(3)
    ours = [(60 / (80 + 2 * s) + 50 / (60 + s)) / 2 for s in seeds]
    theirs = [(60 / (70 + s) + 50 / (60 + s)) / 2 for s in seeds]
    assert cell(table, B, "delta").value == pytest.approx(100 * (average(ours) - average(theirs)))
    assert any("average different groups" in note.text for note in table.footnotes)


def test_all_values_of_an_axis_are_compared_on_a_level(lab: Lab) -> None:
    matrix = make_levels(baseline={}, comparisons=FamilySpec(axis="label"))
    finish_all(lab, matrix)
    family = lab.table(matrix).family
    assert family is not None
    assert (family.metric.key, family.tested) == ("miou@2", 1)


def test_explain_shows_the_value_of_each_run(lab: Lab) -> None:
    matrix = make_levels()
    finish_all(lab, matrix)
    table = lab.table(matrix)
    explanation = explain_cell(matrix, table, A, "mistake_distance", lab.store)
    assert explanation.unit == "edges"
    assert [run.value for run in explanation.runs] == [
        pytest.approx(expect(counts)["mistake_distance"]) for counts in COUNTS[A]
    ]
    delta = explain_cell(matrix, table, B, "delta", lab.store)
    assert [pair.baseline for pair in delta.pairs] == [
        pytest.approx(expect(counts)["miou@2"]) for counts in COUNTS[A]
    ]


def test_a_figure_shows_the_values_of_a_level(lab: Lab) -> None:
    matrix = make_levels()
    counts = finish_all(lab, matrix)
    counts[matrix.runs[0].run_id].unlink()
    figure = FigureBuilder(matrix, lab.store, [lab.published]).build("metric")
    assert isinstance(figure.content, DotPlot)
    assert figure.content.x_name == "mIoU, level 2 (%)"
    rows = {name: values for name, (values,) in figure.content.rows if values is not None}
    assert rows[B].seeds == {
        seed: pytest.approx(expect(counts)["miou@2"]) for seed, counts in enumerate(COUNTS[B])
    }
    assert rows[A].missing == "2 of 3 seeds, the rest no confusion counts"


def test_a_page_shows_the_values_of_a_level(lab: Lab) -> None:
    matrix = make_levels()
    finish_all(lab, matrix)
    page = build_page(matrix, lab.store, [lab.published])
    assert "Highest mean mIoU, level 2" in page.summary[0]
    detail = page.tables[0].details[0].cells[0]
    assert detail.value_name == "mIoU, level 2"
    assert [run.value for run in detail.runs] == [
        pytest.approx(expect(counts)["miou@2"]) for counts in COUNTS[A]
    ]


def test_the_numbers_of_a_page_are_those_of_a_level(lab: Lab) -> None:
    matrix = make_levels()
    finish_all(lab, matrix)
    reader = ResultReader(lambda name: matrix, lab.store, [lab.published])
    values = reader.read_values(reader.find_setting("test", A, "aacc@2"))
    assert values == {
        seed: pytest.approx(expect(counts)["aacc@2"]) for seed, counts in enumerate(COUNTS[A])
    }
    pairs, decimals = reader.pair_rows(["test", A, B, "mistake_distance"], 3)
    assert (pairs.n, decimals) == (3, 3)
    assert reader.find_comparison(["test", A, B, "miou@2"]).metric == "miou@2"


def test_compare_names_the_metric_that_it_does_not_compare(lab: Lab) -> None:
    matrix = make_levels()
    finish_all(lab, matrix)
    sides = [
        (name, find_runs([r.run_id for r in matrix.runs if r.axes["label"] == name], lab.store)[0])
        for name in (B, A)
    ]
    comparison = compare_runs(*sides, Options(draws=20, column="miou@2"))
    differences = [
        expect(b)["miou"] - expect(a)["miou"]
        for a, b in zip(*(COUNTS[n] for n in (A, B)), strict=True)
    ]
    assert comparison.difference == pytest.approx(average(differences))
    assert comparison.notes[0].startswith(
        "The mIoU of the classes is compared, not the column mIoU, level 2."
    )
    assert compare_runs(*sides, Options(draws=20, column="macc")).notes == ()


def write_evaluation_of(lab: Lab, spec: RunSpec, counts: list[list[int]], **changes: Any) -> str:
    """Write an evaluation of a finished run; return its name."""
    record = lab.store.find(run_id(spec)).record
    assert record is not None
    data = pack([np.array(counts)])
    content = {
        "run_id": run_id(spec),
        "record": record["digest"],
        "state_sha256": "b" * 64,
        "split": "test",
        "choice": "",
        "metrics": {"miou": 1.0, "macc": 2.0, "aacc": 3.0, "images": 1},
        "per_class": [],
        "seconds": 1.5,
        "provenance": {"data_digest": "unpinned"},
        "finished": "2026-11-30T00:00:00+00:00",
        "confusion": {"file": "any.npz", "sha256": hashlib.sha256(data).hexdigest()},
        **changes,
    }
    return write_evaluation(content, data, lab.runs / "evaluations").stem


def test_a_table_of_another_split_has_the_levels_of_its_evaluations(lab: Lab) -> None:
    matrix = make_levels()
    finish_all(lab, matrix)
    others = {A: make_counts(50, 20, 30), B: make_counts(40, 0, 60)}
    for run in matrix.runs:
        write_evaluation_of(lab, run.spec, others[run.axes["label"]])
    folders = [lab.runs / "evaluations"]
    table = build_split_table(matrix, lab.store, [lab.published], split="test", folders=folders)
    for name in (A, B):
        for key in ("miou@2", "aacc@2", "mistake_distance"):
            assert cell(table, name, key).value == pytest.approx(expect(others[name])[key])
    difference = expect(others[B])["miou@2"] - expect(others[A])["miou@2"]
    assert cell(table, B, "delta").value == pytest.approx(difference)


def test_a_row_of_an_evaluation_has_its_levels(lab: Lab) -> None:
    matrix = make_levels(baseline={})
    finish_all(lab, matrix)
    counts = make_counts(90, 6, 4)
    prediction = {"mode": "whole", "scales": [1.0, 1.5], "flip": True}
    spec = matrix.runs[0].spec
    name = write_evaluation_of(lab, spec, counts, split="val", prediction=prediction)
    row = ImportedSpec("Several passes", name)
    table = lab.table(with_table(matrix, imported=(row,)))
    for key in ("miou@2", "aacc@2", "mistake_distance"):
        assert cell(table, "Several passes", key).value == pytest.approx(expect(counts)[key])
    assert cell(table, A, "miou@2").value != cell(table, "Several passes", "miou@2").value


def test_best_evaluations_have_no_levels(lab: Lab) -> None:
    with pytest.raises(UsageError, match="--best: miou@2 needs confusion counts"):
        build_best_table(make_levels(), lab.store, [lab.published])


def test_the_power_of_a_level_is_estimated_from_the_counts_of_like_runs(lab: Lab) -> None:
    matrix = make_levels()
    finish_all(lab, matrix)
    records = [record for run in matrix.runs if (record := lab.store.find(run.run_id).record)]
    assert estimate_power(matrix, records) is None
    store = with_levels(matrix, lab.store)
    power = estimate_power(
        matrix, records, lambda record: store.find(record["run_id"]).record or {}
    )
    assert power is not None
    differences = [
        expect(b)["miou@2"] - expect(a)["miou@2"] for a, b in zip(COUNTS[A], COUNTS[B], strict=True)
    ]
    center = average(differences)
    variance = sum((value - center) ** 2 for value in differences) / 2
    assert power.spread == pytest.approx(variance**0.5)


def test_a_store_keeps_its_changes_in_another_store(lab: Lab) -> None:
    matrix = make_levels()
    finish_all(lab, matrix)
    first = matrix.runs[0].run_id
    for store in (
        CachedStore(with_levels(matrix, lab.store)),
        with_levels(matrix, CachedStore(lab.store)),
    ):
        record = store.find(first).record
        assert record is not None
        assert record["levels"]["miou@2"] == pytest.approx(expect(COUNTS[A][0])["miou@2"])
    plain = lab.store.find(first).record
    assert plain is not None
    assert "levels" not in plain
    assert with_levels(make_matrix([(method(A), {"label": A})]), lab.store) is lab.store


def test_messages_about_metrics_are_short() -> None:
    assert {"miou@2", "aacc@9", "mistake_distance"} <= set(QUALITIES)
    with pytest.raises(UsageError) as error:
        check_metrics(["miou@1"], "m: table.metrics")
    assert str(error.value).startswith(
        "m: table.metrics: unknown metric 'miou@1'. Did you mean 'miou'?"
    )
    assert str(error.value).count("@") == 3
    for name in ("miou@10", "seconds@2", "miou@", "mistake_distance@2"):
        with pytest.raises(UsageError, match="unknown metric"):
            check_metrics([name], "m")
