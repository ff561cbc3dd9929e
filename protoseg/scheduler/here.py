"""Inside a job: which one this is, why it is being stopped, and whether another one runs."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from protoseg.runs.states import Reason
from protoseg.scheduler.call import call
from protoseg.scheduler.jobs import is_id
from protoseg.scheduler.query import shown

SECONDS = 5.0
"""A worker that was told to stop has little time."""


@dataclass(frozen=True)
class JobHere:
    """The job that this process is part of."""

    key: str
    """ "123_4", or "123" where it is no array."""
    raw_id: str
    restarts: int
    """How often it was requeued before."""
    node: str
    step: str
    """Number of the step that srun started; empty in the batch script."""


def job_here() -> JobHere | None:
    """This job, from the environment; None outside of a job."""
    environment = os.environ
    raw = environment.get("SLURM_JOB_ID", "")
    array = environment.get("SLURM_ARRAY_JOB_ID", "")
    task = environment.get("SLURM_ARRAY_TASK_ID", "")
    key = f"{array}_{task}" if array and task else raw
    if not is_id(key):
        return None
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    return JobHere(
        key=key,
        raw_id=raw,
        restarts=int(restarts) if restarts.isdecimal() else 0,
        node=environment.get("SLURMD_NODENAME", ""),
        step=environment.get("SLURM_STEP_ID", ""),
    )


def why_stopped(number: int) -> tuple[Reason, str]:
    """Why this job got a signal, with one sentence; one question to the controller, 5 s at most."""
    name = signal.Signals(number).name
    if number == signal.SIGUSR2:
        return Reason.TIMEOUT, "the time limit was near (SIGUSR2)"
    return Reason.PREEMPTED, f"{name} from the scheduler"


def is_job_active(key: str) -> bool | None:
    """Whether a job holds its nodes now; None where nobody can tell."""
    if not is_id(key):
        return None
    reply = call(["scontrol", "--all", "--oneliner", "show", "job", key], SECONDS)
    if "Invalid job id" in reply.problem:
        return False
    found = dict(shown(reply.out, {key})) if reply.fine else {}
    return found[key].active if key in found else None
