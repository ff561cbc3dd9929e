"""The rule of the two test tiers (CONTRIBUTING.md): no test above 3 s is in the first one."""

from __future__ import annotations

from pathlib import Path

import pytest
from durations import key_of_node, read_durations, without_group

TESTS = Path(__file__).parent
FIRST_TIER_SECONDS = 3.0
EXCEPTIONS: dict[str, str] = {}
"""Test -> why it is in the first tier although it takes longer."""


def test_a_long_test_is_not_in_the_first_tier(request: pytest.FixtureRequest) -> None:
    durations = read_durations()
    first_tier = [key_of_node(item.nodeid) for item in request.session.items if not is_slow(item)]
    too_long = {
        key: durations[key]
        for key in first_tier
        if durations.get(key, 0) > FIRST_TIER_SECONDS and key not in EXCEPTIONS
    }
    assert not too_long, "make these faster, or mark them slow"


def test_every_exception_is_a_recorded_test_above_the_limit() -> None:
    durations = read_durations()
    needless = [key for key in EXCEPTIONS if durations.get(key, 0) <= FIRST_TIER_SECONDS]
    assert not needless, "remove these from EXCEPTIONS"


def test_every_folder_of_tests_has_a_first_tier(request: pytest.FixtureRequest) -> None:
    if [Path(argument).resolve() for argument in request.config.args] != [TESTS]:
        pytest.skip("only a part of the tests was collected")
    folders = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    with_first_tier = {item.path.parent.name for item in request.session.items if not is_slow(item)}
    assert not folders - with_first_tier


@pytest.mark.parametrize(
    ("node_id", "expected"),
    [
        ("tests/a.py::test", "tests/a.py::test"),
        ("tests/a.py::test@tests/a.py", "tests/a.py::test"),
        ("tests/a.py::test[x@y]", "tests/a.py::test[x@y]"),
        ("tests/a.py::test[x@y]@slurm", "tests/a.py::test[x@y]"),
    ],
)
def test_the_group_that_xdist_appends_is_removed(node_id: str, expected: str) -> None:
    assert without_group(node_id) == expected


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None
