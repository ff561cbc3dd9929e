"""Every number, label and symbol that the command line reports of the committed results.

Sentences are not compared (`collect.SENTENCES`).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from golden.collect import (
    FILES,
    SENTENCES,
    collect_explanation,
    find_differences,
    list_recorded_matrices,
    read_golden,
    remove_sentences,
)

pytestmark = pytest.mark.usefixtures("empty_folders")

FIRST_TIER = frozenset({"camvid_5a", "camvid_methods", "paper_table1", "quickstart", "data list"})
"""Entries that are compared in the first tier too; all of them would take a minute more."""


def list_entries(name: str, first_tier: frozenset[str] = FIRST_TIER) -> list[Any]:
    """The entries of a golden file as parameters; most of them belong to the second tier."""
    return [
        pytest.param(key, marks=[] if key in first_tier else [pytest.mark.slow])
        for key in read_golden(name)
    ]


def check(name: str, key: str) -> None:
    """Collect an entry anew and compare it with the golden file."""
    values = json.loads(json.dumps(FILES[name].collect(key)))
    assert find_differences(read_golden(name)[key], values, key) == []


@pytest.mark.parametrize("matrix", list_entries("plans"))
def test_plan_and_status_are_unchanged(matrix: str) -> None:
    check("plans", matrix)


@pytest.mark.parametrize("bundle", list_entries("bundles"))
def test_plans_of_bundles_are_unchanged(bundle: str) -> None:
    check("bundles", bundle)


@pytest.mark.parametrize("arguments", list_entries("job_arrays"))
def test_job_arrays_are_unchanged(arguments: str) -> None:
    check("job_arrays", arguments)


@pytest.mark.parametrize("matrix", list_entries("tables"))
def test_tables_are_unchanged(matrix: str) -> None:
    check("tables", matrix)


@pytest.mark.parametrize("matrix", list_entries("explanations", frozenset({"camvid_5a"})))
def test_explanations_are_unchanged(matrix: str) -> None:
    # Every third cell: a row has the same runs behind all its cells.
    golden = dict(list(read_golden("explanations")[matrix].items())[::3])
    values = {cell: collect_explanation(matrix, cell) for cell in golden}
    assert find_differences(golden, json.loads(json.dumps(values)), matrix) == []


@pytest.mark.parametrize("matrix", list_entries("comparisons"))
def test_comparisons_are_unchanged(matrix: str) -> None:
    check("comparisons", matrix)


@pytest.mark.parametrize("matrix", list_entries("figures", frozenset({"camvid_5a"})))
def test_figure_inputs_are_unchanged(matrix: str) -> None:
    check("figures", matrix)


@pytest.mark.parametrize(
    "arguments",
    list_entries("outputs"),
)
def test_other_outputs_are_unchanged(arguments: str) -> None:
    check("outputs", arguments)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": 1.0}, {"a": 1.0 + 1e-15}, []),
        ({"a": 1.0}, {"a": 1.0 + 1e-9}, ["/a: 1.0 -> 1.000000001"]),
        ({"a": 1}, {"a": 1.0}, ["/a: 1 -> 1.0"]),
        ({"a": 1}, {"b": 1}, ["/a: 1 -> (gone)", "/b: (none) -> 1"]),
        ([1, [2, "3"]], [1, [2, 3]], ["[1][1]: '3' -> 3"]),
        ([1], [1, 2], [": [1] -> [1, 2]"]),
        (None, 0, [": None -> 0"]),
        (True, 1, [": True -> 1"]),
    ],
)
def test_differences_are_found(old: Any, new: Any, lines: list[str]) -> None:
    assert find_differences(old, new) == lines


def test_sentences_are_removed_at_any_depth() -> None:
    assert {"message", "notes", "warnings"} <= SENTENCES
    assert remove_sentences([{"n": 1, "message": "x", "m": {"notes": ["y"], "k": 2}}]) == [
        {"n": 1, "m": {"k": 2}}
    ]


def test_matrices_with_records_are_found() -> None:
    assert {"camvid_methods", "ccp_weak"} <= set(list_recorded_matrices())
    assert "paper_table1" not in list_recorded_matrices()
