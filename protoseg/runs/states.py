"""The closed sets of run states and of reasons why an attempt failed, with the retry rules."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class State(enum.StrEnum):
    """Where a run stands, decided from its folder (and, on a cluster, the scheduler)."""

    NEW = "new"
    """Never started."""
    QUEUED = "queued"
    """Submitted, waiting for a slot."""
    RUNNING = "running"
    """A live worker holds the claim."""
    INTERRUPTED = "interrupted"
    """Cut off for a reason that can pass; the next sweep goes on from the last checkpoint."""
    FAILED = "failed"
    """Stopped for a reason that will not pass by itself."""
    DONE = "done"
    """A valid record exists."""


class Reason(enum.StrEnum):
    """Why an attempt ended without a record."""

    PREEMPTED = "preempted"
    NODE_FAILURE = "node_failure"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """Stopped by a person: Ctrl-C, or a cancel."""
    OUT_OF_MEMORY = "out_of_memory"
    STORAGE = "storage"
    """The run folder could not be written: no space, quota, permission."""
    BAD_DATA = "bad_data"
    BAD_CONFIG = "bad_config"
    CODE_ERROR = "code_error"
    LOST = "lost"
    """The worker vanished without a word: killed, or its machine died."""


MAX_RETRIES: dict[Reason, int | None] = {
    Reason.PREEMPTED: None,
    Reason.CANCELLED: None,
    Reason.STORAGE: None,
    Reason.NODE_FAILURE: 10,
    Reason.TIMEOUT: 0,
    Reason.LOST: 5,
    Reason.OUT_OF_MEMORY: 0,
    Reason.BAD_DATA: 0,
    Reason.BAD_CONFIG: 0,
    Reason.CODE_ERROR: 0,
}
"""How many attempts in a row may end for a reason before ``sweep`` leaves the run alone.

None: as often as it happens. 0: never by itself; ``sweep --retry-failed`` tries again. A cluster
profile may set others.
"""

NOT_WRITTEN = 74
"""Exit status (EX_IOERR) of a process that could not write into the run folder how it ended. On a
cluster the scheduler keeps it, and the next ``sweep`` or ``status`` writes it down."""

PASSING = {
    Reason.PREEMPTED,
    Reason.NODE_FAILURE,
    Reason.TIMEOUT,
    Reason.CANCELLED,
    Reason.STORAGE,
    Reason.LOST,
}
"""Reasons that lie outside the run. Of these an attempt that got further does not count: a run
that times out goes on as long as each attempt leaves a newer checkpoint than the one before."""

ON_REQUEST = {Reason.CANCELLED, Reason.STORAGE, Reason.OUT_OF_MEMORY}
"""Reasons after which only a person's next ``sweep`` goes on: a cancel is a wish, a full disk does
not empty itself within seconds, and the same job gets no more memory by starting again."""


def may_retry(
    reason: Reason, in_a_row: int, limits: Mapping[str, int | None] | None = None
) -> bool:
    """Whether a run whose last ``in_a_row`` attempts ended for ``reason`` is tried again.

    Args:
        limits: reason -> number, where they differ from `MAX_RETRIES`.
    """
    limit = (limits or {}).get(reason.value, MAX_RETRIES[reason])
    return limit is None or in_a_row <= limit
