"""What is known about the end of an attempt, from all its witnesses.

The witnesses are the run folder (the worker's own ending, the record, the heartbeat), the batch
script (exit status, output and signals) and SLURM (state of the job, restarts, time limit).
`protoseg.runs.end_reasons` has the table that decides.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from protoseg.runs.states import Reason


@dataclass(frozen=True)
class Evidence:
    """What is known about the end of an attempt; a default means unknown, or not the case."""

    has_record: bool = False
    """This attempt wrote the record of the run."""
    own_reason: Reason | None = None
    """The reason that the worker recorded, with `own_message`."""
    own_message: str = ""
    has_begun: bool = True
    """Whether a worker began the attempt. False: its job ended before."""
    was_stopped_twice: bool = False
    """A second stop request killed the worker of a sweep on this machine."""

    reports_out_of_memory: bool = False
    reports_node_failure: bool = False
    """Messages in the output of srun."""
    exit_status: int | None = None
    """Of srun, or of the batch script."""
    last_output: str = ""
    """Last line of the output."""
    signal_number: int = 0
    """The stop signal that the worker or the batch script received."""

    state: str = ""
    """SLURM's state of the job, for the start in which the attempt ran."""
    state_message: str = ""
    """One sentence about this state, with node and user."""
    node: str = ""
    is_being_preempted: bool = False
    has_reached_limit: bool = False
    time_limit: str = "unknown"
    seconds_left: float | None = None
    """Until the time limit of a job that runs."""
    was_requeued: bool = False
    """SLURM started or queued the job again after the attempt."""
    has_no_trace: bool = False
    """Neither accounting nor a log shows that the job ran."""
    silent_seconds: float | None = None
    """Between the worker's last sign of life and the end of its job."""

    @property
    def signal_name(self) -> str:
        """Name of the signal that ended or stopped the worker."""
        status = self.exit_status or 0
        number = self.signal_number or (status - 128 if status > 128 else max(0, -status))
        try:
            return signal.Signals(number).name if number else ""
        except ValueError:
            return f"signal {number}"

    @property
    def is_guess(self) -> bool:
        """Whether the worker's own reason may be wrong.

        A worker that is stopped while SLURM does not answer, or before accounting shows who
        stopped it, records "preempted" or "lost".
        """
        return self.own_reason in (Reason.LOST, Reason.PREEMPTED)
