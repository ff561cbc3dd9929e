"""Facts inside a job: its id, why it is stopped, and whether another job runs."""

from __future__ import annotations

import datetime
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

from protoseg.runs.states import Reason
from protoseg.slurm.end_states import explain_job_end
from protoseg.slurm.jobs import Job, clean_value, is_job_id
from protoseg.slurm.queries import is_unknown_job, parse_scontrol, show_job, wait_for_end_in_sacct

SECONDS = 5.0
"""Time limit of all queries: a worker that is stopped has little time."""
NEAR_SECONDS = 90.0
"""A time limit is near within this time: SLURM checks limits only every 30 s."""


@dataclass(frozen=True)
class CurrentJob:
    """The job that this process is part of."""

    key: str
    """ "123_4" for a task of an array, else "123"."""
    restarts: int
    """How often it was requeued."""
    node: str
    step: str
    """Number of srun's step; empty in the batch script."""


def current_job() -> CurrentJob | None:
    """Return the current job from the environment; None outside a job."""
    environment = os.environ
    array = environment.get("SLURM_ARRAY_JOB_ID", "")
    task = environment.get("SLURM_ARRAY_TASK_ID", "")
    key = f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID", "")
    if not is_job_id(key):
        return None
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    return CurrentJob(
        key=key,
        restarts=int(restarts) if restarts.isdecimal() else 0,
        node=environment.get("SLURMD_NODENAME", ""),
        step=environment.get("SLURM_STEP_ID", ""),
    )


def explain_signal(number: int) -> tuple[Reason, str]:
    """Return why this process got a signal, with one sentence.

    Queries the controller once, and then accounting for what the controller does not know (who
    cancelled or requeued). Takes at most 5 s and never raises.

    Args:
        number: number of the signal.
    """
    until = time.monotonic() + SECONDS
    name = _signal_name(number)
    current = current_job()
    reply = show_job(current.key, SECONDS) if current else None
    entry = None
    if current and reply and reply.is_ok:
        entry = next(parse_scontrol(reply.out, {current.key}), None)
    if current is None or entry is None:
        if number == signal.SIGUSR2:
            return Reason.TIMEOUT, f"{name}: the time limit was near"
        return Reason.LOST, f"{name}; SLURM did not answer why"
    _, job, values = entry
    if clean_value(values.get("PreemptTime", "")):
        return Reason.PREEMPTED, f"{name}: a job of higher priority takes the nodes (PREEMPTED)"
    if job.state in ("RUNNING", "SUSPENDED", "STOPPED"):
        return _explain_signal_to_running_job(number, job, values)
    if job.why == "TimeLimit" or job.state in ("TIMEOUT", "DEADLINE"):
        return Reason.TIMEOUT, f"the time limit of {values.get('TimeLimit')} was reached (TIMEOUT)"
    past = wait_for_end_in_sacct(current.key, until - time.monotonic())
    if past and (reason := explain_job_end(past)):
        return reason
    if past and past.state == "REQUEUED":
        return Reason.PREEMPTED, "a user or SLURM requeued the job (REQUEUED)"
    if job.restarts > current.restarts:
        return Reason.PREEMPTED, f"{name}: the job was requeued; SLURM does not know by whom"
    return explain_job_end(job) or (
        Reason.CANCELLED,
        f"{name}: the job was cancelled, or SLURM ended it",
    )


def _explain_signal_to_running_job(
    number: int, job: Job, values: Mapping[str, str]
) -> tuple[Reason, str]:
    """Explain a signal to a job that still runs: a warning before its time limit, or not SLURM."""
    name, limit = _signal_name(number), values.get("TimeLimit", "unknown")
    left = _seconds_until(job.end)
    # SIGUSR2 is the signal that sbatch sends before the time limit, however long before.
    if number == signal.SIGUSR2 or (left is not None and left <= NEAR_SECONDS):
        return Reason.TIMEOUT, f"{name}: the time limit of {limit} was near"
    # srun ends a step in this way if one of its processes fails. Reasons with unlimited retries
    # would never stop such a run.
    return Reason.LOST, f"{name} while the job runs: one of its processes failed, or a user sent it"


def is_job_active(key: str) -> bool | None:
    """Return whether a job (also a suspended one) holds its nodes now; None if unknown."""
    if not is_job_id(key):
        return None
    reply = show_job(key, SECONDS)
    if not reply.is_ok:
        return False if is_unknown_job(reply) else None
    for _, job, _ in parse_scontrol(reply.out, {key}):
        return job.is_active or job.state in ("SUSPENDED", "STOPPED", "CONFIGURING")
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
