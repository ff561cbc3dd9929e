"""The plan of matrices and the selection of the runs that a sweep trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from report.lab import make_record, make_spec

from protoseg.config.identity import run_id
from protoseg.config.matrix import Matrix, PlannedRun, TableSpec
from protoseg.config.schema import RunSpec
from protoseg.planning.plan import Plan, make_plan
from protoseg.planning.selection import select_runs
from protoseg.runs.folder import Status
from protoseg.runs.states import Reason, State

NEW = Status(State.NEW)


def make_matrix(name: str, *specs: RunSpec) -> Matrix:
    runs = tuple(PlannedRun(spec, {}) for spec in specs)
    return Matrix(name, "A test", runs, TableSpec(), ())


def plan_of(
    matrices: Iterable[Matrix],
    statuses: dict[str, Status],
    records: Iterable[dict[str, Any]] = (),
) -> Plan:
    matrices = list(matrices)
    every = {run.run_id: NEW for matrix in matrices for run in matrix.runs}
    return make_plan(matrices, every | statuses, lambda: records)


def test_a_shared_run_is_planned_once_with_both_matrices() -> None:
    first, second = make_spec(0), make_spec(1)
    plan = plan_of([make_matrix("a", first, second), make_matrix("b", first)], {})
    assert plan.listed == 3
    assert [(entry.run.run_id, entry.matrices) for entry in plan.entries] == [
        (run_id(first), ("a", "b")),
        (run_id(second), ("a",)),
    ]


def test_the_time_left_is_from_the_runs_own_speed_then_from_records_of_its_workload() -> None:
    own, similar, other = make_spec(0), make_spec(1), make_spec(2, method={"num_prototypes": 7})
    status = Status(State.INTERRUPTED, Reason.LOST, iteration=40, iterations_per_second=2.0)
    matrix = make_matrix("a", own, similar, other)
    record = make_record(make_spec(3), 70.0)  # 5 iterations per second
    plan = plan_of([matrix], {run_id(own): status}, [record])
    assert [entry.seconds for entry in plan.entries] == [30.0, 20.0, None]


def test_the_time_left_includes_measured_evaluations_on_the_way() -> None:
    """100 iterations, an evaluation every 30: three on the way, the last one is not counted."""
    new, begun = make_spec(0, evaluation={"every": 30}), make_spec(1, evaluation={"every": 30})
    other = make_spec(2, evaluation={"every": 30, "split": "test"})
    status = Status(
        State.INTERRUPTED, Reason.LOST, iteration=30, iterations_per_second=2.0,
        evaluation={"iteration": 30, "miou": 40.0, "seconds": 7.0},
    )  # fmt: skip
    matrix = make_matrix("a", new, begun, other)
    record = make_record(make_spec(3), 70.0, cost={"evaluation_seconds": 4.0})
    plan = plan_of([matrix], {run_id(begun): status}, [record])
    expected = [20.0 + 3 * 4.0, 35.0 + 2 * 7.0, 20.0]  # of another split: unknown, not counted
    assert [entry.seconds for entry in plan.entries] == expected
    done = make_spec(4, evaluation={"every": 50})
    finished = make_record(done, 70.0, cost={"evaluation_seconds": 6.0})
    statuses = {run_id(done): Status(State.DONE, record=finished)}
    plan = plan_of([make_matrix("a", new, done)], statuses)
    assert [entry.seconds for entry in plan.entries] == [20.0 + 3 * 6.0, 0.0]


def test_the_evaluations_of_a_holdout_are_measured_like_those_of_a_split() -> None:
    holdout = {"split": "holdout", "every": 50, "holdout": {"share": 0.2, "blocks": 30}}
    done, new = (make_spec(seed, evaluation=holdout) for seed in (0, 1))
    finished = make_record(done, 70.0, cost={"evaluation_seconds": 6.0})
    plan = plan_of([make_matrix("a", new)], {}, [finished])
    assert [entry.seconds for entry in plan.entries] == [20.0 + 6.0]


def test_a_finished_plan_reads_no_records() -> None:
    spec = make_spec()
    record = make_record(spec, 70.0)
    statuses = {run_id(spec): Status(State.DONE, record=record)}
    plan = make_plan([make_matrix("a", spec)], statuses, lambda: pytest.fail("records were read"))
    assert plan.entries[0].seconds == 0.0
    assert plan.left() == []
    assert plan.counts()[State.DONE] == 1


def test_the_first_seed_of_every_row_is_trained_before_the_second_of_any() -> None:
    rows = [{"num_prototypes": 1}, {"num_prototypes": 2}]
    specs = [make_spec(seed, method=method) for method in rows for seed in (0, 1)]
    chosen, skipped = select_runs(plan_of([make_matrix("a", *specs)], {}), retry_failed=False)
    assert [entry.run.spec.seed for entry in chosen] == [0, 0, 1, 1]
    assert skipped == {}


def test_skipped_runs_have_a_reason() -> None:
    specs = [make_spec(seed) for seed in range(6)]
    cancelled, failed, damaged, running, queued, done = (run_id(spec) for spec in specs)
    statuses = {
        cancelled: Status(State.INTERRUPTED, Reason.CANCELLED),
        failed: Status(State.FAILED, Reason.CODE_ERROR, "an error."),
        damaged: Status(State.FAILED, message="a damaged record."),
        running: Status(State.RUNNING, host="node7"),
        queued: Status(State.QUEUED, message="waits"),
        done: Status(State.DONE, record=make_record(specs[5], 70.0)),
    }
    plan = plan_of([make_matrix("a", *specs)], statuses)
    chosen, skipped = select_runs(plan, retry_failed=False)
    assert chosen == plan.left()
    assert [entry.run.run_id for entry in chosen] == [cancelled]
    assert skipped == {
        failed: "failed: an error. Run again with --retry-failed.",
        damaged: "failed: a damaged record.",
        running: "running on node7, by another worker. Follow it with: "
        f"protoseg logs {running} --follow",
        queued: "queued: waits",
    }
    chosen, skipped = select_runs(plan, retry_failed=True)
    assert [entry.run.run_id for entry in chosen] == [cancelled, failed]
    assert set(skipped) == {damaged, running, queued}
