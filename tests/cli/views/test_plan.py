"""Durations, rows and sizes in the view of a plan."""

from __future__ import annotations

from typing import Any

import pytest

from cli.conftest import CommandLine
from protoseg.cli.views.cost import format_duration
from protoseg.cli.views.plan import (
    describe_axes,
    describe_counts,
    describe_power,
    entry_to_dict,
    plan_to_dict,
)
from protoseg.config.matrix import PlannedRun
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.report.metrics import METRICS
from protoseg.report.seed_power import SeedPower
from protoseg.runs.folder import Status
from protoseg.runs.states import State


def make_entry(protoseg: CommandLine, axes: dict[str, Any], **status: Any) -> PlanEntry:
    """An entry of a new run with these axes."""
    run = PlannedRun(protoseg.quickstart()[0].spec, axes)
    return PlanEntry(
        run=run, status=Status(State.NEW, **status), matrices=("quickstart",), seconds=None
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0.4, "0 s"),
        (89.0, "89 s"),
        (90.0, "2 min"),
        (5399.0, "90 min"),
        (5400.0, "1.5 h"),
    ],
)
def test_a_duration_has_a_readable_unit(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ({"label": "ProtoSeg", "method.num_prototypes": 4}, "ProtoSeg, method.num_prototypes=4"),
        ({"label": "ProtoSeg", "dataset": ""}, "ProtoSeg"),
        ({}, "the only run"),
    ],
)
def test_a_row_is_described_by_its_label_and_axes(
    protoseg: CommandLine, axes: dict[str, Any], text: str
) -> None:
    assert describe_axes(make_entry(protoseg, axes)) == text


def test_a_plan_as_data_has_the_state_of_each_run(protoseg: CommandLine) -> None:
    entry = make_entry(protoseg, {"label": "a"}, attempts=2, iteration=7, host="gpu7", job="12_3")
    plan = Plan(entries=(entry,), listed=1, problems=["one damaged record"])
    data = plan_to_dict(plan)
    assert data["runs"] == [entry_to_dict(entry)]
    assert (data["counts"]["new"], data["left_seconds"]) == (1, None)
    assert data["problems"] == ["one damaged record"]
    (run,) = data["runs"]
    assert (run["state"], run["attempts"], run["iteration"]) == ("new", 2, 7)
    assert (run["host"], run["job"], run["timed"], run["miou"]) == ("gpu7", "12_3", False, None)
    assert str(describe_counts(plan)) == "1 new"
    assert str(describe_counts(Plan(entries=(), listed=0))) == "no runs"


def test_a_power_is_described_in_sentences() -> None:
    power = SeedPower(METRICS["miou"], 3, 7, 0.9, "table.expected_spread", {3: 7.8, 5: 2.586})
    assert describe_power(power) == (
        "Smallest true difference in mIoU that is found with 80% probability in 7 comparisons: "
        "7.80 with 3 seeds, 2.59 with 5 seeds. The standard deviation of paired differences is "
        "taken as 0.90 (table.expected_spread)."
    )


@pytest.mark.parametrize(("seeds", "text"), [(1, "With 1 seed no"), (2, "With 2 seeds no")])
def test_few_seeds_test_no_difference(seeds: int, text: str) -> None:
    power = SeedPower(METRICS["miou"], seeds, 1, 0.9, "table.expected_spread", {5: 1.5})
    assert f"in 1 comparison: 1.50 with 5 seeds. {text} difference is tested." in (
        describe_power(power)
    )
