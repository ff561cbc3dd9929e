"""Why jobs ended that could not say it themselves, written into the run folder.

The worker writes how its attempt ended. Where it could not, its batch job does; where that died
too, whoever looks next asks the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from protoseg import files
from protoseg.runs import claim
from protoseg.runs.attempts import Attempt
from protoseg.runs.folder import RunFolder, now
from protoseg.runs.states import Reason, State
from protoseg.slurm.client import Job
from protoseg.slurm.end_states import reason_of

VANISHED = "the worker vanished without a word"


def record_job_end(
    folder: RunFolder,
    key: str,
    job: Job | None,
    log: Path | None = None,
    *,
    accounting: bool = False,
    past: Callable[[str], Sequence[Job]] = lambda key: (),
) -> None:
    """Write down how a job ended that the run folder says nothing final about.

    Args:
        folder: of the run.
        key: of the job.
        job: what the scheduler says of it; None where it knows nothing.
        log: what its batch script printed, if that was kept.
        accounting: the scheduler's accounting was asked too.
        past: asks how a job that was requeued ended each time.

    Raises:
        ProtosegError: the folder can not be written.
    """
    if folder.status().state is State.DONE or claim.live_holder(folder.claim) is not None:
        return
    said = reason_of(job) if job else None
    source = job.source if job else "scheduler"
    mine = [attempt for attempt in folder.attempts() if attempt.job == key]
    if mine:
        last = mine[-1]
        if job is None or job.restarts <= last.restarts:
            reason, message = said or (Reason.LOST, VANISHED)
            news = last.ending is None or (said is not None and reason is not Reason.LOST)
            if news and _open_to_judgement(last, job):
                folder.record_verdict(last.number, reason, message, source)
            return
        # The job started once more, or waited to: its end is not that of this attempt.
        record_earlier_end(folder, last, past(key))
    if job is not None and said is None:
        return  # it ended well without training: another worker had the run
    if said is not None:
        reason, message = said
    elif accounting and log is not None and not log.exists():
        # Whatever ran has a row in accounting.
        reason = Reason.CANCELLED
        message = "cancelled before it began (of that SLURM keeps no trace)"
    else:
        reason, message = Reason.LOST, "the job vanished before its worker began"
    node, restarts = (job.node, job.restarts) if job else ("", 0)
    # After a restart the last line may still be from before it.
    if reason in (Reason.LOST, Reason.BAD_CONFIG) and log is not None and not restarts:
        message = files.read_last_line(log) or message
    record_failed_start(folder, key, node, reason, message, source, restarts)


def record_earlier_end(folder: RunFolder, attempt: Attempt, past: Sequence[Job]) -> None:
    """Write down how an attempt ended after which its job was started again.

    Args:
        past: how the job ended each time, oldest first; empty without accounting.

    Raises:
        ProtosegError: the folder can not be written.
    """
    if attempt.ending is not None:
        return
    then = [job for job in past if job.restarts <= attempt.restarts]
    said = reason_of(then[-1]) if then else None
    if then and then[-1].state == "REQUEUED":
        said = Reason.PREEMPTED, "the job was requeued"
    reason, message = said or (Reason.LOST, "the worker vanished; SLURM requeued its job")
    folder.record_verdict(attempt.number, reason, message, "sacct" if said else "scheduler")


def _open_to_judgement(attempt: Attempt, job: Job | None) -> bool:
    """Whether the scheduler may know better than what is on disk about an attempt's end.

    A worker that was sent SIGTERM calls it a preemption if it could not ask.
    """
    if attempt.verdict is not None:
        return False
    if attempt.end is None:
        return True
    # A job that was requeued and then cancelled while it waited ended after this attempt did.
    ran = job is not None and "" < job.start <= str(attempt.end.get("time", ""))
    return ran and attempt.reason in (Reason.PREEMPTED, Reason.LOST)


def record_failed_start(
    folder: RunFolder,
    key: str,
    node: str,
    reason: Reason,
    message: str,
    source: str,
    restarts: int = 0,
) -> None:
    """Count a job as an attempt that ended before its worker could begin one.

    Args:
        restarts: how often the job had been requeued.

    Raises:
        ProtosegError: the folder can not be written.
    """
    files.make_folder(folder.path)
    held = claim.acquire(folder.claim, job=key)
    if held is None:
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
        held.release()
