"""Every number of every table with committed records, next to `oracle.recompute`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from oracle import recompute
from oracle.recompute import ROOT, Numbers, Planned, Setting
from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix
from protoseg.report.statistics.multiplicity import adjust_holm
from protoseg.report.statistics.significance import pair_by_seed, paired_t_p
from protoseg.report.tables.baseline import make_baselines
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.model import Table
from protoseg.report.tables.samples import collect_samples
from protoseg.runs.store import RecordStore

NAMES = sorted(
    path.stem
    for path in recompute.MATRICES.glob("*.yaml")
    if "matrices:" not in path.read_text().splitlines()
)
"""All matrices that are not a list of others."""
CELLS, CLASS_CELLS, COMPARISONS = 209, 1166, 55
"""Numbers of compared cells, cells of one class, and comparisons with a baseline. New records
raise them."""


@functools.cache
def composer() -> Composer:
    """The composer of the committed configs."""
    return Composer(ROOT / "experiments")


@dataclass(frozen=True)
class Case:
    """A matrix with its table, and the same settings as the oracle reads them."""

    matrix: Matrix
    table: Table
    settings: list[Setting]
    config: dict[str, Any]


def make_store() -> RecordStore:
    """The committed records, without run folders."""
    return RecordStore([recompute.RECORDS], None)


@functools.cache
def load_case(name: str) -> Case | None:
    """Build the table of a matrix; None if no record of it is committed."""
    matrix = load_matrix(composer(), name)
    plan = [Planned(run.axes, run.spec.seed, run.run_id) for run in matrix.runs]
    if not any(recompute.read_record(run.run_id) for run in plan):
        return None
    table = build_table(matrix, make_store(), [ROOT / "results" / "published"])
    return Case(matrix, table, recompute.read_settings(plan), recompute.read_table(name))


@functools.cache
def cases() -> dict[str, Case]:
    """Matrix -> case, of all matrices with committed records."""
    return {name: case for name in NAMES if (case := load_case(name)) is not None}


def numbers_of(table: Table) -> dict[tuple[tuple[str, ...], str], Numbers]:
    """The numbers of all cells that show a measured value, a difference or parameters."""
    return {
        (cell.run_ids, "delta" if cell.kind == "delta" else column.metric): Numbers(
            cell.value, cell.std, cell.n
        )
        for row in table.rows
        for column, cell in zip(table.header, row.cells, strict=True)
        if cell.kind in ("measured", "delta", "parameters") and cell.value is not None
    }


def class_numbers_of(settings: list[Setting], table: Table) -> Iterator[tuple[str, Numbers]]:
    """Class and expected numbers, in the order of the rows and columns of a table."""
    by_runs = {setting.run_ids: setting for setting in settings}
    for row in table.rows:
        for run_ids in dict.fromkeys(cell.run_ids for cell in row.cells if cell.run_ids):
            for name, values in by_runs[run_ids].per_class.items():
                yield name, recompute.summarise(values) if values else Numbers(math.nan, None, 0)


def is_close(a: float | None, b: float | None) -> bool:
    """Whether two numbers are equal but for rounding, or both missing."""
    return a is b if a is None or b is None else abs(a - b) <= 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_cells_agree_with_the_oracle(name: str) -> None:
    case = load_case(name)
    if case is None:
        return
    measured = numbers_of(case.table)
    expected = recompute.expected_cells(case.settings, case.config)
    assert measured.keys() == expected.keys()
    for key, numbers in expected.items():
        cell = measured[key]
        assert cell.n == numbers.n, key
        assert is_close(cell.value, numbers.value), key
        assert is_close(cell.std, numbers.std), key


@pytest.mark.parametrize("name", NAMES)
def test_results_per_class_agree_with_the_oracle(name: str) -> None:
    case = load_case(name)
    if case is None:
        return
    expected = list(class_numbers_of(case.settings, case.table))
    assert len(case.table.per_class) == len(expected)
    for result, (class_name, numbers) in zip(case.table.per_class, expected, strict=True):
        assert (result.name, result.n) == (class_name, numbers.n)
        assert is_close(result.mean, numbers.value if numbers.n else None), class_name
        assert is_close(result.std, numbers.std), class_name


def comparisons_of(matrix: Matrix) -> Iterator[tuple[Any, Any, Any]]:
    """The setting, its baseline and their paired differences, by the code of protoseg."""
    grid = collect_samples(matrix, make_store(), matrix.axes, (), lambda record: None)
    settings = [samples for cells in grid.values() for samples in cells.values()]
    baselines = make_baselines(matrix, settings)
    metric = matrix.table.metrics[0]
    for samples in settings:
        baseline = baselines.find(samples) if baselines is not None else None
        if baseline is None or baseline is samples or baseline.protocol != samples.protocol:
            continue
        pairs = pair_by_seed(samples.values.get(metric, {}), baseline.values.get(metric, {}))
        if pairs.n:
            yield samples, baseline, pairs


@pytest.mark.parametrize("name", NAMES)
def test_intervals_and_p_values_agree_with_the_oracle(name: str) -> None:
    case = load_case(name)
    if case is None:
        return
    expected = recompute.expected_comparisons(case.settings, case.config)
    compared = list(comparisons_of(case.matrix))
    assert [(a.run_ids, b.run_ids, pairs.n) for a, b, pairs in compared] == [
        (each.run_ids_a, each.run_ids_b, each.n) for each in expected
    ]
    p_values = [paired_t_p([d for _, d in pairs.differences]) for _, _, pairs in compared]
    adjusted = adjust_holm(p_values)
    for index, each in enumerate(expected):
        pairs = compared[index][2]
        assert pairs.mean == pytest.approx(each.difference, rel=0, abs=1e-9)
        assert p_values[index] == pytest.approx(each.p, rel=1e-7, nan_ok=True)
        assert adjusted[index] == pytest.approx(each.adjusted_p, rel=1e-7, nan_ok=True)
        if not math.isnan(each.p):
            assert pairs.interval() == pytest.approx(each.interval, rel=0, abs=1e-7)


def test_all_committed_records_are_compared() -> None:
    run_ids = {
        run_id
        for case in cases().values()
        for setting in case.settings
        for run_id in setting.runs.values()
    }
    committed = {path.stem for path in recompute.RECORDS.glob("*.json")}
    assert not committed - run_ids, "records of no matrix"


def test_the_number_of_compared_cells_does_not_fall() -> None:
    all_cases = cases().values()
    cells = sum(len(recompute.expected_cells(c.settings, c.config)) for c in all_cases)
    class_cells = sum(len(list(class_numbers_of(c.settings, c.table))) for c in all_cases)
    comparisons = sum(len(recompute.expected_comparisons(c.settings, c.config)) for c in all_cases)
    assert (cells >= CELLS, class_cells >= CLASS_CELLS, comparisons >= COMPARISONS) == (True,) * 3
