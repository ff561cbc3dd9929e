"""SLURM's end states, told as the reasons that protoseg keeps."""

from __future__ import annotations

import pwd

from protoseg.runs.states import NOT_WRITTEN, Reason
from protoseg.slurm.jobs import Job

NO_MODULE = 78
"""Exit status of a batch script whose modules could not be loaded (EX_CONFIG of sysexits)."""

SENTENCES: dict[str, tuple[Reason, str]] = {
    "BOOT_FAIL": (Reason.NODE_FAILURE, "the node did not boot"),
    "CANCELLED": (Reason.CANCELLED, "the job was cancelled"),
    "DEADLINE": (Reason.TIMEOUT, "the job could not end before its deadline"),
    "FAILED": (Reason.LOST, "the job ended without a word"),
    "LAUNCH_FAILED": (Reason.NODE_FAILURE, "the job could not be launched on its node"),
    "NODE_FAIL": (Reason.NODE_FAILURE, "the node failed"),
    "OUT_OF_MEMORY": (Reason.OUT_OF_MEMORY, "the job used more memory than it had asked for"),
    "PREEMPTED": (Reason.PREEMPTED, "a job of higher priority took the nodes"),
    "RECONFIG_FAIL": (Reason.NODE_FAILURE, "the node could not be set up anew"),
    "REVOKED": (Reason.PREEMPTED, "another cluster of the federation took the job"),
    "TIMEOUT": (Reason.TIMEOUT, "the job reached its time limit"),
}


def reason_of(job: Job) -> tuple[Reason, str] | None:
    """Why a job ended, with one sentence; None where it ended fine or has not ended.

    A job that FAILED is `Reason.LOST`: had its worker been able to say why, the run folder would.
    """
    if job.state not in SENTENCES:
        return None
    if job.state == "FAILED" and job.exit_code == f"{NOT_WRITTEN}:0":
        return Reason.STORAGE, "the run folder could not be written"
    if job.state == "FAILED" and job.exit_code == f"{NO_MODULE}:0":
        return Reason.BAD_CONFIG, "the batch script could not load a module"
    reason, sentence = SENTENCES[job.state]
    if job.state == "FAILED":
        sentence += _exit(job.exit_code)
    if job.by:
        sentence += f" by {_person(job.by)}"
    if job.node:
        sentence += f" on {job.node}"
    return reason, f"{sentence} ({job.state})"


def _exit(code: str) -> str:
    """ "1:0" -> ", with exit status 1"."""
    status, _, number = code.partition(":")
    if number not in ("", "0"):
        return f", killed by signal {number}"
    if not status.isdecimal() or status == "0":
        return ""
    if int(status) > 128:
        return f", with exit status {status} (signal {int(status) - 128})"
    meaning = {126: " (a command could not be run)", 127: " (a command was not found)"}
    return f", with exit status {status}{meaning.get(int(status), '')}"


def _person(number: str) -> str:
    """The login name that belongs to a user number, where this machine knows it."""
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError, OverflowError):
        return f"user {number}"
