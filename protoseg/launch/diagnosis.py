"""The reasons of attempts whose worker could not record its own end.

A worker records its own end. If it cannot, its batch job records the reason; if that died too, the
next command that reads the run queries SLURM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from protoseg import files
from protoseg.runs import claim
from protoseg.runs.attempts import VANISHED, Attempt
from protoseg.runs.folder import RunFolder, now
from protoseg.runs.states import Reason, State
from protoseg.slurm.client import Job
from protoseg.slurm.end_states import explain_job_end


def record_job_end(
    folder: RunFolder,
    key: str,
    job: Job | None,
    log: Path | None = None,
    *,
    accounting: bool = False,
    past: Callable[[str], Sequence[Job]] = lambda key: (),
) -> None:
    """Record the end of a job if the run folder has no final reason for it.

    Args:
        folder: folder of the run.
        key: id of the job.
        job: SLURM's view of the job; None if SLURM does not know it.
        log: output file of its batch script, if there is one.
        accounting: whether accounting answered.
        past: returns the starts of a requeued job, oldest first.

    Raises:
        ProtosegError: the folder cannot be written.
    """
    if folder.status().state is State.DONE or claim.live_holder(folder.claim) is not None:
        return
    job_end = explain_job_end(job) if job else None
    source = job.source if job else "scheduler"
    attempts = [attempt for attempt in folder.attempts() if attempt.job == key]
    if attempts:
        last = attempts[-1]
        if job is None or job.restarts <= last.restarts:
            reason, message = job_end or (Reason.LOST, VANISHED)
            # "lost" does not replace a reason that is already recorded.
            adds_reason = last.ending is None or (job_end and reason is not Reason.LOST)
            if adds_reason and _may_correct_reason(last, job):
                folder.record_verdict(last.number, reason, message, source)
            return
        # SLURM requeued the job after this attempt: the job's end is not the attempt's end.
        record_earlier_end(folder, last, past(key))
    if job is not None and job_end is None:
        return  # it completed without an attempt: another worker held the run
    if job_end is not None:
        reason, message = job_end
    elif accounting and log is not None and not log.exists():
        # Accounting has a row for every job that ran.
        reason = Reason.CANCELLED
        message = "cancelled before it began (SLURM keeps no trace of that)"
    else:
        reason, message = Reason.LOST, "the job disappeared before its worker began"
    node, restarts = (job.node, job.restarts) if job else ("", 0)
    # After a restart, the last line may be from the start before.
    if reason in (Reason.LOST, Reason.BAD_CONFIG) and log is not None and not restarts:
        message = files.read_last_line(log) or message
    record_failed_start(folder, key, node, reason, message, source, restarts)


def record_earlier_end(folder: RunFolder, attempt: Attempt, past: Sequence[Job]) -> None:
    """Record the end of an attempt whose job was started again afterwards.

    Args:
        folder: folder of the run.
        attempt: the attempt before the restart.
        past: starts of the job, oldest first; empty without accounting.

    Raises:
        ProtosegError: the folder cannot be written.
    """
    if attempt.ending is not None:
        return
    starts = [job for job in past if job.restarts <= attempt.restarts]
    job_end = explain_job_end(starts[-1]) if starts else None
    if starts and starts[-1].state == "REQUEUED":
        job_end = Reason.PREEMPTED, "the job was requeued"
    lost = Reason.LOST, "the worker ended without recording a reason; SLURM requeued its job"
    reason, message = job_end or lost
    folder.record_verdict(attempt.number, reason, message, "sacct" if job_end else "scheduler")


def _may_correct_reason(attempt: Attempt, job: Job | None) -> bool:
    """Return whether SLURM's reason may replace the recorded one.

    A worker that gets SIGTERM and no answer from SLURM records a guess.
    """
    if attempt.verdict is not None:
        return False
    if attempt.end is None:
        return True
    # A job that was requeued and then cancelled in the queue ended after this attempt.
    is_same_start = job is not None and "" < job.start <= str(attempt.end.get("time", ""))
    return is_same_start and attempt.reason in (Reason.PREEMPTED, Reason.LOST)


def record_failed_start(
    folder: RunFolder,
    key: str,
    node: str,
    reason: Reason,
    message: str,
    source: str,
    restarts: int = 0,
) -> None:
    """Record an attempt for a job that ended before its worker began one.

    Args:
        folder: folder of the run.
        key: id of the job.
        node: node of the job; empty if unknown.
        reason, message, source: the verdict on the attempt.
        restarts: how often the job was requeued.

    Raises:
        ProtosegError: the folder cannot be written.
    """
    files.make_folder(folder.path)
    held_claim = claim.acquire(folder.claim, job=key)
    if held_claim is None:
        return
    try:
        start = {
            "time": now(),
            "host": node,
            "node": node,
            "pid": 0,
            "job": key,
            "restarts": restarts,
            "iteration": folder.checkpoint_iteration(),
        }
        path = folder.start_attempt(start)
        folder.record_verdict(int(path.name), reason, message, source)
    finally:
        held_claim.release()
