"""SLURM's end states, mapped to `Reason` and one sentence."""

from __future__ import annotations

import pwd

from protoseg.runs.states import NOT_WRITTEN, Reason
from protoseg.slurm.jobs import Job

NO_MODULE = 78
"""Exit status of a batch script that could not load a module (EX_CONFIG of sysexits)."""

END_STATES: dict[str, tuple[Reason, str]] = {
    "BOOT_FAIL": (Reason.NODE_FAILURE, "the node did not boot"),
    "CANCELLED": (Reason.CANCELLED, "the job was cancelled"),
    "DEADLINE": (Reason.TIMEOUT, "the job could not end before its deadline"),
    "FAILED": (Reason.LOST, "the job failed without a message"),
    "LAUNCH_FAILED": (Reason.NODE_FAILURE, "the job could not be launched on its node"),
    "NODE_FAIL": (Reason.NODE_FAILURE, "the node failed"),
    "OUT_OF_MEMORY": (Reason.OUT_OF_MEMORY, "the job used more memory than it requested"),
    "PREEMPTED": (Reason.PREEMPTED, "a job of higher priority took the nodes"),
    "RECONFIG_FAIL": (Reason.NODE_FAILURE, "the node could not be reconfigured"),
    "REVOKED": (Reason.PREEMPTED, "another cluster of the federation took the job"),
    "TIMEOUT": (Reason.TIMEOUT, "the job reached its time limit"),
}


def explain_job_end(job: Job) -> tuple[Reason, str] | None:
    """Return why a job ended, with one sentence; None if it completed or has not ended.

    A FAILED job is `Reason.LOST`: a worker that finds its own reason writes it to the run folder.
    """
    if job.state not in END_STATES:
        return None
    if job.state == "FAILED" and job.exit_code == f"{NOT_WRITTEN}:0":
        return Reason.STORAGE, "the run folder could not be written"
    if job.state == "FAILED" and job.exit_code == f"{NO_MODULE}:0":
        return Reason.BAD_CONFIG, "the batch script could not load a module"
    reason, sentence = END_STATES[job.state]
    if job.state == "FAILED":
        sentence += _describe_exit(job.exit_code)
    if job.by:
        sentence += f" by {_user_name(job.by)}"
    if job.node:
        sentence += f" on {job.node}"
    return reason, f"{sentence} ({job.state})"


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
