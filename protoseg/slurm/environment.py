"""Facts inside a job: its id, why it is stopped, and whether another job runs."""

from __future__ import annotations

import datetime
import os
import time
from dataclasses import dataclass, replace

from protoseg.runs.end_reasons import RUNNING_STATES, TIMEOUT_STATES, diagnose_failure
from protoseg.runs.evidence import Evidence
from protoseg.runs.states import Reason
from protoseg.slurm.end_states import END_STATES, describe_job_end
from protoseg.slurm.jobs import clean_value, is_job_id
from protoseg.slurm.queries import is_unknown_job, parse_scontrol, show_job, wait_for_end_in_sacct

SECONDS = 5.0
"""Time limit of all queries: a worker that is stopped has little time."""


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
    """Return why this process got a signal, with one sentence; see `find_signal_evidence`."""
    return diagnose_failure(find_signal_evidence(number))


def find_signal_evidence(number: int) -> Evidence:
    """Return what SLURM reports about a signal to this process.

    Queries the controller once, and then accounting for what the controller does not report (who
    cancelled or requeued). Takes at most 5 s and never raises.

    Args:
        number: number of the signal.
    """
    until = time.monotonic() + SECONDS
    evidence = Evidence(signal_number=number)
    current = current_job()
    reply = show_job(current.key, SECONDS) if current else None
    entry = None
    if current and reply and reply.is_ok:
        entry = next(parse_scontrol(reply.out, {current.key}), None)
    if current is None or entry is None:
        return evidence
    _, job, values = entry
    evidence = replace(
        evidence,
        state=job.state,
        state_message=describe_job_end(job) if job.state in END_STATES else "",
        node=current.node,
        is_being_preempted=bool(clean_value(values.get("PreemptTime", ""))),
        has_reached_limit=job.why == "TimeLimit" or job.state in TIMEOUT_STATES,
        time_limit=values.get("TimeLimit", "unknown"),
    )
    if job.state in RUNNING_STATES:
        return replace(evidence, seconds_left=_seconds_until(job.end))
    if evidence.is_being_preempted or evidence.has_reached_limit:
        return evidence
    past = wait_for_end_in_sacct(current.key, until - time.monotonic())
    if past and past.state in END_STATES:
        return replace(evidence, state=past.state, state_message=describe_job_end(past))
    if job.restarts > current.restarts:  # the controller describes the next start
        return replace(evidence, state="", state_message="", was_requeued=True)
    return evidence


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


def _seconds_until(moment: str) -> float | None:
    if not moment:
        return None
    return datetime.datetime.fromisoformat(moment).timestamp() - time.time()
