"""Why an attempt ended: one table from evidence to a reason.

A module that records the end of an attempt collects `Evidence` and calls `diagnose`. The first row
of `ROWS` that applies decides. The worker's exceptions are classified in
`protoseg.training.failures`; here they are the worker's own reason.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from protoseg.runs.attempts import VANISHED
from protoseg.runs.claim import HEARTBEAT_SECONDS
from protoseg.runs.evidence import Evidence
from protoseg.runs.states import NOT_WRITTEN, Reason

NO_MODULE = 78
"""Exit status of a batch script that could not load a module (EX_CONFIG of sysexits)."""
NEAR_SECONDS = 90.0
"""A time limit is near within this time: SLURM checks limits only every 30 s."""
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
"""A worker without a sign of life for this long had died before SLURM ended its job."""

NODE_STATES = {"BOOT_FAIL", "LAUNCH_FAILED", "NODE_FAIL", "RECONFIG_FAIL"}
PREEMPTED_STATES = {"PREEMPTED", "REVOKED"}
TIMEOUT_STATES = {"DEADLINE", "TIMEOUT"}
RUNNING_STATES = {"RUNNING", "STOPPED", "SUSPENDED"}
"""SLURM's names of states, by what they say about a worker."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    """The evidence in a few words; tests refer to it."""
    applies: Callable[[Evidence], bool]
    reason: Reason | None
    """None: the attempt succeeded, or the worker's own reason is kept."""
    message: Callable[[Evidence], str]


def _state(evidence: Evidence) -> str:
    return evidence.state_message


def _signal(text: str) -> Callable[[Evidence], str]:
    return lambda e: f"{e.signal_name}: {text}"


OWN_REASON = "the worker recorded its reason"
OWN_GUESS = "the worker recorded a guess, and SLURM has no better reason"

ROWS = (
    Row("the record is written", lambda e: e.has_record, None, lambda e: "record written"),
    Row(
        "a second stop request killed the worker",
        lambda e: e.was_stopped_twice,
        Reason.CANCELLED,
        lambda e: "killed by a second stop request",
    ),
    # If SLURM kills one process, the others report a broken pipe: lost, or an error of the code.
    Row(
        "srun reports that SLURM killed the worker for its memory",
        lambda e: (
            e.reports_out_of_memory and e.own_reason in (None, Reason.LOST, Reason.CODE_ERROR)
        ),
        Reason.OUT_OF_MEMORY,
        lambda e: "SLURM killed the worker for its memory use",
    ),
    Row(
        OWN_REASON,
        lambda e: e.own_reason is not None and not e.is_guess,
        None,
        lambda e: e.own_message,
    ),
    # A dead node also causes write failures and exit statuses: it comes before both.
    Row(
        "srun reports a node failure",
        lambda e: e.reports_node_failure,
        Reason.NODE_FAILURE,
        lambda e: f"SLURM set the node {e.node} down",
    ),
    Row("SLURM: the node failed", lambda e: e.state in NODE_STATES, Reason.NODE_FAILURE, _state),
    Row(
        "SLURM: out of memory",
        lambda e: e.state == "OUT_OF_MEMORY",
        Reason.OUT_OF_MEMORY,
        _state,
    ),
    Row(
        "the worker was silent long before SLURM ended its job",
        lambda e: (
            e.own_reason is None
            and e.has_begun
            and e.silent_seconds is not None
            and e.silent_seconds > SILENT_SECONDS
        ),
        Reason.LOST,
        lambda e: (
            f"the worker's last sign of life was {e.silent_seconds:.0f} s before SLURM ended the "
            f"job; later, {e.state_message}"
        ),
    ),
    Row(
        "exit status 74",
        lambda e: e.exit_status == NOT_WRITTEN and e.own_reason is None,
        Reason.STORAGE,
        lambda e: "the run folder could not be written",
    ),
    Row(
        "exit status 78",
        lambda e: e.exit_status == NO_MODULE and not e.has_begun,
        Reason.BAD_CONFIG,
        lambda e: e.last_output or "the batch script could not load a module (FAILED)",
    ),
    Row(
        "SLURM preempts the job",
        lambda e: e.is_being_preempted,
        Reason.PREEMPTED,
        _signal("a job of higher priority takes the nodes (PREEMPTED)"),
    ),
    Row("SLURM: preempted", lambda e: e.state in PREEMPTED_STATES, Reason.PREEMPTED, _state),
    Row(
        "the time limit is reached",
        lambda e: e.has_reached_limit,
        Reason.TIMEOUT,
        lambda e: f"the time limit of {e.time_limit} was reached (TIMEOUT)",
    ),
    Row("SLURM: time limit", lambda e: e.state in TIMEOUT_STATES, Reason.TIMEOUT, _state),
    # sbatch sends SIGUSR2 before the time limit, however long before.
    Row(
        "a signal near the time limit",
        lambda e: (
            (
                e.signal_number == signal.SIGUSR2
                and e.state in {"", *RUNNING_STATES}
                and not e.was_requeued
            )
            or (
                bool(e.signal_number)
                and e.seconds_left is not None
                and e.seconds_left <= NEAR_SECONDS
            )
        ),
        Reason.TIMEOUT,
        lambda e: (
            f"{e.signal_name}: the time limit of {e.time_limit} was near"
            if e.state
            else f"{e.signal_name}: the time limit was near"
        ),
    ),
    Row(
        "SLURM: requeued",
        lambda e: e.state == "REQUEUED",
        Reason.PREEMPTED,
        lambda e: "a user or SLURM requeued the job (REQUEUED)",
    ),
    Row("SLURM: cancelled", lambda e: e.state == "CANCELLED", Reason.CANCELLED, _state),
    Row(OWN_GUESS, lambda e: e.own_reason is not None, None, lambda e: e.own_message),
    Row(
        "a signal, and the job is requeued",
        lambda e: bool(e.signal_number) and e.was_requeued,
        Reason.PREEMPTED,
        _signal("the job was requeued; SLURM does not know by whom"),
    ),
    # srun ends a step in this way if one of its processes fails. A reason with unlimited retries
    # would never stop such a run.
    Row(
        "a signal, and the job runs",
        lambda e: bool(e.signal_number) and e.state in RUNNING_STATES,
        Reason.LOST,
        lambda e: (
            f"{e.signal_name} while the job runs: one of its processes failed, or a user sent it"
        ),
    ),
    Row(
        "a signal, and SLURM does not answer",
        lambda e: bool(e.signal_number) and not e.state,
        Reason.LOST,
        lambda e: f"{e.signal_name}; SLURM did not answer why",
    ),
    Row(
        "a signal, and the job ends",
        lambda e: bool(e.signal_number) and e.state != "FAILED",
        Reason.CANCELLED,
        _signal("the job was cancelled, or SLURM ended it"),
    ),
    Row(
        "cancelled in the queue",
        lambda e: not e.has_begun and e.has_no_trace,
        Reason.CANCELLED,
        lambda e: "cancelled before it began (SLURM keeps no trace of that)",
    ),
    Row(
        "the job ended before its worker began",
        lambda e: not e.has_begun,
        Reason.LOST,
        lambda e: (
            e.last_output
            or e.state_message
            or _exit(e)
            or "the job disappeared before its worker began"
        ),
    ),
    Row(
        "a signal killed the worker",
        lambda e: bool(e.signal_name),
        Reason.LOST,
        lambda e: e.state_message or f"the worker was killed ({e.signal_name})",
    ),
    Row(
        "the job was started again",
        lambda e: e.was_requeued,
        Reason.LOST,
        lambda e: "the worker ended without recording a reason; SLURM requeued its job",
    ),
    Row(
        "no evidence",
        lambda e: True,
        Reason.LOST,
        lambda e: e.state_message or _exit(e) or VANISHED,
    ),
)
"""The first row that applies decides. "lost" is the reason without evidence, and never a guess."""


def _exit(evidence: Evidence) -> str:
    if evidence.exit_status is None:
        return ""
    return f"the worker ended without recording a reason (srun exited with {evidence.exit_status})"


def find_row(evidence: Evidence) -> Row:
    """Return the row that decides."""
    return next(row for row in ROWS if row.applies(evidence))


def diagnose(evidence: Evidence) -> tuple[Reason | None, str]:
    """Return why an attempt ended, with one sentence.

    Args:
        evidence: all that is known.

    Returns:
        The reason, None if the attempt wrote the record, and one sentence.
    """
    row = find_row(evidence)
    keeps_own = row.name in (OWN_REASON, OWN_GUESS)
    return evidence.own_reason if keeps_own else row.reason, row.message(evidence)


def diagnose_failure(evidence: Evidence) -> tuple[Reason, str]:
    """Return why an attempt failed: `diagnose` for an attempt that wrote no record."""
    reason, message = diagnose(evidence)
    assert reason is not None
    return reason, message
