"""The content of a page: numbers, runs behind cells, what is missing, how rows are reproduced."""

from __future__ import annotations

import statistics

from protoseg.config.identity import run_id
from protoseg.config.matrix import Matrix, PublishedSpec
from protoseg.report.page.builder import build_page
from protoseg.report.page.model import Chart, DotChart, Page
from protoseg.report.page.site import render_page
from report.figures.searches import choose, finish_trials, get_rows, make_search
from report.lab import COMMIT, Lab, make_matrix, make_spec, method, methods_matrix
from report.page.html_reader import Element, read_html, read_rows
from report.tables.test_builder import A, B, finish_all, pivot_matrix, write_published

OURS, THEIRS = [75.0, 76.5, 78.5], [70.0, 71.0, 72.0]
"""mIoU of the seeds 0, 1, 2 of two rows."""


def make_page(lab: Lab, matrix: Matrix) -> Page:
    """Build the page of a matrix from the folders of a lab."""
    return build_page(matrix, lab.store, [lab.published])


def read_page(lab: Lab, matrix: Matrix) -> Element:
    """Build, render and read the page of a matrix."""
    return read_html(render_page(make_page(lab, matrix)))


def two_rows(**table: object) -> Matrix:
    """A baseline and a row that is compared with it, three seeds each."""
    return methods_matrix([A, B], baseline={"label": A}, **table)


def test_the_table_shows_mean_spread_and_difference(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS, B: OURS})
    page = read_page(lab, two_rows())
    table = page.find("div", id="main").find("table", **{"class": "data"})
    differences = [a - b for a, b in zip(OURS, THEIRS, strict=True)]
    assert read_rows(table) == [
        [A, "71.00 ± 1.00", "–"],
        [B, f"{statistics.mean(OURS):.2f} ± {statistics.stdev(OURS):.2f}",
         f"+{statistics.mean(differences):.2f} ± {statistics.stdev(differences):.2f}"],
    ]  # fmt: skip


def test_a_cell_leads_to_its_runs_seeds_values_and_commit(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS, B: OURS})
    page = read_page(lab, two_rows())
    row = page.find("div", id="main").find_all("tr")[2]
    measured, delta = (link.attributes["href"] for link in row.find_all("a"))
    detail = page.find("div", id=measured.removeprefix("#"))
    assert [cells[:4] + cells[-1:] for cells in read_rows(detail.find("table"))] == [
        [str(seed), f"{value:.4f}", "done", COMMIT[:10], run_id(method(B, seed))]
        for seed, value in enumerate(OURS)
    ]
    sides = read_rows(page.find("div", id=delta.removeprefix("#")).find("table"))
    assert [cells[:3] for cells in sides] == [
        *(["row", str(seed), f"{value:.4f}"] for seed, value in enumerate(OURS)),
        *(["baseline", str(seed), f"{value:.4f}"] for seed, value in enumerate(THEIRS)),
    ]
    facts = page.find("div", id=delta.removeprefix("#")).text
    assert "Differences: seed 0: +5.0000; seed 1: +5.5000; seed 2: +6.5000." in facts
    # Each cell of a seed's numbers has such a list, inside a <details> element.
    links = {link.attributes["href"] for link in page.find_all("a", **{"class": "cell"})}
    inside = {
        f"#{detail.attributes['id']}"
        for outer in page.find_all("details")
        for detail in outer.find_all("div", **{"class": "detail"})
    }
    assert links == inside


def test_the_summary_has_the_verdict_of_the_comparisons(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS, B: OURS})
    measured, verdicts, limits = make_page(lab, two_rows()).summary
    assert measured == (
        f"6 of 6 runs have a record. Highest mean mIoU: 76.67 ± 1.76 %, {B} (3 seeds)."
    )
    assert verdicts == (
        f"Tested in mIoU: each row against {A}. Of 1 comparison 1 has an adjusted p < 0.05 (Holm): "
        f"{B} is higher."
    )
    assert limits.startswith("Untuned: this matrix has no search")
    assert "3 seeds: the t test assumes normally distributed differences" in limits


def test_no_difference_is_not_called_equality(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 75.0, 65.0], B: [71.0, 70.0, 69.0]})
    verdicts = make_page(lab, two_rows()).summary[1]
    assert "none have an adjusted p < 0.05" in verdicts
    assert "In 1 no difference was found, which does not show that there is none." in verdicts


def test_missing_seeds_failures_and_attempts_are_listed(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS, B: OURS[:1]})
    lab.fail(method(B, 1), "out_of_memory", "CUDA out of memory")
    page = make_page(lab, two_rows())
    assert "Seeds are missing: " + f"{B} (1 of 3 seeds)." in page.summary[2]
    assert "2 of 6 runs have no record." in page.summary[2]
    assert {(m.row, m.seeds, m.state, m.message) for m in page.missing} == {
        (B, "1", "failed: out_of_memory", "CUDA out of memory"),
        (B, "2", "not run", ""),
    }
    (failure,) = page.failures
    assert (failure.run_id, failure.number) == (run_id(method(B, 1)), 1)
    assert (failure.reason, failure.message) == ("out_of_memory", "CUDA out of memory")
    assert page.train == "protoseg sweep test"


def test_a_failed_attempt_of_a_finished_run_is_listed(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS})
    lab.fail(method(A, 0), "preempted", "the node was taken")
    lab.finish(method(A, 0), THEIRS[0], in_runs=True)
    page = make_page(lab, methods_matrix([A]))
    assert [failure.reason for failure in page.failures] == ["preempted"]
    assert page.missing == ()


def test_each_row_is_reproduced_by_the_runs_of_its_records(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS, B: OURS[:1]})
    commands = {row.label: row.commands for row in make_page(lab, two_rows()).commands}
    assert commands[B] == f"protoseg reproduce {run_id(method(B, 0))} --checkout"
    assert commands[A].count("\n") == 2


def test_provenance_counts_the_records_of_each_value(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS[:2]})
    lab.finish(method(A, 2), 70.0, provenance={"commit": "f" * 40, "dirty": True})
    origins = {(o.name, o.value): o.records for o in make_page(lab, methods_matrix([A])).origins}
    assert origins["Commit", COMMIT] == 2
    assert origins["Commit", f"{'f' * 40}, with uncommitted changes"] == 1
    assert origins["Machine", "NVIDIA H200"] == 3
    assert origins["Package torch", "2.13.0"] == 3
    assert origins["Python", "not recorded"] == 3


def test_without_a_record_the_page_lists_what_is_missing(lab: Lab) -> None:
    page = read_page(lab, two_rows())
    assert "0 of 6 runs have a record." in page.find("section", id="summary").text
    assert "No comparison is tested: no run has a record." in page.text
    rows = read_rows(page.find("section", id="missing").find("table"))
    assert [row[:4] for row in rows] == [
        [A, "3", "0, 1, 2", "not run"],
        [B, "3", "0, 1, 2", "not run"],
    ]
    assert not page.find_all("section", id="charts")
    assert "protoseg sweep test" in page.find("section", id="reproduce").text


def test_a_damaged_record_is_named_and_not_shown(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS})
    path = lab.finish(method(A, 1), 71.0)
    path.write_text(path.read_text().replace("71.0", "99.0"))
    page = read_page(lab, methods_matrix([A]))
    assert "damaged record" in page.find("ul", **{"class": "warnings"}).text
    assert "99.0" not in page.text


def test_charts_show_the_means_of_the_records(lab: Lab) -> None:
    losses = {0: [[10, {"loss": 3.0}], [20, {"loss": 1.0}]],
              1: [[10, {"loss": 5.0}], [20, {"loss": 2.0}]]}  # fmt: skip
    for seed, points in losses.items():
        lab.finish(method(A, seed), THEIRS[seed], losses=points)
    dots, loss = make_page(lab, methods_matrix([A], seeds=(0, 1))).charts
    assert isinstance(dots, DotChart)
    assert [(row.label, row.values, row.mean) for row in dots.rows] == [(A, (70.0, 71.0), 70.5)]
    assert isinstance(loss, Chart)
    (series,) = loss.series
    assert (series.x, series.y) == ((10.0, 20.0), (4.0, 1.5))
    assert (series.low, series.high) == ((3.0, 1.0), (5.0, 2.0))


def test_a_numeric_axis_is_a_chart_of_lines(lab: Lab) -> None:
    planned = [
        (make_spec(seed, method={"num_prototypes": k}), {"method.num_prototypes": k})
        for k in (1, 5, 10)
        for seed in range(3)
    ]
    for spec, axes in planned:
        lab.finish(spec, 50.0 + axes["method.num_prototypes"] + spec.seed)
    chart = make_page(lab, make_matrix(planned)).charts[0]
    assert isinstance(chart, Chart)
    assert (chart.series[0].x, chart.series[0].y) == ((1, 5, 10), (52.0, 56.0, 61.0))
    half = 4.302652729911275 / 3**0.5  # t quantile of 2 degrees of freedom; the spread is 1
    low, high = chart.series[0].low, chart.series[0].high
    assert chart.series[0].seeds[1] == (55.0, 56.0, 57.0)
    assert [round(low[0], 9), round(high[2], 9)] == [round(52 - half, 9), round(61 + half, 9)]


def test_a_search_shows_trials_and_choices(lab: Lab) -> None:
    matrix = make_search(["Linear", "Proto 1"])
    values = finish_trials(lab, matrix, without=[("Linear", 2)])
    page = make_page(lab, matrix)
    assert page.summary[0].startswith("7 of 8 trials have a record. No final run is planned yet")
    assert page.search is not None
    assert page.search.choices == ()
    table = read_page(lab, matrix).find("div", id="trials").find("table", **{"class": "data"})
    shown = {(row[0], int(row[1])): row[-2] for row in read_rows(table)}
    assert shown == {
        (row.name, t.number): f"{values[row.name, t.number]:.2f}"
        if (row.name, t.number) in values else "not run"
        for row in get_rows(matrix) for t in row.trials
    }  # fmt: skip
    assert [m.row for m in page.missing] == ["Trials of Linear"]
    chosen = make_page(lab, choose(lab, matrix)).search
    assert chosen is not None
    results = {number: v for (name, number), v in values.items() if name == "Proto 1"}
    best = max(results, key=lambda number: results[number])
    (line,) = (line for line in chosen.choices if line.startswith("Proto 1: "))
    assert f"(trial {best} of 4, mIoU {results[best]:.2f})" in line
    of_keys = [c for c in chosen.charts if "of trials over" in c.title]
    rings = [
        s.y[s.ring] for c in of_keys for s in c.series if s.name == "Proto 1" and s.ring is not None
    ]
    assert rings == [results[best]] * 2  # one chart for each of its two keys
    # Linear was chosen among 3 of its 4 trials.
    assert any("were not tuned alike" in note for note in chosen.notes)


def test_classes_are_a_table_of_their_means(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS})
    table = (
        read_page(lab, methods_matrix([A]))
        .find("div", id="classes")
        .find("table", **{"class": "data"})
    )
    assert read_rows(table) == [
        ["sky", "71.0 ± 1.0"],
        ["road", "72.0 ± 1.0"],
        ["car", "73.0 ± 1.0"],
    ]


def test_a_pivot_table_keeps_its_groups(lab: Lab) -> None:
    names = {"method.num_prototypes": "K", "prototype": "Ours"}
    page = read_page(lab, pivot_matrix(lab, names=names))
    table = page.find("div", id="main").find("table", **{"class": "data"})
    assert [th.text for th in table.find_all("th", scope="colgroup")] == ["K = 1", "K = 10"]
    ours = table.find("tbody").find_all("tr")[1]
    assert [c.text for c in ours.find_all("td")][2:] == ["73.10 ± 0.10", "+3.10 ± 0.10"]
    anchor = ours.find_all("a")[2].attributes["href"].removeprefix("#")
    detail = page.find("div", id=anchor)
    assert "Ours: K = 10 mIoU" in detail.text
    assert [row[1] for row in read_rows(detail.find("table"))] == ["73.0000", "73.1000", "73.2000"]


def test_verdicts_on_published_values_are_counted(lab: Lab) -> None:
    write_published(lab, "rows: [{method: parametric 1, miou: 71.0}]")
    finish_all(lab, {A: [70.9, 71.0, 71.1]})
    spec = PublishedSpec("numbers", match={"label": "method"})
    page = make_page(lab, methods_matrix([A], published=spec))
    assert page.summary[1].endswith("Against published values: 1 reproduced.")


def test_rows_of_different_data_have_no_best_one(lab: Lab) -> None:
    planned = []
    for data in ("easy", "hard"):
        for seed in range(3):
            spec = make_spec(seed, dataset={"name": data})
            planned.append((spec, {"dataset": data}))
            lab.finish(spec, 60.0 + seed)
    page = make_page(lab, make_matrix(planned, baseline={"dataset": "easy"}))
    assert page.summary[0] == "6 of 6 runs have a record."
    assert page.summary[1].startswith("No comparison is tested")
    cells = {cell.title: cell for row in page.tables[0].details for cell in row.cells}
    assert cells["hard: Δ"].shown == "other data"


def test_metrics_on_the_way_are_a_chart(lab: Lab) -> None:
    for seed in range(2):
        curve = [{"iteration": i, "miou": i + seed} for i in (10, 20)]
        lab.finish(method(A, seed), 20.0 + seed, curve=curve)
    charts = make_page(lab, methods_matrix([A], seeds=(0, 1))).charts
    (chart,) = (c for c in charts if c.title == "mIoU during the training")
    assert isinstance(chart, Chart)
    assert (chart.series[0].x, chart.series[0].y) == ((10.0, 20.0), (10.5, 20.5))


def test_a_row_called_like_a_number_has_its_own_runs(lab: Lab) -> None:
    # "#1" is a name of the first row for `protoseg explain`.
    labels = {A: "#2", B: "#1"}
    planned = [(method(n, 0), {"label": labels[n]}) for n in (A, B)]
    finish_all(lab, {A: [70.0], B: [75.0]})
    page = make_page(lab, make_matrix(planned))
    values = [row.cells[0].runs[0].value for row in page.tables[0].details]
    assert values == [70.0, 75.0]
