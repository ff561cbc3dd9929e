"""SLURM's end states, told as the reasons that protoseg keeps."""

from __future__ import annotations

from protoseg.runs.states import Reason
from protoseg.scheduler.jobs import Job

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
    """Why a job ended, with one sentence; None where it ended fine or has not ended."""
    if job.state == "COMPLETED" or job.state not in SENTENCES:
        return None
    reason, sentence = SENTENCES[job.state]
    if job.by:
        sentence += f" by user {job.by}"
    if job.node:
        sentence += f" on {job.node}"
    return reason, f"{sentence} ({job.state})"
