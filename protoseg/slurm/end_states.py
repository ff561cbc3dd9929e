"""The end of a job in SLURM's words, as evidence for `protoseg.runs.end_reasons`."""

from __future__ import annotations

import pwd
from typing import Any

from protoseg.slurm.jobs import Job

END_STATES = {
    "BOOT_FAIL": "the node did not boot",
    "CANCELLED": "the job was cancelled",
    "DEADLINE": "the job could not end before its deadline",
    "FAILED": "the job failed without a message",
    "LAUNCH_FAILED": "the job could not be launched on its node",
    "NODE_FAIL": "the node failed",
    "OUT_OF_MEMORY": "the job used more memory than it requested",
    "PREEMPTED": "a job of higher priority took the nodes",
    "RECONFIG_FAIL": "the node could not be reconfigured",
    "REQUEUED": "the job was requeued",
    "REVOKED": "another cluster of the federation took the job",
    "TIMEOUT": "the job reached its time limit",
}


def job_end_evidence(job: Job | None) -> dict[str, Any]:
    """Return the facts of a job's end, as arguments of `Evidence`.

    Empty if the job is unknown, has completed or has not ended.
    """
    if job is None or job.state not in END_STATES:
        return {}
    status, _, _ = job.exit_code.partition(":")
    is_failed = job.state == "FAILED" and status.isdecimal()
    return {
        "state": job.state,
        "state_message": describe_job_end(job),
        "node": job.node,
        "exit_status": int(status) if is_failed else None,
    }


def describe_job_end(job: Job) -> str:
    """Return one sentence about the end of a job."""
    sentence = END_STATES[job.state]
    if job.state == "FAILED":
        sentence += _describe_exit(job.exit_code)
    if job.by:
        sentence += f" by {_user_name(job.by)}"
    if job.node:
        sentence += f" on {job.node}"
    return f"{sentence} ({job.state})"


def _describe_exit(code: str) -> str:
    """ "1:0" -> ", with exit status 1"."""
    status, _, number = code.partition(":")
    if number not in ("", "0"):
        return f", killed by signal {number}"
    if not status.isdecimal() or status == "0":
        return ""
    if int(status) > 128:
        return f", with exit status {status} (signal {int(status) - 128})"
    meaning = {126: " (a command cannot be run)", 127: " (a command was not found)"}
    return f", with exit status {status}{meaning.get(int(status), '')}"


def _user_name(number: str) -> str:
    """Return the login name of a user number, or ``user NUMBER`` if it is unknown here."""
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError, OverflowError):
        return f"user {number}"
