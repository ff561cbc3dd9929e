"""The figure and the tables of differences to the baseline over the number of iterations."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest

from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.figures import save as figure_files
from protoseg.report.figures.builder import FigureBuilder
from protoseg.report.figures.contents import BudgetPlot, Figure
from protoseg.report.verify.figures import check_figures
from protoseg.report.verify.record_sources import Sources
from report.figures.test_figures import draw_figure, interval, lines, read_texts
from report.lab import CLASSES, Lab, cell, make_matrix, make_spec, methods_matrix

BUDGETS = (300, 1000, 3000)
LABELS = ("Linear", "Proto 1", "Proto 10")
SEEDS = (0, 1, 2)
AXIS = "schedule.iterations"
Axes = tuple[str, int]


def budget_matrix(budgets: Any = BUDGETS, labels: Any = LABELS, **table: Any) -> Matrix:
    """A matrix of three rows and some budgets; the table has a column for each budget."""
    methods: dict[str, dict[str, Any]] = {
        "Linear": {"kind": "parametric", "num_prototypes": 1},
        "Proto 1": {"kind": "prototype", "num_prototypes": 1},
        "Proto 10": {"kind": "prototype", "num_prototypes": 10},
    }
    planned = [
        (
            make_spec(seed, method=methods[label], schedule={"iterations": budget}),
            {"label": label, AXIS: budget},
        )
        for label, budget, seed in itertools.product(labels, budgets, SEEDS)
    ]
    return make_matrix(planned, **{"baseline": {"label": "Linear"}, "columns": (AXIS,), **table})


def finish(lab: Lab, matrix: Matrix, without: Any = lambda axes, seed: False) -> Any:
    """Record the runs; return (label, budget) -> seed -> mIoU."""
    values: dict[Axes, dict[int, float]] = {}
    for index, run in enumerate(matrix.runs):
        key = str(run.axes["label"]), run.spec.schedule.iterations
        if not without(key, run.spec.seed):
            miou = 40 + random.Random(index).random() * 5
            values.setdefault(key, {})[run.spec.seed] = miou
            lab.finish(run.spec, miou)
    return values


def build(lab: Lab, matrix: Matrix) -> Figure:
    return FigureBuilder(matrix, lab.store, [lab.published]).build("budget")


def test_each_budget_is_compared_with_the_baseline_of_the_same_budget(lab: Lab) -> None:
    matrix = budget_matrix()
    values = finish(lab, matrix)
    figure = build(lab, matrix)
    assert isinstance(figure.content, BudgetPlot)
    assert figure.content.baseline == "Linear"
    axes = draw_figure(figure).axes[0]
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "iterations (log scale)", "Δ mIoU (points)",
    )  # fmt: skip
    table = lab.table(matrix)
    assert table.family is not None
    tested = {(c.ours, c.group): c for c in table.family.comparisons}
    drawn = list(lines(axes, "interval"))
    for index, label in enumerate(LABELS[1:]):
        ((x, means),) = lines(axes, f"mean-{index}")
        assert x == list(BUDGETS)
        ((x, y),) = lines(axes, f"seeds-{index}")
        seeds = sorted(zip(x, y, strict=True))
        for budget, mean in zip(BUDGETS, means, strict=True):
            ours, theirs = values[label, budget], values["Linear", budget]
            differences = [ours[seed] - theirs[seed] for seed in SEEDS]
            assert mean == pytest.approx(np.mean(differences))
            assert [y for x, y in seeds if x == budget] == pytest.approx(sorted(differences))
            ends = interval(differences)
            assert any(xs[0] == budget and ys == pytest.approx(ends) for xs, ys in drawn)
            # The tables have the same numbers: the pivot over budgets, and its comparisons.
            assert cell(table, label, f"{budget}/delta").value == pytest.approx(mean)
            comparison = tested[label, f"iterations = {budget}"]
            assert comparison.interval == pytest.approx(ends)
    assert len(drawn) == 2 * len(BUDGETS)
    ((_, y),) = lines(axes, "baseline")
    assert list(y) == [0.0, 0.0]
    low, high = axes.get_ylim()
    assert all(low < y < high for _, ys in drawn for y in (*ys, 0.0))


def test_a_table_with_a_row_for_each_budget_has_the_same_differences(lab: Lab) -> None:
    matrix = budget_matrix()
    finish(lab, matrix)
    pivot, rows = lab.table(matrix), lab.table(budget_matrix(columns=()))
    for label, budget in itertools.product(LABELS[1:], BUDGETS):
        of_row = cell(rows, f"{label}, {budget}", "delta")
        assert of_row.value == cell(pivot, label, f"{budget}/delta").value
    assert rows.family is not None
    pairs = {(c.ours, c.theirs) for c in rows.family.comparisons}
    assert ("Proto 1, 1000", "Linear, 1000") in pairs
    assert len(pairs) == 6


def test_missing_differences_are_crosses_and_named(lab: Lab) -> None:
    matrix = budget_matrix()

    def is_missing(axes: Axes, seed: int) -> bool:
        return (
            axes == ("Proto 1", 1000)
            or axes == ("Linear", 3000)
            or (axes == ("Proto 10", 300) and seed > 0)
        )

    finish(lab, matrix, is_missing)
    canvas = draw_figure(build(lab, matrix))
    axes = canvas.axes[0]
    ((_, y),) = lines(axes, "mean-0")
    assert [math.isnan(value) for value in y] == [False, True, True]
    assert [x for x, _ in lines(axes, "missing-0")] == [[1000], [3000]]
    assert [xs[0] for xs, _ in lines(axes, "interval")] == [300, 1000]
    notes = " ".join(read_texts(canvas).split())
    assert "Proto 1 at 1,000 iterations (not run)" in notes
    assert "Proto 10 at 300 iterations (1 of 3 seeds, the rest not run)" in notes
    assert "Proto 10 at 3,000 iterations (baseline without result)" in notes
    assert "No interval is drawn with fewer than 3 seeds." in notes


def test_many_lines_are_inside_the_axes_and_crosses_in_one_row(lab: Lab) -> None:
    counts = range(1, 9)
    planned = [
        (
            make_spec(seed, method={"num_prototypes": k}, schedule={"iterations": budget}),
            {"method.num_prototypes": k, AXIS: budget},
        )
        for k, budget, seed in itertools.product(counts, BUDGETS, SEEDS)
    ]
    matrix = make_matrix(planned, baseline={"method.num_prototypes": 1})
    for run in matrix.runs:
        if run.axes[AXIS] != 3000:
            lab.finish(run.spec, 40.0 + run.spec.method.num_prototypes)
    with figure_files.figure_style():
        canvas = figure_files.draw_figure(build(lab, matrix))
        canvas.draw_without_rendering()
        axes = canvas.axes[0]
        left, right = axes.bbox.x0, axes.bbox.x1
        crosses = []
        for line in axes.get_lines():
            gid = line.get_gid() or ""
            if gid.startswith(("mean-", "missing-")):
                points = line.get_transform().transform(line.get_xydata())
                drawn = [x for x, y in points if not math.isnan(y)]
                assert all(left < x < right for x in drawn), gid
                crosses += [y for _, y in points if gid.startswith("missing-")]
    assert len(crosses) == len(counts) - 1
    assert crosses == pytest.approx([crosses[0]] * len(crosses))


def test_an_axis_that_follows_from_the_budget_makes_no_lines(lab: Lab) -> None:
    warmups = dict(zip(BUDGETS, (10, 30, 100), strict=True))
    planned = []
    for k, (budget, warmup), seed in itertools.product((1, 5), warmups.items(), SEEDS):
        schedule = {"iterations": budget, "warmup_iterations": warmup}
        axes = {"method.num_prototypes": k, AXIS: budget, "schedule.warmup_iterations": warmup}
        planned.append((make_spec(seed, method={"num_prototypes": k}, schedule=schedule), axes))
    matrix = make_matrix(planned, baseline={"method.num_prototypes": 1})
    for index, run in enumerate(matrix.runs):
        lab.finish(run.spec, 40.0 + index % 5)
    content = build(lab, matrix).content
    assert isinstance(content, BudgetPlot)
    assert [(line.name, len(line.points)) for line in content.axis.lines] == [
        ("num_prototypes = 5", 3)
    ]


def test_runs_that_average_different_classes_are_compared_over_those_present(lab: Lab) -> None:
    matrix = budget_matrix(labels=LABELS[:2])
    for run in matrix.runs:
        # Only the baseline predicts the first class, which has no ground truth.
        first = 0.0 if run.axes["label"] == "Linear" else None
        ious = [first, *[60.0 + run.spec.seed] * (len(CLASSES) - 1)]
        entries = [
            {"name": name, "iou": iou, "acc": 90.0, "pixels": 1000 * bool(iou)}
            for name, iou in zip(CLASSES, ious, strict=True)
        ]
        lab.finish(run.spec, 50.0, per_class=entries)
    figure = build(lab, matrix)
    assert isinstance(figure.content, BudgetPlot)
    seeds = [point.place.seeds for line in figure.content.axis.lines for point in line.points]
    assert seeds == [dict.fromkeys(SEEDS, 0.0)] * len(BUDGETS)
    assert any("Compared over the classes with ground truth" in note for note in figure.notes)


def refuse(lab: Lab, matrix: Matrix, error: type[ProtosegError] = UsageError) -> str:
    with pytest.raises(error) as caught:
        build(lab, matrix)
    return str(caught.value)


def test_a_table_without_a_baseline_is_refused(lab: Lab) -> None:
    matrix = budget_matrix(baseline={})
    finish(lab, matrix)
    assert refuse(lab, matrix) == (
        "test: budget: this figure shows differences to a baseline, but the table has none. Add "
        "table.baseline, e.g. {label: ...}."
    )


def test_one_budget_is_refused(lab: Lab) -> None:
    for matrix in (budget_matrix((300,)), methods_matrix(baseline={"label": "parametric 1"})):
        for run in matrix.runs:
            lab.finish(run.spec, 40.0)
        assert refuse(lab, matrix) == (
            "test: budget: no row has two budgets. Add schedule.iterations with at least two "
            "values to grid."
        )


def test_a_baseline_of_another_budget_is_refused(lab: Lab) -> None:
    matrix = budget_matrix(baseline={"label": "Linear", AXIS: 300})
    finish(lab, matrix)
    assert refuse(lab, matrix) == (
        "test: budget: the baseline of Linear, iterations = 1000 has 300 iterations, not 1,000. "
        "Leave schedule.iterations out of table.baseline."
    )


def test_without_a_shared_seed_nothing_is_drawn(lab: Lab) -> None:
    matrix = budget_matrix()
    finish(lab, matrix, lambda axes, seed: axes[0] == "Linear")
    assert refuse(lab, matrix, ProtosegError) == (
        "test: budget: no row shares a finished seed with its baseline of the same budget. Train "
        "with: protoseg sweep test"
    )


def test_a_matrix_with_budgets_draws_them_without_being_asked(lab: Lab) -> None:
    matrix = budget_matrix()
    finish(lab, matrix)
    builder = FigureBuilder(matrix, lab.store, [lab.published])
    assert builder.list_default_types() == ["metric", "budget"]
    builder = FigureBuilder(budget_matrix(baseline={}), lab.store, [lab.published])
    assert builder.list_default_types() == ["metric"]


def test_verify_compares_the_figure_of_budgets_with_the_records(lab: Lab) -> None:
    matrix = budget_matrix()
    finish(lab, matrix)
    figure_files.write_figure_files(build(lab, matrix), lab.folder / "figures")
    check = check_figures(Sources(lab.folder), {"test": matrix}, {}, True)
    assert (check.count, check.problems) == (3, [])
    lab.finish(matrix.runs[0].spec, 70.0)
    check = check_figures(Sources(lab.folder), {"test": matrix}, {}, True)
    assert {problem.file for problem in check.problems} == {
        f"figures/test_budget.{form}" for form in ("svg", "pdf", "png")
    }
