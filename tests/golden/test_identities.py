"""Run ids and spec digests of every committed matrix and record are those of the golden files."""

from __future__ import annotations

import pytest

from golden.collect import (
    FILES,
    collect_identities,
    collect_record,
    find_differences,
    list_matrices,
    list_records,
    read_golden,
)

pytestmark = pytest.mark.usefixtures("empty_folders")
MISSING = "run: python tests/golden/write.py"


@pytest.mark.parametrize("matrix", read_golden("identities"))
def test_identities_of_a_matrix_are_unchanged(matrix: str) -> None:
    expected = read_golden("identities")[matrix]
    assert find_differences(expected, collect_identities(matrix), matrix) == []


def test_records_read_back_equal_and_keep_their_identity() -> None:
    golden = read_golden("records")
    differences = [
        line
        for run_id, expected in golden.items()
        for line in find_differences(expected, collect_record(run_id), run_id)
    ]
    assert differences == []


def test_every_committed_matrix_and_record_is_covered() -> None:
    assert set(list_matrices()) == set(read_golden("identities")), f"identities: {MISSING}"
    assert set(list_records()) == set(read_golden("records")), MISSING
    for name in ("plans", "tables", "bundles", "explanations", "comparisons", "figures"):
        assert set(FILES[name].list_keys()) == set(read_golden(name)), f"{name}: {MISSING}"
