"""The table of evidence and reasons: each row decides for its evidence, in this order."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from protoseg.runs.end_reasons import ROWS, SILENT_SECONDS, diagnose, find_row
from protoseg.runs.evidence import Evidence
from protoseg.runs.states import NOT_WRITTEN, Reason

TESTS = Path(__file__).parents[1]
DEAD = SILENT_SECONDS + 1
TERM = signal.SIGTERM.value

CASES: dict[str, tuple[Evidence, Reason | None, str]] = {
    "the record is written": (
        Evidence(has_record=True, state="NODE_FAIL", exit_status=-9),
        None,
        "record written",
    ),
    "a second stop request killed the worker": (
        Evidence(was_stopped_twice=True),
        Reason.CANCELLED,
        "second stop request",
    ),
    "srun reports that SLURM killed the worker for its memory": (
        Evidence(own_reason=Reason.CODE_ERROR, reports_out_of_memory=True, exit_status=1),
        Reason.OUT_OF_MEMORY,
        "memory use",
    ),
    "the worker recorded its reason": (
        Evidence(own_reason=Reason.STORAGE, own_message="disk full", state="NODE_FAIL"),
        Reason.STORAGE,
        "disk full",
    ),
    "srun reports a node failure": (
        Evidence(reports_node_failure=True, node="gpu1", exit_status=NOT_WRITTEN),
        Reason.NODE_FAILURE,
        "set the node gpu1 down",
    ),
    "SLURM: the node failed": (
        Evidence(
            state="NODE_FAIL", state_message="the node failed", exit_status=NOT_WRITTEN,
            signal_number=TERM, silent_seconds=DEAD,
        ),
        Reason.NODE_FAILURE,
        "the node failed",
    ),
    "SLURM: out of memory": (
        Evidence(state="OUT_OF_MEMORY", state_message="too much", exit_status=-9),
        Reason.OUT_OF_MEMORY,
        "too much",
    ),
    "the worker was silent long before SLURM ended its job": (
        Evidence(state="TIMEOUT", state_message="the limit (TIMEOUT)", silent_seconds=DEAD),
        Reason.LOST,
        "31 s before SLURM ended the job; later, the limit (TIMEOUT)",
    ),
    "exit status 74": (
        Evidence(state="FAILED", exit_status=NOT_WRITTEN),
        Reason.STORAGE,
        "could not be written",
    ),
    "exit status 78": (
        Evidence(state="FAILED", exit_status=78, has_begun=False),
        Reason.BAD_CONFIG,
        "could not load a module",
    ),
    "SLURM preempts the job": (
        Evidence(signal_number=TERM, state="RUNNING", is_being_preempted=True),
        Reason.PREEMPTED,
        "SIGTERM: a job of higher priority",
    ),
    "SLURM: preempted": (
        Evidence(state="PREEMPTED", state_message="took the nodes", signal_number=TERM),
        Reason.PREEMPTED,
        "took the nodes",
    ),
    "the time limit is reached": (
        Evidence(signal_number=TERM, has_reached_limit=True, time_limit="00:10:00"),
        Reason.TIMEOUT,
        "limit of 00:10:00 was reached",
    ),
    "SLURM: time limit": (
        Evidence(state="TIMEOUT", state_message="its limit", silent_seconds=SILENT_SECONDS),
        Reason.TIMEOUT,
        "its limit",
    ),
    "a signal near the time limit": (
        Evidence(signal_number=TERM, state="RUNNING", seconds_left=60, time_limit="00:10:00"),
        Reason.TIMEOUT,
        "limit of 00:10:00 was near",
    ),
    "SLURM: requeued": (Evidence(state="REQUEUED"), Reason.PREEMPTED, "REQUEUED"),
    "SLURM: cancelled": (
        Evidence(own_reason=Reason.PREEMPTED, state="CANCELLED", state_message="by ada"),
        Reason.CANCELLED,
        "by ada",
    ),
    "the worker recorded a guess, and SLURM has no better reason": (
        Evidence(own_reason=Reason.LOST, own_message="SIGTERM", state="FAILED", exit_status=75),
        Reason.LOST,
        "SIGTERM",
    ),
    "a signal, and the job is requeued": (
        Evidence(signal_number=TERM, was_requeued=True),
        Reason.PREEMPTED,
        "does not know by whom",
    ),
    "a signal, and the job runs": (
        Evidence(signal_number=TERM, state="RUNNING", seconds_left=4000),
        Reason.LOST,
        "SIGTERM while the job runs",
    ),
    "a signal, and SLURM does not answer": (
        Evidence(signal_number=TERM),
        Reason.LOST,
        "SIGTERM; SLURM did not answer why",
    ),
    "a signal, and the job ends": (
        Evidence(signal_number=TERM, state="COMPLETING"),
        Reason.CANCELLED,
        "was cancelled, or SLURM ended it",
    ),
    "cancelled in the queue": (
        Evidence(has_begun=False, has_no_trace=True),
        Reason.CANCELLED,
        "before it began",
    ),
    "the job ended before its worker began": (
        Evidence(has_begun=False, state="FAILED", exit_status=1, last_output="no such command"),
        Reason.LOST,
        "no such command",
    ),
    "a signal killed the worker": (
        Evidence(exit_status=137),
        Reason.LOST,
        "the worker was killed (SIGKILL)",
    ),
    "the job was started again": (
        Evidence(was_requeued=True),
        Reason.LOST,
        "SLURM requeued its job",
    ),
    "no evidence": (Evidence(), Reason.LOST, "died without recording a reason"),
}  # fmt: skip
"""Row -> evidence that it decides, although later rows apply too; its reason; its message."""

ENDINGS = "slurm/testbed/test_endings.py::"
CLIENT = "slurm/testbed/test_client.py::"
SUBMIT = "slurm/testbed/test_submit.py::"
EVERY = f"{CLIENT}test_slurm_and_the_worker_report_every_end"
UNANSWERED = f"{CLIENT}test_reports_without_accounting_and_controller"
FAILED = f"{ENDINGS}test_a_job_that_failed_gives_its_exit_status"
ENDED = f"{ENDINGS}test_a_job_that_slurm_ended_gives_slurms_reason"
NODE = f"{ENDINGS}test_a_dead_node_is_the_reason_also_after_a_start_without_a_row"
TESTBED: dict[str, str] = {
    "the record is written": (f"{ENDINGS}test_every_attempt_of_a_finished_run_has_an_ending"),
    "a second stop request killed the worker": (
        "launch/test_interrupt.py::test_a_second_ctrl_c_kills_and_keeps_the_last_checkpoint"
    ),
    "srun reports that SLURM killed the worker for its memory": (
        f"{SUBMIT}test_the_next_sweep_raises_the_memory_once"
    ),
    "the worker recorded its reason": (f"{SUBMIT}test_a_run_with_bad_data_is_not_retried"),
    "srun reports a node failure": (
        f"{SUBMIT}test_a_node_set_down_is_the_reason_while_its_worker_lives"
    ),
    "SLURM: the node failed": NODE,
    "SLURM: out of memory": (f"{ENDINGS}test_a_job_killed_for_its_memory_is_out_of_memory"),
    "the worker was silent long before SLURM ended its job": (
        f"{ENDINGS}test_a_dead_worker_is_lost_if_its_job_meets_its_time_limit_later"
    ),
    "exit status 74": (f"{ENDINGS}test_a_worker_on_a_full_disk_ends_for_its_storage"),
    "exit status 78": (f"{SUBMIT}test_a_script_that_cannot_start_gives_a_reason"),
    "SLURM preempts the job": EVERY,
    "SLURM: preempted": ENDED,
    "the time limit is reached": EVERY,
    "SLURM: time limit": ENDED,
    "a signal near the time limit": (f"{SUBMIT}test_a_run_resumes_after_its_time_limit"),
    "SLURM: requeued": ENDED,
    "SLURM: cancelled": ENDED,
    "the worker recorded a guess, and SLURM has no better reason": FAILED,
    "a signal, and the job is requeued": UNANSWERED,
    "a signal, and the job runs": EVERY,
    "a signal, and SLURM does not answer": UNANSWERED,
    "a signal, and the job ends": UNANSWERED,
    "cancelled in the queue": (f"{SUBMIT}test_pending_jobs_can_be_cancelled"),
    "the job ended before its worker began": FAILED,
    "a signal killed the worker": (f"{SUBMIT}test_a_run_with_a_killed_worker_is_requeued"),
    "the job was started again": NODE,
    "no evidence": FAILED,
}
"""Row -> the test that produces its evidence in real processes and jobs."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_decides_for_its_evidence(row: object) -> None:
    name = row.name  # type: ignore[attr-defined]
    evidence, reason, message = CASES[name]
    assert find_row(evidence).name == name
    actual, sentence = diagnose(evidence)
    assert actual is reason
    assert message in sentence


def test_each_row_has_one_case_and_one_name() -> None:
    assert list(CASES) == [row.name for row in ROWS]


def test_each_row_has_a_test_in_real_jobs() -> None:
    assert list(TESTBED) == [row.name for row in ROWS]
    for test in TESTBED.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (TESTS / path).read_text(encoding="utf-8"), test


def test_slurm_and_launch_leave_the_decision_to_the_table() -> None:
    """They may compare a recorded reason, but not choose one."""
    package = TESTS.parent / "protoseg"
    chosen = re.compile(r"(return|=|\(|,|else) ?\(?Reason\.[A-Z_]+", re.MULTILINE)
    for room in ("slurm", "launch", "cli"):
        for path in (package / room).rglob("*.py"):
            lines = [line for line in path.read_text().splitlines() if chosen.search(line)]
            assert not [line for line in lines if " is Reason." not in line], path
