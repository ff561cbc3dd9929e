"""The figures of a search: drawn trials and tuning curves, refusals, and ``verify``."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from matplotlib.figure import Figure as Canvas

from protoseg.config.tuning.block import read_block
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.figures import save as figure_files
from protoseg.report.figures.builder import FigureBuilder
from protoseg.report.figures.contents import Figure, TrialPlot, TuningCurvePlot
from protoseg.report.figures.trial_types import TrialInput, build_trial_figure
from protoseg.report.metrics import METRICS
from protoseg.report.statistics.tuning_curve import compute_best_of_trials
from protoseg.report.verify.figures import check_figures
from protoseg.report.verify.record_sources import Sources
from report.figures.searches import BLOCK, LABELS, choose, finish_trials, get_rows, make_search
from report.figures.test_figures import draw_figure, lines, read_texts
from report.lab import Lab, methods_matrix

RATE, TEMPERATURE = "schedule.learning_rate", "method.score_temperature"
TYPES = ("trials", "tuning_curves")


def build(lab: Lab, matrix: Any, figure_type: str) -> Figure:
    return FigureBuilder(matrix, lab.store, [lab.published]).build(figure_type)


def read_notes(canvas: Canvas) -> str:
    return " ".join(read_texts(canvas).split())


def test_each_searched_key_has_a_panel_and_the_chosen_trials_have_rings(lab: Lab) -> None:
    matrix = make_search()
    values = finish_trials(lab, matrix)
    matrix = choose(lab, matrix)
    figure = build(lab, matrix, "trials")
    assert (figure.name, figure.title) == ("test_trials", "Trials of A test")
    assert isinstance(figure.content, TrialPlot)
    assert [panel.values for panel in figure.content.panels] == [(), ("0.05", "0.1", "0.2")]
    canvas = draw_figure(figure)
    rates, temperatures = canvas.axes
    assert rates.get_xscale() == "log"
    assert rates.get_xlabel() == "learning_rate (log scale)"
    assert temperatures.get_xlabel() == "score_temperature"
    assert [label.get_text() for label in temperatures.get_xticklabels()] == ["0.05", "0.1", "0.2"]
    best = {"Linear": 2, "Query": 4, "Proto 1": 1, "Proto 2": 3}
    for index, row in enumerate(get_rows(matrix)):
        results = [values[row.name, trial.number] for trial in row.trials]
        ((x, y),) = lines(rates, f"trials-{index}")
        assert x == [trial.values[RATE] for trial in row.trials]
        assert y == results
        ((x, y),) = lines(rates, f"chosen-{index}")
        chosen = row.trials[best[row.name] - 1]
        assert (x, y) == ([chosen.values[RATE]], [max(results)])
        if not row.name.startswith("Proto"):
            assert list(lines(temperatures, f"trials-{index}")) == []
            continue
        ((x, y),) = lines(temperatures, f"trials-{index}")
        positions = [(0.05, 0.1, 0.2).index(trial.values[TEMPERATURE]) for trial in row.trials]
        assert [round(position) for position in x] == positions
        assert y == results
    texts = [text.get_text() for text in canvas.legends[0].get_texts()]
    assert texts == [*LABELS, "chosen"]
    notes = read_notes(canvas)
    assert "mIoU of each trial on val, against the values of the searched keys." in notes
    assert "Ring: the chosen trial of a row." in notes
    assert "This is an oracle" in notes
    assert "Left out" not in notes


def test_unfinished_trials_are_left_out_and_counted_before_the_choice(lab: Lab) -> None:
    matrix = make_search()
    lost = [("Linear", 1), ("Linear", 2), *(("Query", i) for i in range(1, 5))]
    values = finish_trials(lab, matrix, lost)
    lab.fail(get_rows(matrix)[0].trials[0].run.spec, "out_of_memory")
    figure = build(lab, matrix, "trials")
    assert isinstance(figure.content, TrialPlot)
    assert [row.missing for row in figure.content.rows] == [
        "2 of 4 trials: 1 failed: out_of_memory, 1 not run", "not run", "", "",
    ]  # fmt: skip
    canvas = draw_figure(figure)
    ((_, y),) = lines(canvas.axes[0], "trials-0")
    assert y == [values["Linear", 3], values["Linear", 4]]
    assert list(lines(canvas.axes[0], "trials-1")) == []
    assert list(lines(canvas.axes[0], "chosen")) == []
    notes = read_notes(canvas)
    assert "Not chosen yet. Left out: 6 of 16 trials (5 not run, 1 failed: out_of_memory)." in notes
    canvas = draw_figure(build(lab, matrix, "tuning_curves"))
    assert "Left out: 6 of 16 trials" in read_notes(canvas)
    assert [text.get_text() for text in canvas.axes[1].texts] == ["not run"]
    assert [len(y) for _, y in lines(canvas.axes[0], "mean-0")] == [2]


@pytest.mark.parametrize("number", [2, 4])
def test_tuning_curves_are_the_best_of_n_trials(lab: Lab, number: int) -> None:
    """Few rows share a panel, more have one each."""
    matrix = make_search(LABELS[:number], rows={})
    values = finish_trials(lab, matrix)
    figure = build(lab, matrix, "tuning_curves")
    assert isinstance(figure.content, TuningCurvePlot)
    canvas = draw_figure(figure)
    assert len(canvas.axes) == (1 if number == 2 else number)
    for index, row in enumerate(get_rows(matrix)):
        results = [values[row.name, trial.number] for trial in row.trials]
        curve = compute_best_of_trials(results)
        assert figure.content.curves[index].results == tuple(results)
        axes = canvas.axes[0 if number == 2 else index]
        ((x, y),) = lines(axes, f"mean-{index}")
        assert (x, y) == ([1, 2, 3, 4], list(curve.mean))
        (band,) = [c for c in axes.collections if c.get_gid() == f"band-{index}"]
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
        for edge in (curve.low, curve.high):
            assert set(zip(x, edge, strict=True)) <= corners
    if number == 2:
        assert [text.get_text() for text in canvas.legends[0].get_texts()] == [*LABELS[:2]]
    else:
        assert [axes.get_title(loc="left") for axes in canvas.axes] == [*LABELS]
        assert all(len(list(lines(axes, "other"))) == 3 for axes in canvas.axes)
    assert canvas.axes[0].get_ylabel() == "best mIoU (%)"


def test_one_trial_has_one_point(lab: Lab) -> None:
    matrix = make_search(LABELS[:2], rows={}, trials=1)
    finish_trials(lab, matrix)
    axes = draw_figure(build(lab, matrix, "tuning_curves")).axes[0]
    assert [x for x, _ in lines(axes, "mean")] == [[1], [1]]
    low, high = axes.get_xlim()
    assert [x for x in axes.get_xticks() if low <= x <= high] == [1]


def test_names_that_are_no_numbers_are_evenly_spaced(lab: Lab) -> None:
    search = {
        "method.distance": ["euclidean", "cosine"],
        "method.momentum": {"uniform": [0.9, 0.999]},
    }
    matrix = make_search(["Proto 1"], search=search, rows={})
    finish_trials(lab, matrix)
    figure = build(lab, matrix, "trials")
    assert isinstance(figure.content, TrialPlot)
    names, numbers = figure.content.panels
    assert (names.scale, names.values) == ("even", ("euclidean", "cosine"))
    assert (numbers.scale, numbers.limits) == ("linear", (0.9, 0.999))
    draw_figure(figure).draw_without_rendering()


def test_two_keys_with_one_last_part_have_their_whole_names(lab: Lab) -> None:
    search = {"other.scale": [1, 2], "method.momentum": [0.9, 0.99]}
    tuning = make_search(["Proto 1"], search={"method.momentum": [0.9, 0.99]}, rows={}).tuning
    assert tuning is not None
    spaces = read_block({**BLOCK, "search": {**search, "other.momentum": [1, 2]}}, "test").search
    row = dataclasses.replace(tuning.rows[0], spaces=spaces)
    trials = TrialInput(
        make_search(), dataclasses.replace(tuning, rows=(row,)), METRICS["miou"], (), ()
    )
    content = build_trial_figure(trials).content
    assert isinstance(content, TrialPlot)
    names = [panel.name for panel in content.panels]
    assert names == ["scale", "method.momentum", "other.momentum"]


@pytest.mark.parametrize("figure_type", TYPES)
def test_a_matrix_without_a_search_is_refused(lab: Lab, figure_type: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(lab, methods_matrix(), figure_type)
    assert str(caught.value) == (
        f"test: {figure_type}: it has no search. Name a matrix with a block tune."
    )


@pytest.mark.parametrize("figure_type", TYPES)
def test_a_search_without_a_finished_trial_is_refused(lab: Lab, figure_type: str) -> None:
    with pytest.raises(ProtosegError) as caught:
        build(lab, make_search(), figure_type)
    assert str(caught.value) == (
        f"test: {figure_type}: no trial has finished, so there is nothing to draw. Train with: "
        "protoseg sweep test"
    )


def test_unequal_tuning_is_in_the_caption(lab: Lab) -> None:
    matrix = make_search()
    finish_trials(lab, matrix, [("Linear", 1)])
    canvas = draw_figure(build(lab, choose(lab, matrix), "tuning_curves"))
    assert "Linear was chosen among 3 of 4 trials (no result: 1)" in read_notes(canvas)


def test_equal_records_give_equal_bytes(lab: Lab) -> None:
    matrix = make_search(LABELS[:2], rows={})
    finish_trials(lab, matrix)
    first = figure_files.render_files(build(lab, matrix, "tuning_curves"))
    assert figure_files.render_files(build(lab, matrix, "tuning_curves")) == first


def test_verify_compares_figures_of_trials_with_the_records(lab: Lab) -> None:
    matrix = make_search()
    finish_trials(lab, matrix)
    folder = lab.folder / "figures"
    for figure_type in TYPES:
        figure_files.write_figure_files(build(lab, matrix, figure_type), folder)
    check = check_figures(Sources(lab.folder), {"test": matrix}, {}, True)
    assert (check.count, check.problems) == (6, [])
    lab.finish(get_rows(matrix)[0].trials[0].run.spec, 70.0)
    check = check_figures(Sources(lab.folder), {"test": matrix}, {}, True)
    assert {problem.file for problem in check.problems} == {
        f"figures/test_{figure_type}.{form}" for figure_type in TYPES
        for form in ("svg", "pdf", "png")
    }  # fmt: skip
    # A choice changes the figure of trials, but not the tuning curves.
    finish_trials(lab, matrix)
    check = check_figures(Sources(lab.folder), {"test": choose(lab, matrix)}, {}, True)
    assert {problem.message for problem in check.problems} == {
        "was drawn from other data than the records hold. Draw it again: protoseg figures test "
        "--kind trials"
    }


def test_verify_reads_trials_that_are_in_run_folders_only(lab: Lab) -> None:
    matrix = make_search()
    finish_trials(lab, matrix, in_runs=True)
    figure_files.write_figure_files(build(lab, matrix, "trials"), lab.folder / "figures")
    check = check_figures(Sources(lab.folder, runs=lab.runs), {"test": matrix}, {}, True)
    assert (check.count, check.problems) == (3, [])
    assert check.notes == [
        "test: compared with 16 run folders; their records are not published. To publish: "
        "protoseg tables test --keep-records"
    ]
    check = check_figures(Sources(lab.folder), {"test": matrix}, {}, True)
    assert "no trial has finished" in check.problems[0].message
