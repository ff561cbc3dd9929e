"""The retry policy: whether, when and how often a run is retried after a failed attempt.

`RULES` has one row for each `Reason`. Every other module asks the functions below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protoseg.runs.attempts import Attempt
from protoseg.runs.states import Reason, State


@dataclass(frozen=True)
class RetryRule:
    """What happens to a run after an attempt that ended for one reason."""

    limit: int | None
    """Attempts in a row that may end for this reason; with one more, the run has failed.

    None: any number. 0: only attempts that made progress are retried, unless ``ignores_progress``;
    otherwise ``sweep --retry-failed`` retries the run.
    """
    ignores_progress: bool = False
    """Attempts that made progress are counted too: the cause is in the run itself."""
    is_automatic: bool = False
    """Retried without the user: ``sweep`` restarts the run at once, a SLURM job is requeued.

    False: the next ``sweep`` retries the run.
    """
    requeues_ending_job: bool = False
    """Requeued also if SLURM is ending the job for this reason.

    False if SLURM requeues the job itself, or if the job may have been cancelled: a requeue
    restarts a cancelled job.
    """
    is_configurable: bool = True
    """A cluster profile may set another limit (``retries``)."""


RULES: dict[Reason, RetryRule] = {
    Reason.PREEMPTED: RetryRule(None, is_automatic=True, requeues_ending_job=True),
    # Retried while each attempt makes progress; without progress no number of attempts helps.
    Reason.TIMEOUT: RetryRule(
        0, is_automatic=True, requeues_ending_job=True, is_configurable=False
    ),
    Reason.NODE_FAILURE: RetryRule(10, is_automatic=True),
    Reason.LOST: RetryRule(5, is_automatic=True),
    # The user asked for the end.
    Reason.CANCELLED: RetryRule(None),
    # A full disk is still full seconds later.
    Reason.STORAGE: RetryRule(None),
    # A restarted job has no more memory than before.
    Reason.OUT_OF_MEMORY: RetryRule(0, ignores_progress=True),
    # The next attempt meets the same error.
    Reason.BAD_DATA: RetryRule(0, ignores_progress=True, is_configurable=False),
    Reason.BAD_CONFIG: RetryRule(0, ignores_progress=True, is_configurable=False),
    Reason.CODE_ERROR: RetryRule(0, ignores_progress=True, is_configurable=False),
}


def may_retry(reason: Reason, in_a_row: int, limits: Mapping[str, Any] | None = None) -> bool:
    """Whether a run whose last ``in_a_row`` attempts ended for ``reason`` is retried.

    Args:
        limits: reason -> limit, from ``launch.json``. Limits that a profile may not set are
            ignored, and so is anything but a whole number or None.
    """
    rule = RULES[reason]
    limit = rule.limit
    if limits and rule.is_configurable and reason.value in limits:
        value = limits[reason.value]
        limit = value if value is None or type(value) is int else limit
    return limit is None or in_a_row <= limit


def count_failures_in_a_row(attempts: Sequence[Attempt], checkpoint_iteration: int) -> int:
    """How many attempts at the end share one reason.

    The count stops at an attempt that made progress, unless the rule of the reason ignores
    progress. A reported success without a record counts as lost.

    Args:
        attempts: of one run, oldest first.
        checkpoint_iteration: of the newest checkpoint; how far the last attempt got.
    """
    count = 0
    reached = checkpoint_iteration
    reasons = [attempt.reason or Reason.LOST for attempt in attempts]
    for attempt, reason in zip(reversed(attempts), reversed(reasons), strict=True):
        if reason is not reasons[-1]:
            break
        if reached > attempt.began_at and not RULES[reason].ignores_progress:
            break
        count += 1
        reached = attempt.began_at
    return count


def is_automatic(state: State, reason: Reason | None) -> bool:
    """Whether a run in this state is restarted at once, or its SLURM job requeued."""
    return state is State.INTERRUPTED and reason is not None and RULES[reason].is_automatic


def requeues_ending_job(reason: Reason) -> bool:
    """Whether a job that SLURM is ending for this reason is requeued."""
    return RULES[reason].requeues_ending_job


def is_due(state: State, reason: Reason | None, retry_failed: bool) -> bool:
    """Whether ``sweep`` trains a run in this state.

    Args:
        reason: of the last attempt. A failed run without a reason has a damaged record, which is
            never overwritten.
        retry_failed: ``sweep --retry-failed``.
    """
    if state is State.FAILED:
        return retry_failed and reason is not None
    return state in (State.NEW, State.INTERRUPTED)


def add_memory_retry(limits: Mapping[str, int | None]) -> dict[str, int | None]:
    """The limits of a profile that gives more memory after out of memory: one more attempt.

    Args:
        limits: reason -> limit of the profile; its own limit for out of memory is kept.
    """
    extended = dict(limits)
    extended.setdefault(Reason.OUT_OF_MEMORY.value, 1)
    return extended
