"""Inside a job: which one this is, why it is being stopped, and whether another one runs."""

from __future__ import annotations

import datetime
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

from protoseg.runs.states import Reason
from protoseg.slurm.end_states import reason_of
from protoseg.slurm.jobs import Job, is_id, known
from protoseg.slurm.queries import ending_in_sacct, show_job, shown, unknown_job

SECONDS = 5.0
"""A worker that was told to stop has little time."""
NEAR_SECONDS = 90.0
"""SLURM looks at time limits every half a minute and lets jobs run over by as much."""


@dataclass(frozen=True)
class CurrentJob:
    """The job that this process is part of."""

    key: str
    """ "123_4", or "123" where it is no array."""
    raw_id: str
    restarts: int
    """How often it was requeued before."""
    node: str
    step: str
    """Number of the step that srun started; empty in the batch script."""


def current_job() -> CurrentJob | None:
    """This job, from the environment; None outside of a job."""
    environment = os.environ
    raw = environment.get("SLURM_JOB_ID", "")
    array = environment.get("SLURM_ARRAY_JOB_ID", "")
    task = environment.get("SLURM_ARRAY_TASK_ID", "")
    key = f"{array}_{task}" if array and task else raw
    if not is_id(key):
        return None
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    return CurrentJob(
        key=key,
        raw_id=raw,
        restarts=int(restarts) if restarts.isdecimal() else 0,
        node=environment.get("SLURMD_NODENAME", ""),
        step=environment.get("SLURM_STEP_ID", ""),
    )


def why_stopped(number: int) -> tuple[Reason, str]:
    """Why this process got a signal, with one sentence.

    It asks the controller once and, where that can not know (who cancelled, who requeued), the
    accounting; 5 s at most in all. It never raises.

    Args:
        number: of the signal.
    """
    until = time.monotonic() + SECONDS
    name = _signal_name(number)
    here = current_job()
    reply = show_job(here.key, SECONDS) if here else None
    found = next(shown(reply.out, {here.key}), None) if here and reply and reply.fine else None
    if here is None or found is None:
        if number == signal.SIGUSR2:
            return Reason.TIMEOUT, f"{name}: the time limit was near"
        return Reason.LOST, f"{name} from the scheduler, which could not be asked why"
    _, job, values = found
    if known(values.get("PreemptTime", "")):
        return Reason.PREEMPTED, f"{name}: a job of higher priority takes the nodes (PREEMPTED)"
    if job.state in ("RUNNING", "SUSPENDED", "STOPPED"):
        return _while_running(number, job, values)
    if job.why == "TimeLimit" or job.state in ("TIMEOUT", "DEADLINE"):
        return Reason.TIMEOUT, f"the time limit of {values.get('TimeLimit')} was reached (TIMEOUT)"
    past = ending_in_sacct(here.key, until - time.monotonic())
    if past and (reason := reason_of(past)):
        return reason
    if past and past.state == "REQUEUED":
        return Reason.PREEMPTED, "a person, or a part of SLURM, requeued the job (REQUEUED)"
    if job.restarts > here.restarts:
        return Reason.PREEMPTED, f"{name}: the job was requeued; SLURM could not say by whom"
    return reason_of(job) or (Reason.CANCELLED, f"{name}: the job was cancelled, or ended by SLURM")


def _while_running(number: int, job: Job, values: Mapping[str, str]) -> tuple[Reason, str]:
    """A signal to a job that goes on: a warning before its end, or nothing of the scheduler's."""
    name, limit = _signal_name(number), values.get("TimeLimit", "unknown")
    left = _seconds_until(job.end)
    # SIGUSR2 is what sbatch was told to send before the limit, however long before.
    if number == signal.SIGUSR2 or (left is not None and left <= NEAR_SECONDS):
        return Reason.TIMEOUT, f"{name}: the time limit of {limit} was near"
    # srun ends a step so when one of its processes fails: with retries for ever, a run whose
    # second process always fails would never stop.
    return Reason.LOST, f"{name} while the job goes on: a process of it failed, or a person sent it"


def is_job_active(key: str) -> bool | None:
    """Whether a job holds its nodes now; None where nobody can tell. A suspended one does."""
    if not is_id(key):
        return None
    reply = show_job(key, SECONDS)
    if not reply.fine:
        return False if unknown_job(reply) else None
    for _, job, _ in shown(reply.out, {key}):
        return job.active or job.state in ("SUSPENDED", "STOPPED", "CONFIGURING")
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _seconds_until(moment: str) -> float | None:
    if not moment:
        return None
    return datetime.datetime.fromisoformat(moment).timestamp() - time.time()
