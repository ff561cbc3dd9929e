"""The progress of runs and the ends of attempts, as a terminal shows them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console, RenderableType

from cli.conftest import CommandLine
from protoseg.cli.views.status import attempts_to_dicts, render_attempts, render_status
from protoseg.config.matrix import PlannedRun
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.runs.attempts import Attempt
from protoseg.runs.folder import Status
from protoseg.runs.states import Reason, State

FIRST_TO_LAST = [State.DONE, State.NEW, State.QUEUED, State.INTERRUPTED, State.FAILED]


def print_lines(renderable: RenderableType) -> list[str]:
    """The lines that a wide terminal without colours shows."""
    file = io.StringIO()
    Console(file=file, width=300, color_system=None).print(renderable)
    return file.getvalue().splitlines()


def make_plan(runs: Sequence[PlannedRun], statuses: Sequence[Status]) -> Plan:
    """A plan with one entry per run."""
    entries = [
        PlanEntry(run=run, status=status, matrices=("quickstart",), seconds=90.0)
        for run, status in zip(runs, statuses, strict=True)
    ]
    return Plan(entries=tuple(entries), listed=len(entries))


def test_all_runs_are_shown_in_the_order_of_the_matrix(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()[:5]
    lines = print_lines(render_status(make_plan(runs, [Status(state) for state in FIRST_TO_LAST])))
    shown = [line.split()[:2] for line in lines[1:6]]
    assert shown == [
        [run.run_id, state.value] for run, state in zip(runs, FIRST_TO_LAST, strict=True)
    ]
    assert "1/5" in lines[-1]


def test_a_low_screen_shows_running_and_failed_runs_first(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()[:5]
    statuses = [Status(state) for state in FIRST_TO_LAST[:4]] + [Status(State.RUNNING)]
    lines = print_lines(render_status(make_plan(runs, statuses), lines=8))
    assert [line.split()[1] for line in lines[1:4]] == ["running", "interrupted", "queued"]
    assert lines[-1] == "... and 2 runs more"


def test_equal_messages_are_shown_once(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()[:3]
    failed = Status(State.FAILED, reason=Reason.BAD_DATA, message="camvid: no images")
    waiting = Status(State.QUEUED, reason=Reason.PREEMPTED, message="job 7 waits")
    lines = print_lines(render_status(make_plan(runs, [failed, failed, waiting])))
    assert f"{runs[0].run_id} and 1 more: bad_data: camvid: no images" in lines
    assert f"{runs[2].run_id}: job 7 waits" in lines


@pytest.mark.parametrize(
    ("end", "is_running", "state", "text"),
    [
        ({"time": "t"}, False, "done", "done"),
        (
            {"time": "t", "reason": "preempted", "message": "SIGTERM"},
            False,
            "ended",
            "preempted: SIGTERM",
        ),
        (None, True, "running", "running"),
        (None, False, "vanished", "vanished: the worker died without recording a reason"),
    ],
)
def test_an_attempt_is_shown_with_its_end(
    end: dict[str, str] | None, is_running: bool, state: str, text: str
) -> None:
    attempt = Attempt(number=1, start={"time": "10:00", "host": "gpu7", "job": "12"}, end=end)
    (data,) = attempts_to_dicts([attempt], is_running)
    assert (data["state"], data["node"], data["job"]) == (state, "gpu7", "12")
    _, line = print_lines(render_attempts([attempt], is_running))
    assert line.split()[:4] == ["1", "10:00", "gpu7", "12"]
    assert line.rstrip().endswith(text)


def test_only_the_last_attempt_of_a_running_run_is_running() -> None:
    attempts = [Attempt(number=number, start={}, end=None) for number in (1, 2)]
    rows = attempts_to_dicts(attempts, is_running=True)
    assert [row["state"] for row in rows] == ["vanished", "running"]
