"""Sources of marked numbers: values, and refused sources."""

from __future__ import annotations

import csv
import json
import statistics
from typing import Any

import pytest
from scipy import stats

from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.prose.result_reader import ResultReader
from protoseg.report.prose.sources import SOURCES, compute_source
from protoseg.report.statistics.power import smallest_detectable
from report.lab import Lab, cell, make_matrix, make_spec, method, methods_matrix, with_table
from report.prose.readers import ROOT, make_reader, read_committed
from report.tables.test_builder import A, B, finish_all, pivot_matrix

THEIRS, OURS = [70.0, 71.0, 72.4], [75.0, 77.0, 74.1]
C, D = "parametric 10", "prototype 1"
"""A method with one finished seed, and one without."""


@pytest.fixture
def matrix(lab: Lab) -> Matrix:
    """Four methods, of which the fourth is not trained."""
    finish_all(lab, {A: THEIRS, B: OURS, C: [70.0]})
    return methods_matrix([A, B, C, D], metrics=("miou", "macc", "parameters"))


@pytest.fixture
def reader(lab: Lab, matrix: Matrix) -> ResultReader:
    """A reader of these records."""
    return make_reader(lab, matrix)


def interval_by_scipy(differences: list[float]) -> str:
    """The t interval of scipy, with a typographic minus."""
    ends = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    return "[" + ", ".join(f"{end:+.2f}".replace("-", "−") for end in ends) + "]"


def test_each_source_gives_the_number_of_the_records(
    lab: Lab, matrix: Matrix, reader: ResultReader
) -> None:
    differences = [ours - theirs for ours, theirs in zip(OURS, THEIRS, strict=True)]
    p = stats.ttest_rel(OURS, THEIRS).pvalue
    expected = {
        "mean test 1": f"{statistics.mean(THEIRS):.2f}",
        f'mean test "{A}" macc': f"{statistics.mean(THEIRS) + 8:.2f}",
        "mean:0 test 1": f"{statistics.mean(THEIRS):.0f}",
        "mean test 3": "70.00",
        "mean_std test 2": f"{statistics.mean(OURS):.2f} ± {statistics.stdev(OURS):.2f}",
        "run test 2 1": "77.00",
        "run:1 test 2 2 macc": "82.1",
        "delta test 1 2": f"+{statistics.mean(differences):.2f}",
        "delta test 2 1": f"−{statistics.mean(differences):.2f}",
        "delta:1 test 2 1 macc": f"−{statistics.mean(differences):.1f}",
        "gap test 2 1": f"{statistics.mean(differences):.2f}",
        "interval test 1 2": interval_by_scipy(differences),
        "interval test 2 1": interval_by_scipy([-d for d in differences]),
        "p test 1 2": f"{p:.2g}",
        "p:5 test 1 2": f"{p:.5f}",
        "class test 2 car": f"{statistics.mean(OURS) + 2:.2f}",
        "loss test 2 loss": "0.50",
        "runs test": "7",
    }
    assert {source: compute_source(reader, source) for source in expected} == expected
    assert {source.split()[0].partition(":")[0] for source in expected} == SOURCES.keys() - {
        *("table", "adjusted_p", "detectable"),  # test_p_and_power_of_the_family_of_a_table
    }
    table = lab.table(matrix)
    assert compute_source(reader, "mean_std test 1") == cell(table, A, "miou").plain
    rows = compute_source(reader, "table test").split("\n")
    assert [row[:1] for row in rows] == ["", *["|"] * (2 + len(table.rows)), ""]


def test_a_column_of_a_pivot_table_is_named(lab: Lab) -> None:
    reader = make_reader(lab, pivot_matrix(lab))
    assert compute_source(reader, "mean test prototype 10/miou") == "73.10"
    assert compute_source(reader, "delta test parametric prototype 10/miou") == "+3.10"
    assert compute_source(reader, "mean test prototype") == "64.10"
    assert compute_source(reader, "class test prototype car 10/miou") == "75.10"


def test_a_row_of_another_matrix_is_named_with_its_matrix(lab: Lab) -> None:
    finish_all(lab, {A: THEIRS, B: OURS})
    reader = make_reader(
        lab, methods_matrix([A]), make_matrix([(method(B, s), {"k": 1}) for s in range(3)], "other")
    )
    assert compute_source(reader, "delta test 1 other:#1") == "+4.23"
    assert compute_source(reader, "delta other test:1 1") == "+4.23"


def test_losses_of_several_seeds_are_a_range(lab: Lab) -> None:
    for seed, loss in enumerate((0.5, 0.25, 0.4)):
        lab.finish(method(A, seed), 70.0, losses=[[50, {"loss": 9.0}], [100, {"loss": loss}]])
    reader = make_reader(lab, methods_matrix([A]))
    assert compute_source(reader, "loss test 1 loss") == "0.25 to 0.50"
    assert compute_source(reader, "loss:0 test 1 loss") == "0"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "mea test 1",
            "unknown source 'mea'. Did you mean 'mean'? Known: adjusted_p, class, delta, ",
        ),
        ("TODO: write more", "unknown source 'TODO'."),
        ("mean test", "'mean test' has 1 operands. Write: mean MATRIX ROW [COLUMN]."),
        ("delta test 1 2 miou more", "has 5 operands. Write: delta MATRIX BASELINE ROW [COLUMN]."),
        ("runs", "'runs' has 0 operands. Write: runs MATRIX..."),
        ('mean test "parametric 1', "has an open quotation mark. Close it."),
        ("delta:x test 1 2", "expected a number of decimals from 0 to 6, not 'x'"),
        ("delta:7 test 1 2", "expected a number of decimals from 0 to 6, not '7'"),
        ("mean test 5", "test: unknown row '5'. Known: 'parametric 1', "),
        ("mean test 1 mio", "unknown column 'mio'. Did you mean 'miou'?"),
        ("mean test 1 parameters", "column 'parameters' has no measured values. Name one of miou"),
        ("class test 1 cat", "unknown class 'cat'. Did you mean 'car'? Known: car, road, sky."),
        ("loss test 1 loss_cee", "unknown loss 'loss_cee'. Did you mean 'loss'? Known: loss."),
        ("run test 1 3", "test: 'parametric 1': unknown seed '3'. Known: 0, 1, 2."),
    ],
)
def test_a_wrong_source_is_refused(reader: ResultReader, source: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        compute_source(reader, source)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mean test 4", "test: 'prototype 1' has no finished run in the records. Train it"),
        ("mean_std test 3", "'parametric 10' has one finished run, and so no standard deviation."),
        ("interval test 1 3", "'parametric 1' share 1 seed, and 3 are needed. Train more seeds"),
        ("p test 1 3", "'parametric 1' share 1 seed, and 3 are needed."),
        ("interval test 1 1", "differ by the same number for each seed, so there is no interval"),
    ],
)
def test_too_few_results_are_reported(reader: ResultReader, source: str, message: str) -> None:
    with pytest.raises(ProtosegError) as error:
        compute_source(reader, source)
    assert message in str(error.value)


def test_a_class_without_pixels_is_reported(lab: Lab) -> None:
    absent = {"name": "sky", "iou": None, "acc": None, "pixels": 0}
    lab.finish(method(A, 0), 70.0, per_class=[absent])
    with pytest.raises(ProtosegError, match="class 'sky' has no IoU"):
        compute_source(make_reader(lab, methods_matrix([A])), "class test 1 sky")


def test_no_record_and_no_shared_seed_are_reported(lab: Lab) -> None:
    reader = make_reader(lab, methods_matrix([A, B]))
    with pytest.raises(ProtosegError, match="test: no run has a record"):
        compute_source(reader, "runs test")
    lab.finish(method(A, 0), 70.0)
    lab.finish(method(B, 1), 71.0)
    reader = make_reader(lab, methods_matrix([A, B]))
    with pytest.raises(ProtosegError, match="share 0 seeds, and 1 are needed"):
        compute_source(reader, "delta test 1 2")


def test_rows_of_two_evaluations_are_refused(lab: Lab) -> None:
    other: dict[str, Any] = {"dataset": {"counts": {"val": 7}}}
    lab.finish(make_spec(0), 70.0)
    lab.finish(make_spec(0, **other), 70.0)
    matrices = [
        make_matrix([(spec, {"label": "x"})], name)
        for name, spec in (("first", make_spec(0)), ("second", make_spec(0, **other)))
    ]
    reader = make_reader(lab, *matrices)
    with pytest.raises(ProtosegError, match=r"different evaluations \(they differ in dataset\.c"):
        compute_source(reader, "delta first 1 second:1")


def test_committed_numbers_equal_those_computed_from_the_json_files() -> None:
    reader = read_committed()
    with (ROOT / "results" / "tables" / "camvid_methods.csv").open() as file:
        run_ids = {
            row["row"]: row["run_ids"].split()
            for row in csv.DictReader(file)
            if row["metric"] == "miou"
        }
    values: dict[str, list[float]] = {}
    for label, ids in run_ids.items():
        records = [json.loads((ROOT / f"results/records/{each}.json").read_text()) for each in ids]
        records.sort(key=lambda record: record["spec"]["seed"])
        values[label] = [record["metrics"]["miou"] for record in records]
        mean, std = statistics.mean(values[label]), statistics.stdev(values[label])
        source = f'mean_std camvid_methods "{label}"'
        assert compute_source(reader, source) == f"{mean:.2f} ± {std:.2f}"
    baseline, *rows = values
    for label in rows:
        differences = [a - b for a, b in zip(values[label], values[baseline], strict=True)]
        operands = f'camvid_methods "{baseline}" "{label}"'
        shown = f"{statistics.mean(differences):+.2f}".replace("-", "−")
        assert compute_source(reader, f"delta {operands}") == shown
        assert compute_source(reader, f"interval {operands}") == interval_by_scipy(differences)
        p = stats.ttest_rel(values[label], values[baseline]).pvalue
        assert float(compute_source(reader, f"p:6 {operands}")) == pytest.approx(p, abs=1e-6)


def test_p_and_power_of_the_family_of_a_table(lab: Lab, matrix: Matrix) -> None:
    for seed, miou in enumerate([80.0, 81.5, 82.0]):
        lab.finish(method(D, seed), miou)
    reader = make_reader(lab, with_table(matrix, baseline={"label": A}))
    p_values = [stats.ttest_rel(of_row, THEIRS).pvalue for of_row in (OURS, [80.0, 81.5, 82.0])]
    assert max(p_values) == p_values[0]
    assert compute_source(reader, "adjusted_p:4 test 1 2") == f"{p_values[0]:.4f}"
    assert compute_source(reader, "adjusted_p:4 test 2 1") == f"{p_values[0]:.4f}"
    assert compute_source(reader, "adjusted_p:4 test 1 4") == f"{2 * p_values[1]:.4f}"
    std = statistics.stdev(ours - theirs for ours, theirs in zip(OURS, THEIRS, strict=True))
    detectable = smallest_detectable(std, 3, level=0.025)
    assert compute_source(reader, "detectable test 1 2") == f"{detectable:.2f}"
    assert compute_source(reader, "detectable:0 test 1 2") == f"{detectable:.0f}"
    for source, sentence in (
        ("adjusted_p test 1 3", f"does not test '{C}' against '{A}' in mIoU."),  # one seed
        ("detectable test 2 4", f"does not test '{D}' against '{B}' in mIoU."),
        ("adjusted_p test 1 2 macc", f"does not test '{B}' against '{A}' in mAcc."),
    ):
        with pytest.raises(UsageError) as caught:
            compute_source(reader, source)
        assert f"test: its table {sentence}" in str(caught.value)
