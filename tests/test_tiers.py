"""The rule of the two test tiers (CONTRIBUTING.md): no test in the first tier takes over 3 s."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
from durations import key_of_node, read_durations, without_group
from groups import choose_group, sum_durations

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "protoseg"
FIRST_TIER_SECONDS = 3.0
SERVER_START = "starts a fork server, which imports torch and mmseg"
EXCEPTIONS: dict[str, str] = {
    "datasets.test_image_labels::test_image_level_labels_from_lists_of_pascal_voc": (
        "the first test of its process that imports mmseg"
    ),
    "launch.test_local::test_a_run_resumes_from_its_checkpoint_after_its_worker_is_killed": (
        SERVER_START
    ),
    "launch.test_local::test_a_second_sweep_of_finished_runs_has_nothing_to_do": SERVER_START,
    "launch.test_local::test_runs_save_on_sigint_and_the_next_sweep_resumes_them": SERVER_START,
    "launch.test_worker_processes::test_the_fork_server_has_one_thread_and_no_terminal": (
        SERVER_START
    ),
    "report.formats.test_files::test_the_tables_of_all_matrices_fit_the_text[1]": (
        "typesets every table with LaTeX"
    ),
    "test_quickstart::test_make_quickstart_trains_a_small_copy_of_the_matrix": (
        "the first command of the README"
    ),
    "test_results::test_verify_finds_no_problem": "verifies every committed result",
    "training.distributed.test_process_group::"
    "test_a_process_without_the_others_ends_after_the_time_limit[0]": "waits for a time limit",
    r"training.test_worker::test_damaged_data_end_a_run_as_bad_data"
    r"[truncated-train-0-images/train/00003\\.png: cannot be decoded]": (
        "torch waits 5 s for loader processes after an error"
    ),
}
"""Test -> why it is in the first tier although it takes over 3 s."""


def test_no_test_of_the_first_tier_takes_over_3_seconds(request: pytest.FixtureRequest) -> None:
    durations = read_durations()
    first_tier = [key_of_node(item.nodeid) for item in request.session.items if not is_slow(item)]
    too_long = {
        key: durations[key]
        for key in first_tier
        if durations.get(key, 0) > FIRST_TIER_SECONDS and key not in EXCEPTIONS
    }
    assert not too_long, "make these tests faster, or mark them slow"


def test_every_exception_takes_over_3_seconds() -> None:
    durations = read_durations()
    unnecessary = [key for key in EXCEPTIONS if durations.get(key, 0) <= FIRST_TIER_SECONDS]
    assert not unnecessary, "remove these from EXCEPTIONS"


def test_every_folder_of_tests_has_tests_in_the_first_tier(request: pytest.FixtureRequest) -> None:
    if [Path(argument).resolve() for argument in request.config.args] != [TESTS]:
        pytest.skip("only a part of the tests was collected")
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    # Subfolders that mirror no folder of protoseg may have slow tests only, e.g. slurm/testbed.
    required = {path for path in folders if len(path.parts) == 1 or (PACKAGE / path).is_dir()}
    first_tier = [item for item in request.session.items if not is_slow(item)]
    assert not required - {item.path.parent.relative_to(TESTS) for item in first_tier}


def test_long_groups_start_first_and_the_tests_of_a_group_stay_together(
    request: pytest.FixtureRequest,
) -> None:
    items = request.session.items
    groups = [group for group, _ in itertools.groupby(items, choose_group)]
    seconds = sum_durations(items)
    assert len(groups) == len(set(groups))
    assert groups == sorted(groups, key=lambda group: -seconds[group])


def test_ci_runs_both_tiers_each_once() -> None:
    def pytest_options(target: str) -> str:
        command = ["make", "-n", target, "READY=/dev/null", "BIN=BIN", "ARGS=tests/core"]
        result = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
        (line,) = (line for line in result.stdout.splitlines() if "-m pytest" in line)
        return line.partition(" -m pytest ")[2]

    whole = pytest_options("test-all")
    assert pytest_options("test").replace('-m "not slow" ', "") == whole
    assert pytest_options("test-slow").replace("-m slow ", "") == whole
    in_ci = [
        line for line in (TESTS.parent / ".ci" / "run").read_text().splitlines() if "make" in line
    ]
    first, report = "make test COVERAGE=1", "make coverage-report"
    assert in_ci[-3:] == [first, f"{report} TIERS=first", "make test-slow PROCESSES=3"]
    tiers = [first, "make test-slow COVERAGE=1", report]
    printed = subprocess.run(
        ["make", "-n", "coverage", "READY=/dev/null"],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    assert [line for line in tiers if line[5:] in printed.stdout] == tiers


@pytest.mark.parametrize(
    ("node_id", "expected"),
    [
        ("tests/a.py::test", "tests/a.py::test"),
        ("tests/a.py::test@tests/a.py", "tests/a.py::test"),
        ("tests/a.py::test[x@y]", "tests/a.py::test[x@y]"),
        ("tests/a.py::test[x@y]@slurm", "tests/a.py::test[x@y]"),
    ],
)
def test_the_group_of_xdist_is_removed_from_node_ids(node_id: str, expected: str) -> None:
    assert without_group(node_id) == expected


def is_slow(item: pytest.Item) -> bool:
    """Whether a test belongs to the second tier."""
    return item.get_closest_marker("slow") is not None
