"""Metrics on the way in reports: the table of the best evaluations, and what verify recomputes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import pytest

from protoseg.config.identity import run_id
from protoseg.config.matrix import Matrix
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.curves import build_best_table, count_evaluations, read_curve
from protoseg.report.formats.files import write_table_files
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.model import Table
from protoseg.report.verify.record_sources import Sources
from protoseg.report.verify.tables import check_tables, list_table_names
from report.lab import CLASSES, Lab, cell, make_matrix, make_record, make_spec

SEEDS = (0, 1, 2)
HEADS = ("parametric", "prototype")


def on_the_way(head: str, seed: int, every: int = 25, **schedule: Any) -> RunSpec:
    return make_spec(
        seed,
        method={"kind": head, "num_prototypes": 1},
        evaluation={"every": every},
        schedule=schedule,
    )


def make_point(iteration: int, miou: float) -> dict[str, Any]:
    iou = [miou + index - 1 for index in range(len(CLASSES))]
    return {
        "iteration": iteration, "miou": miou, "macc": miou + 5, "aacc": miou + 10,
        "miou_present": miou, "iou": iou, "loss": 1.0 / iteration,
    }  # fmt: skip


def make_points(mious: Sequence[float], every: int = 25) -> list[dict[str, Any]]:
    return [make_point(every * number, miou) for number, miou in enumerate(mious, 1)]


def make_curve_matrix(every: int = 25, **table: Any) -> Matrix:
    planned = [(on_the_way(head, s, every), {"label": head}) for head in HEADS for s in SEEDS]
    return make_matrix(planned, **table)


def finish(lab: Lab, matrix: Matrix) -> dict[str, float]:
    """Write records whose best evaluation is the second of four; label -> mean of the best."""
    best: dict[str, list[float]] = {}
    for index, run in enumerate(matrix.runs):
        mious = [30.0 + index, 50.0 + 3 * index, 50.0 + 3 * index, 40.0 + index]
        lab.finish(run.spec, mious[-1], curve=make_points(mious))
        best.setdefault(str(run.axes["label"]), []).append(mious[1])
    return {label: sum(values) / len(values) for label, values in best.items()}


def build_best(lab: Lab, matrix: Matrix) -> Table:
    return build_best_table(matrix, lab.store, [lab.published])


def test_the_best_table_has_the_best_evaluation_of_each_run(lab: Lab) -> None:
    matrix = make_curve_matrix(metrics=("miou", "macc", "aacc"), baseline={"label": "parametric"})
    best = finish(lab, matrix)
    table = build_best(lab, matrix)
    assert table.name == "test_best"
    for head in HEADS:
        for key, above in (("miou", 0), ("macc", 5), ("aacc", 10)):
            assert cell(table, head, key).value == pytest.approx(best[head] + above)
    difference = best["prototype"] - best["parametric"]
    assert cell(table, "prototype", "delta").value == pytest.approx(difference)
    classes = {entry.name: entry.mean for entry in table.per_class if entry.row == "parametric"}
    assert classes == pytest.approx(
        {name: best["parametric"] + index - 1 for index, name in enumerate(CLASSES)}
    )
    last = lab.table(matrix)
    assert cell(last, "parametric", "miou").value == pytest.approx(41.0), "tables use the last"


def test_the_first_footnote_of_the_best_table_is_the_oracle(lab: Lab) -> None:
    matrix = make_curve_matrix()
    finish(lab, matrix)
    table = build_best(lab, matrix)
    assert table.footnotes[0].text.startswith(
        "The best of 4 evaluations on the way, chosen on the evaluated split: an oracle."
    )
    assert table.footnotes[1:] == lab.table(matrix).footnotes
    longer = [(on_the_way("parametric", s, iterations=60 + s), {"label": s}) for s in (0, 1)]
    both = make_matrix([(run.spec, run.axes) for run in matrix.runs] + longer)
    assert build_best(lab, both).footnotes[0].text.startswith("The best of 3 to 4 evaluations")


@pytest.mark.parametrize(
    ("every", "iterations", "number"),
    [(0, 100, 1), (25, 100, 4), (30, 100, 4), (100, 100, 1), (99, 100, 2), (1, 3, 3)],
)
def test_evaluations_are_counted_with_the_last_one(
    every: int, iterations: int, number: int
) -> None:
    assert count_evaluations(on_the_way("parametric", 0, every, iterations=iterations)) == number


def test_a_matrix_without_metrics_on_the_way_has_no_best_table(lab: Lab) -> None:
    matrix = make_curve_matrix(every=0)
    with pytest.raises(UsageError) as caught:
        build_best(lab, matrix)
    assert str(caught.value) == (
        f"test: --best: 6 of 6 runs are evaluated at the end alone, for example "
        f"{matrix.runs[0].run_id}. Add evaluation.every to base, or leave out --best."
    )


def test_a_record_that_lost_its_curve_is_named(lab: Lab) -> None:
    matrix = make_curve_matrix()
    lab.finish(matrix.runs[0].spec, 40.0)
    with pytest.raises(ProtosegError, match=f"{matrix.runs[0].run_id}: its record has no metrics"):
        build_best(lab, matrix)


def test_runs_that_differ_in_every_alone_share_a_table(lab: Lab) -> None:
    """The evaluation at the end is the same; the runs are two."""
    specs = [on_the_way("parametric", 0, every) for every in (0, 25)]
    assert len({run_id(spec) for spec in specs}) == 2
    matrix = make_matrix(
        [(spec, {"evaluation.every": spec.evaluation.every}) for spec in specs],
        baseline={"evaluation.every": 0},
        rows=("evaluation.every",),
    )
    for spec in specs:
        lab.finish(
            spec, 40.0, **({"curve": make_points([1, 2, 3, 40])} if spec.evaluation.every else {})
        )
    assert cell(lab.table(matrix), "25", "delta").value == 0.0
    other = dataclasses.replace(
        specs[0], evaluation=dataclasses.replace(specs[1].evaluation, split="test")
    )
    mixed = make_matrix([(specs[0], {"label": "a"}), (other, {"label": "b"})])
    with pytest.raises(ProtosegError, match=re.escape("they differ in evaluation.split; run")):
        build_table(mixed, lab.store, [])


def test_verify_rebuilds_the_best_table(lab: Lab) -> None:
    matrix = make_curve_matrix()
    finish(lab, matrix)
    folder = lab.folder / "tables"
    write_table_files(lab.table(matrix), folder)
    paths = write_table_files(build_best(lab, matrix), folder)
    assert {path.name for path in paths} == {
        *("test_best.md", "test_best.tex", "test_best.csv", "test_best.html"),
        "test_best_per_class.csv",
    }
    assert "test" in list_table_names(folder)
    sources, matrices = Sources(lab.folder), {"test": matrix}
    tables, _ = check_tables(sources, matrices, {}, True)
    assert (tables.count, tables.problems, tables.notes) == (10, [], [])
    # Another best evaluation with the same last one.
    run = matrix.runs[0].spec
    lab.finish(run, 40.0, curve=make_points([30.0, 55.0, 50.0, 40.0]))
    tables, _ = check_tables(sources, matrices, {}, True)
    assert {problem.file for problem in tables.problems} == {
        f"tables/{path.name}" for path in paths
    }


def test_a_curve_is_read_by_iteration() -> None:
    record = make_record(on_the_way("parametric", 0), 40.0, curve=make_points([10.0, 40.0]))
    assert read_curve(record, "miou") == {25: 10.0, 50: 40.0}
    assert read_curve(record, "loss") == {25: 0.04, 50: 0.02}
    assert read_curve(make_record(make_spec(), 40.0), "miou") == {}
