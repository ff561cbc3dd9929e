"""How long the rest of a matrix takes."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from training.small import small_spec

from protoseg.cli.views.matrix_times import describe_matrices, estimate_seconds
from protoseg.config.matrix import PlannedRun
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.runs.folder import Status
from protoseg.runs.states import State

NOW = datetime.datetime(2026, 11, 30, 22, 0, 0)


def entry(
    state: State, seconds: float | None, *, matrix: str = "a", rate: float | None = None
) -> PlanEntry:
    """A run of 12 iterations."""
    status = Status(state, iterations_per_second=rate, iteration=0)
    run: Any = PlannedRun(small_spec(), {})
    return PlanEntry(run, status, (matrix,), seconds)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry(State.RUNNING, 60, rate=1.0), entry(State.NEW, 40)], 100),
        ([entry(State.RUNNING, 60, rate=1.0), entry(State.RUNNING, 40, rate=2.0)], 60),
        ([*[entry(State.RUNNING, 30, rate=1.0)] * 2, entry(State.NEW, 30)], 45),
        # Unknown: 12 iterations at the mean speed 3.
        ([entry(State.RUNNING, 6, rate=2.0), entry(State.RUNNING, 3, rate=4.0),
          entry(State.QUEUED, None)], 6.5),
        ([entry(State.RUNNING, 60, rate=1.0), entry(State.DONE, 0), entry(State.FAILED, 99)], 60),
        ([entry(State.NEW, 40)], None),
        ([entry(State.RUNNING, None)], None),
    ],
)  # fmt: skip
def test_the_time_of_a_matrix(entries: list[PlanEntry], expected: float | None) -> None:
    assert estimate_seconds(entries) == expected


def test_each_unfinished_matrix_has_a_line_with_its_end() -> None:
    entries = (
        entry(State.RUNNING, 5400.0, rate=1.0),
        entry(State.NEW, 3600.0),
        entry(State.DONE, 0.0, matrix="b"),
        entry(State.INTERRUPTED, 10.0, matrix="c"),
    )
    lines = [line.plain for line in describe_matrices(Plan(entries, 4), NOW)]
    assert lines == [
        "a: 2 runs left, 1 running: about 2.5 h, until Tue 01 Dec 00:30",
        "c: 1 run left, 0 running",
    ]
