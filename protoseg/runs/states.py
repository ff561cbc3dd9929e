"""The closed sets of run states and of reasons why an attempt failed."""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """The state of a run, derived from its folder and, on a cluster, from the scheduler."""

    NEW = "new"
    """Never started."""
    QUEUED = "queued"
    """Submitted; its job waits."""
    RUNNING = "running"
    """A live worker holds the claim."""
    INTERRUPTED = "interrupted"
    """Ended for a temporary reason; the next sweep resumes it from the last checkpoint."""
    FAILED = "failed"
    """Ended for a permanent reason, or too often for a temporary one."""
    DONE = "done"
    """A valid record exists."""


class Reason(enum.StrEnum):
    """Why an attempt ended without a record. `protoseg.runs.retry.RULES` has the retry rules."""

    PREEMPTED = "preempted"
    NODE_FAILURE = "node_failure"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """Stopped by the user: Ctrl-C, or a cancelled job."""
    OUT_OF_MEMORY = "out_of_memory"
    STORAGE = "storage"
    """The run folder could not be written: no space, quota, or permission."""
    BAD_DATA = "bad_data"
    BAD_CONFIG = "bad_config"
    CODE_ERROR = "code_error"
    LOST = "lost"
    """The worker died without recording a reason: killed, or its machine failed."""


NOT_WRITTEN = 74
"""Exit status (EX_IOERR) of a process that could not record in the run folder how it ended.

SLURM keeps the exit status; the next ``sweep`` or ``status`` records it.
"""
