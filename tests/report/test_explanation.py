"""Explanations of table cells: runs, differences, notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protoseg.config.identity import run_id
from protoseg.config.matrix import PublishedSpec
from protoseg.errors import UsageError
from protoseg.report.explanation import explain_cell
from report.lab import COMMIT, Lab, make_matrix, method, methods_matrix
from report.tables.test_builder import A, B, finish_all, per_class, pivot_matrix, write_published


def test_a_delta_lists_the_runs_of_both_sides(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0]})
    lab.finish(method(B, 0), 75.0, provenance={"dirty": True}, attempts=4)
    lab.finish(method(B, 1), 77.0, in_runs=True)
    lab.fail(method(B, 2), "out_of_memory", "CUDA out of memory")
    monkeypatch.chdir(lab.folder)
    matrix = methods_matrix([A, B], baseline={"label": A})
    explanation = explain_cell(matrix, lab.table(matrix), B, "delta", lab.store)
    assert explanation.shown == "+5.50 ± 0.71 [a]"
    ours = [line for line in explanation.runs if not line.baseline]
    assert [line.seed for line in ours] == [0, 1, 2]
    assert [line.state for line in ours] == ["done", "done", "failed: out_of_memory"]
    first, second, third = ours
    assert (first.value, first.dirty, first.attempts, first.commit) == (75.0, True, 4, COMMIT)
    assert first.record == str(Path("records") / f"{run_id(method(B, 0))}.json")
    assert second.record == str(Path("runs") / run_id(method(B, 1)) / "record.json")
    assert (third.value, third.record, third.message) == (None, "", "CUDA out of memory")
    assert [(p.seed, p.difference) for p in explanation.pairs] == [(0, 5.0), (1, 6.0)]
    assert explanation.notes == (
        "2 of 3 seeds, without seed 2 (failed: out_of_memory).",
        "Not tested: 2 seeds.",
    )
    assert (explanation.interval, explanation.p, explanation.detectable) == (None, None, None)
    assert json.loads(json.dumps(explanation.to_dict()))["runs"][0]["device"] == "NVIDIA H200"


def test_a_tested_difference_has_the_result_of_the_table(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0], B: [75.0, 77.0, 76.5], "prototype 1": [60.0, 61, 62.3]})
    matrix = methods_matrix([A, B, "prototype 1"], baseline={"label": A})
    explanation = explain_cell(matrix, lab.table(matrix), B, "delta", lab.store)
    assert explanation.p == pytest.approx(0.0072, abs=5e-5)
    assert explanation.notes == (
        "The table has 2 tests, each row against parametric 1. Result of this one: higher, "
        "adjusted p 0.007. Method: paired t test over seeds.",
    )
    assert explain_cell(matrix, lab.table(matrix), B, "miou", lab.store).notes == ()


def test_a_difference_over_different_classes_is_explained_over_the_common_ones(lab: Lab) -> None:
    for seed in range(3):
        lab.finish(method(A, seed), 54.0 + seed, per_class=per_class(54.0 + seed, None))
        lab.finish(method(B, seed), 40.0 + seed, per_class=per_class(60.0 + 1.5 * seed, 0.0))
    matrix = methods_matrix([A, B], baseline={"label": A})
    explanation = explain_cell(matrix, lab.table(matrix), B, "delta", lab.store)
    assert [(p.value, p.baseline) for p in explanation.pairs] == [
        (60.0, 54.0),
        (61.5, 55.0),
        (63.0, 56.0),
    ]
    assert explanation.shown == "+6.50 ± 0.50 [a]"
    assert explanation.notes[0].startswith("Compared over the classes with ground truth")


def test_rows_and_columns_are_found_by_name_and_number(lab: Lab) -> None:
    matrix = pivot_matrix(lab)
    table = lab.table(matrix)

    def at(row: str, column: str) -> tuple[str, str]:
        explanation = explain_cell(matrix, table, row, column, lab.store)
        return explanation.row, explanation.column

    for row in ("prototype", " Prototype", "2", "#2"):
        for column in ("10/miou", "num_prototypes = 10 mIoU", "3", "#3"):
            assert at(row, column) == ("prototype", "10/miou")
    for row, column, message in (
        ("protoype", "1", "unknown row 'protoype'. Did you mean 'prototype'? Known: parametric"),
        ("prototype", "10/miuo", "Did you mean '10/miou'"),
        ("3", "1", "unknown row '3'"),
        ("0", "1", "unknown row '0'"),
        ("prototype", "method", "unknown column 'method'"),
    ):
        with pytest.raises(UsageError) as error:
            at(row, column)
        assert message in str(error.value)


def test_a_numeric_label_has_precedence_over_a_row_number(lab: Lab) -> None:
    planned = [(method(f"prototype {k}"), {"k": k}) for k in (5, 1)]
    matrix = make_matrix(planned)
    table = lab.table(matrix)
    assert explain_cell(matrix, table, "1", "miou", lab.store).row == "1"
    assert explain_cell(matrix, table, "#1", "miou", lab.store).row == "5"
    assert explain_cell(matrix, table, "#2", "miou", lab.store).row == "1"
    # If 1 and 5 are labels, 2 is an unknown label and not the second row.
    with pytest.raises(UsageError, match="unknown row '2'"):
        explain_cell(matrix, table, "2", "miou", lab.store)


def test_a_row_has_its_name_in_figures_too(lab: Lab) -> None:
    planned = [
        (method(f"{name} {k}"), {"method": name, "k": k})
        for name in ("parametric", "prototype")
        for k in (1, 5)
    ]
    matrix = make_matrix(planned, names={"k": "K", "prototype": "ProtoSeg"})
    table = lab.table(matrix)
    for name in ("ProtoSeg, 5", "ProtoSeg, K = 5", "#4"):
        assert explain_cell(matrix, table, name, "miou", lab.store).row == "ProtoSeg, 5"


def test_a_verdict_is_explained_with_both_intervals(lab: Lab) -> None:
    write_published(
        lab, "rows:\n  - {method: parametric 1, miou: 45.0}", "dataset: camvid\nsplit: val\n"
    )
    finish_all(lab, {A: [46.1, 46.4, 46.7]})
    spec = PublishedSpec("numbers", match={"label": "method"})
    matrix = methods_matrix([A], published=spec)
    explanation = explain_cell(matrix, lab.table(matrix), A, "verdict", lab.store)
    assert (explanation.shown, len(explanation.runs)) == ("can not tell", 3)
    assert "95 % interval of the mean: 45.6548 to 47.1452." in explanation.notes
    assert "95 % interval of one more run: 44.9095 to 47.8905." in explanation.notes


def test_published_cells_name_their_source(lab: Lab) -> None:
    write_published(lab, "rows:\n  - {method: parametric 1, miou: 45.0}")
    spec = PublishedSpec("numbers", match={"label": "method"})
    matrix = methods_matrix([A], published=spec)
    explanation = explain_cell(matrix, lab.table(matrix), A, "published", lab.store)
    assert (explanation.shown, explanation.runs) == ("45.0", ())
    assert "The Paper, Table 1" in explanation.notes[0]
