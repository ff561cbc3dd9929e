"""Every number of every table with committed records, next to `oracle.recompute`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from oracle import recompute
from oracle.recompute import ROOT, Numbers, Planned, Setting
from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix
from protoseg.report import wording
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.model import Table
from protoseg.report.tuning.choose import apply_choice
from protoseg.runs.store import RecordStore

NAMES = sorted(
    path.stem
    for path in recompute.MATRICES.glob("*.yaml")
    if "matrices:" not in path.read_text().splitlines()
)
"""All matrices that are not a list of others."""
CELLS, CLASS_CELLS, COMPARISONS = 256, 1298, 82
"""Numbers of compared cells, cells of one class, and comparisons of a family. New records
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
    matrix, _ = apply_choice(load_matrix(composer(), name), [ROOT / "results" / "choices"])
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
    if case is not None:
        check_cells(case)


def check_cells(case: Case) -> None:
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


def missing_as_nan(value: float | None) -> float:
    """The value; nan for None."""
    return math.nan if value is None else value


@pytest.mark.parametrize("name", NAMES)
def test_comparisons_agree_with_the_oracle(name: str) -> None:
    case = load_case(name)
    if case is not None:
        check_comparisons(case)


def check_comparisons(case: Case) -> None:
    expected = recompute.expected_comparisons(case.settings, case.config)
    compared = case.table.family.comparisons if case.table.family is not None else ()
    by_runs = {(c.our_runs, c.their_runs): c for c in compared}
    assert len(by_runs) == len(compared)
    assert {(*runs, c.metric, len(c.seeds)) for runs, c in by_runs.items()} == {
        (each.run_ids_a, each.run_ids_b, each.metric, each.n) for each in expected
    }
    for each in expected:
        comparison = by_runs[each.run_ids_a, each.run_ids_b]
        numbers = {
            "difference": (comparison.difference, each.difference),
            "low": ((comparison.interval or (None,))[0], each.interval[0]),
            "high": ((comparison.interval or (None,))[-1], each.interval[1]),
            "p": (comparison.p, each.p),
            "adjusted_p": (comparison.adjusted_p, each.adjusted_p),
            "detectable": (comparison.detectable, each.detectable),
        }
        for quantity, (value, right) in numbers.items():
            assert missing_as_nan(value) == pytest.approx(right, rel=1e-6, abs=1e-9, nan_ok=True), (
                comparison.ours,
                quantity,
            )
        assert comparison.result.startswith(each.verdict.replace("-", wording.MINUS))


@pytest.mark.parametrize("main", ["miou@2", "mistake_distance"])
def test_metrics_of_levels_agree_with_the_oracle(main: str, tmp_path: Path) -> None:
    metrics = [main, *(m for m in ("macc@2", "aacc@2", "miou", "mistake_distance") if m != main)]
    text = (recompute.MATRICES / "camvid_methods.yaml").read_text()
    shown = "metrics: [miou, macc, aacc, parameters]"
    assert shown in text
    path = tmp_path / "levels.yaml"
    path.write_text(text.replace(shown, f"metrics: [{', '.join(metrics)}]"))
    matrix = load_matrix(composer(), str(path))
    plan = [Planned(run.axes, run.spec.seed, run.run_id) for run in matrix.runs]
    config = {**recompute.read_table("camvid_methods"), "metrics": metrics}
    table = build_table(matrix, make_store(), [])
    case = Case(matrix, table, recompute.read_settings(plan), config)
    assert len(numbers_of(table)) == 8 * len(metrics) + 7
    check_cells(case)
    check_comparisons(case)


@pytest.mark.parametrize("name", NAMES)
def test_bold_values_agree_with_the_oracle(name: str) -> None:
    case = load_case(name)
    if case is None:
        return
    bold = {
        (cell.run_ids, column.metric)
        for row in case.table.rows
        for column, cell in zip(case.table.header, row.cells, strict=True)
        if cell.bold
    }
    assert bold == recompute.expected_bold(case.settings, case.config)


def test_all_committed_records_are_compared() -> None:
    run_ids = {
        run_id
        for case in cases().values()
        for setting in case.settings
        for run_id in setting.runs.values()
    }
    matrices = [load_matrix(composer(), name) for name in NAMES]
    searches = [matrix.tuning for matrix in matrices if matrix.tuning is not None]
    trials = [trial for search in searches for row in search.rows for trial in row.trials]
    run_ids |= {run.run_id for trial in trials for run in trial.runs}
    committed = {path.stem for path in recompute.RECORDS.glob("*.json")}
    assert not committed - run_ids, "records of no matrix"


def test_the_number_of_compared_cells_does_not_fall() -> None:
    all_cases = cases().values()
    cells = sum(len(recompute.expected_cells(c.settings, c.config)) for c in all_cases)
    class_cells = sum(len(list(class_numbers_of(c.settings, c.table))) for c in all_cases)
    comparisons = sum(len(recompute.expected_comparisons(c.settings, c.config)) for c in all_cases)
    assert (cells >= CELLS, class_cells >= CLASS_CELLS, comparisons >= COMPARISONS) == (True,) * 3
