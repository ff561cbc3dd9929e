"""Records the ends of attempts whose worker could not record its own end.

A worker records its own end. If it cannot, its batch job records the reason; if that died too, the
next command that reads the run queries SLURM. This module collects the evidence;
`protoseg.runs.end_reasons` has the table that decides.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.runs import claim
from protoseg.runs.attempts import Attempt
from protoseg.runs.end_reasons import diagnose, diagnose_failure
from protoseg.runs.evidence import Evidence
from protoseg.runs.folder import RunFolder, now
from protoseg.runs.states import State
from protoseg.slurm.client import Job
from protoseg.slurm.end_states import job_end_evidence

CLOCK_SECONDS = 1.0
"""How much later a job may appear to start than its worker: clocks differ."""


def record_job_end(
    folder: RunFolder,
    key: str,
    job: Job | None,
    log: Path | None = None,
    *,
    accounting: bool = False,
    past: Callable[[str], Sequence[Job]] = lambda key: (),
) -> bool:
    """Record the end of a job: of each of its attempts without one, and of a start without attempt.

    Args:
        folder: folder of the run.
        key: id of the job.
        job: SLURM's view of the job; None if SLURM does not know it.
        log: output file of its batch script, if there is one.
        accounting: whether accounting answered.
        past: returns the starts of a requeued job, oldest first.

    Returns:
        Whether all its ends are recorded. False: a live worker holds the run; call this again.

    Raises:
        ProtosegError: the folder cannot be written.
    """
    if claim.live_holder(folder.claim) is not None:
        return False
    attempts = [attempt for attempt in folder.attempts() if attempt.job == key]
    last = attempts[-1] if attempts else None
    is_last_start = last is not None and _ran_in_start(last, job)
    earlier = attempts[:-1] if is_last_start else attempts
    if any(attempt.ending is None for attempt in earlier):
        record_earlier_ends(folder, earlier, past(key))
    if is_last_start and last is not None:
        _record_last_end(folder, last, job)
        return True
    evidence = Evidence(
        **job_end_evidence(job),
        has_begun=False,
        # Accounting has a row for every job that ran.
        has_no_trace=job is None and accounting and log is not None and not log.exists(),
    )
    if folder.status().state is State.DONE or (job is not None and not evidence.state):
        return True  # it completed without an attempt: another worker held the run
    # After a restart, the last line may be from the start before.
    if log is not None and not (job and job.restarts):
        evidence = replace(evidence, last_output=files.read_last_line(log))
    source = job.source if job else "scheduler"
    return record_failed_start(folder, key, evidence, source, job.restarts if job else 0)


def _record_last_end(folder: RunFolder, attempt: Attempt, job: Job | None) -> None:
    """Record the end of an attempt in the last start of its job.

    SLURM's reason may replace a guess of the worker, but not a verdict, and not the reason of a
    worker that ended before this start: a job that was requeued and then cancelled in the queue.
    """
    if attempt.verdict is not None:
        return
    if attempt.end is not None:
        has_failed = attempt.end.get("reason") is not None
        is_same_start = job is not None and "" < job.start <= str(attempt.end.get("time", ""))
        if not (has_failed and is_same_start):
            return
    evidence = _find_evidence(folder, attempt, job)
    reason, message = diagnose(evidence)
    if attempt.end is None or reason is not evidence.own_reason:
        folder.record_verdict(attempt.number, reason, message, job.source if job else "scheduler")


def record_earlier_ends(
    folder: RunFolder, attempts: Sequence[Attempt], past: Sequence[Job] = ()
) -> None:
    """Record the ends of attempts whose job was started again afterwards, where they have none.

    Args:
        folder: folder of the run.
        attempts: of one job, of starts before its last one.
        past: starts of the job, oldest first; empty without accounting.

    Raises:
        ProtosegError: the folder cannot be written.
    """
    for attempt in attempts:
        if attempt.ending is not None:
            continue
        job = _find_start(attempt, past)
        evidence = replace(_find_evidence(folder, attempt, job), was_requeued=True)
        reason, message = diagnose(evidence)
        source = "sacct" if evidence.state else "scheduler"
        folder.record_verdict(attempt.number, reason, message, source)


def record_ends_before_restart(
    folder: RunFolder, job: Job, past: Callable[[str], Sequence[Job]]
) -> None:
    """Record the ends of attempts of a requeued job that waits, as far as accounting shows them.

    SLURM may hold such a job for long. Where accounting has no end yet, the attempt stays open: its
    batch script may still record a reason.

    Raises:
        ProtosegError: the folder cannot be written.
    """
    attempts = [
        attempt
        for attempt in folder.attempts()
        if attempt.job == job.id and attempt.restarts < job.restarts and attempt.ending is None
    ]
    if not attempts or claim.live_holder(folder.claim) is not None:
        return
    starts = past(job.id)
    shown = [each for each in attempts if job_end_evidence(_find_start(each, starts))]
    record_earlier_ends(folder, shown, starts)


def _find_evidence(folder: RunFolder, attempt: Attempt, job: Job | None) -> Evidence:
    """Return what the run folder and SLURM show about the end of an attempt."""
    facts = {**attempt_evidence(folder, attempt), **job_end_evidence(job)}
    return Evidence(**facts, silent_seconds=_silent_seconds(folder, attempt, job))


def attempt_evidence(folder: RunFolder, attempt: Attempt) -> dict[str, Any]:
    """Return what the run folder shows about the end of an attempt, as arguments of `Evidence`."""
    record = folder.status().record
    position = [each.number for each in folder.attempts()].index(attempt.number) + 1
    return {
        "has_record": record is not None and record["attempts"] == position,
        "own_reason": attempt.reason if attempt.end is not None else None,
        "own_message": attempt.message,
        "node": str(attempt.start.get("node") or ""),
    }


def _ran_in_start(attempt: Attempt, job: Job | None) -> bool:
    """Return whether an attempt ran in the start of its job that SLURM describes."""
    if job is None:
        return True
    if job.source == "sacct":  # the number of its rows is not that of the restarts
        return _find_start(attempt, [job]) is not None
    return job.restarts <= attempt.restarts


def _find_start(attempt: Attempt, starts: Sequence[Job]) -> Job | None:
    """Return the start of a job in which an attempt ran; None if accounting does not show it.

    The times decide, not the number of restarts: SLURM has one row for two starts if a node failed
    before it launched the job.

    Args:
        attempt: the attempt.
        starts: rows of accounting, in the order in which the job was requeued.
    """
    began = to_seconds(str(attempt.start.get("time", "")))
    if began is None or not any(job.start for job in starts):
        earlier = [job for job in starts if job.restarts <= attempt.restarts]
    else:
        latest = began + CLOCK_SECONDS
        earlier = [job for job in starts if (to_seconds(job.start) or math.inf) <= latest]
    return earlier[-1] if earlier else None


def _silent_seconds(folder: RunFolder, attempt: Attempt, job: Job | None) -> float | None:
    """Return the time between the worker's last sign of life and the end of its job.

    None if one of them is unknown. The heartbeat of a worker that died stays in the claim until
    another worker takes the run over.
    """
    end = to_seconds(job.end) if job is not None and job.has_ended else None
    held = claim.read_claim(folder.claim)
    if end is None or held is None:
        return None
    holder, age = held
    if (holder.pid, holder.job) != (attempt.start.get("pid"), attempt.job):
        return None
    signs = [time.time() - age]
    for path in (folder.progress, folder.attempts_folder / f"{attempt.number:04d}" / "log.txt"):
        if path.exists():
            signs.append(path.stat().st_mtime)
    return end - max(signs)


def to_seconds(moment: str) -> float | None:
    """Return a time in UTC, ISO 8601, as seconds; None if it is unknown."""
    try:
        return datetime.datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None


def record_failed_start(
    folder: RunFolder, key: str, evidence: Evidence, source: str, restarts: int = 0
) -> bool:
    """Record an attempt for a job that ended before its worker began one.

    Args:
        folder: folder of the run.
        key: id of the job.
        evidence: of the end, with the node of the job.
        source: of the evidence, for instance ``sacct``.
        restarts: how often the job was requeued.

    Returns:
        Whether it was recorded. False: another worker holds the run.

    Raises:
        ProtosegError: the folder cannot be written.
    """
    reason, message = diagnose_failure(evidence)
    files.make_folder(folder.path)
    held_claim = claim.acquire(folder.claim, job=key)
    if held_claim is None:
        return False
    try:
        start = {
            "time": now(),
            "host": evidence.node,
            "node": evidence.node,
            "pid": 0,
            "job": key,
            "restarts": restarts,
            "iteration": folder.checkpoint_iteration(),
        }
        path = folder.start_attempt(start)
        folder.record_verdict(int(path.name), reason, message, source)
        return True
    finally:
        held_claim.release()
