"""The lookup of a run by its id or a part of it."""

from __future__ import annotations

import pytest

from cli.conftest import CommandLine
from protoseg.cli.command_line import parse_arguments
from protoseg.cli.context import Context
from protoseg.cli.run_lookup import (
    finished_runs,
    recorded_runs,
    started_or_recorded_runs,
    started_or_submitted_runs,
)
from protoseg.config.fields import to_plain
from protoseg.errors import UsageError
from protoseg.launch.submission import write_intent
from protoseg.runs.run_names import SHOWN, find_run

RUN_IDS = ["camvid-tiny-s0-aaaa", "camvid-tiny-s1-bbbb", "shapes-tiny-s0-cccc"]


def usage_error(name: str, run_ids: list[str]) -> str:
    """The message for a name that identifies no run."""
    with pytest.raises(UsageError) as caught:
        find_run(name, run_ids, "RUNS")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        ("camvid-tiny-s0-aaaa", "camvid-tiny-s0-aaaa"),
        ("bbbb", "camvid-tiny-s1-bbbb"),
        ("shapes", "shapes-tiny-s0-cccc"),
        ("tiny-s1", "camvid-tiny-s1-bbbb"),
    ],
)
def test_a_run_id_or_a_unique_part_identifies_a_run(name: str, run_id: str) -> None:
    assert find_run(name, RUN_IDS, "RUNS") == run_id


def test_a_run_id_identifies_its_run_even_if_another_id_contains_it() -> None:
    assert find_run("run-a", ["run-a", "run-ab"], "RUNS") == "run-a"


def test_an_ambiguous_part_is_an_error_with_the_candidates() -> None:
    assert usage_error("camvid", RUN_IDS) == (
        "'camvid' is a part of 2 run ids: camvid-tiny-s0-aaaa, camvid-tiny-s1-bbbb. "
        "Give a longer part."
    )
    many = [f"run-{number:02}" for number in range(SHOWN + 1)]
    message = usage_error("run", many)
    assert f"a part of {SHOWN + 1} run ids: run-00, " in message
    assert message.endswith("run-04 and 1 more. Give a longer part.")


def test_an_unknown_run_is_an_error_with_the_nearest_id() -> None:
    message = usage_error("camvid-tiny-s0-aaab", RUN_IDS)
    assert message.startswith("RUNS: unknown run 'camvid-tiny-s0-aaab'. Did you mean ")
    assert all(run_id in message for run_id in RUN_IDS)


def test_of_many_runs_only_the_most_similar_are_listed() -> None:
    many = [f"run-{number:03}" for number in range(100)]
    message = usage_error("run-0421", many)
    assert "RUNS (100 runs): unknown run" in message
    assert "run-042" in message
    assert message.count("run-0") <= SHOWN + 2


def test_the_sets_of_runs_come_from_run_folders_records_and_submissions(
    protoseg: CommandLine,
) -> None:
    runs = protoseg.quickstart()
    protoseg.record(runs[0], 70.0)
    protoseg.record(runs[1], 70.0, in_runs=True)
    protoseg.lab.start(runs[2].spec)
    write_intent(protoseg.lab.runs, "m", [(runs[3].run_id, to_plain(runs[3].spec))], launch={})
    context = Context(parse_arguments(["logs", *protoseg.paths, "any"]))
    committed, finished, started, submitted = (run.run_id for run in runs[:4])
    assert recorded_runs(context) == {committed}
    assert finished_runs(context) == {finished}
    assert started_or_submitted_runs(context) == {finished, started, submitted}
    assert started_or_recorded_runs(context) >= {committed, started}
