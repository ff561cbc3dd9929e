"""Submission of a sweep: job arrays for the unfinished runs of a plan, one sbatch per array."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from protoseg.config.fields import to_plain
from protoseg.errors import UsageError
from protoseg.launch.diagnosis import to_seconds
from protoseg.launch.job_arrays import JobArray, cut_into_arrays
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.sbatch import submit_array
from protoseg.launch.sbatch_errors import SubmissionRefused
from protoseg.launch.submission import (
    Submission,
    lock_submissions,
    open_submissions,
    write_intent,
)
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.planning.selection import select_runs
from protoseg.runs import retry
from protoseg.runs.folder import Launch, RunFolder
from protoseg.runs.states import Reason, State
from protoseg.slurm.client import SlurmClient, SlurmUnreachable
from protoseg.slurm.cluster_info import read_array_limit, read_cluster_name
from protoseg.slurm.command import is_installed

SETTLE_SECONDS = 15.0
"""How long a sweep waits for an earlier sbatch without an answer. The tasks of a job that arrives
later find their intent withdrawn and exit at once."""


REQUEUE_SECONDS = 120.0
"""How long after the end of an attempt its batch script may requeue the job: SLURM kills the script
after KillWait (30 s by default), and a slow machine delays it."""


@dataclass
class SubmissionResult:
    """The runs of a sweep that were submitted, and those that were not."""

    jobs: dict[str, list[str]] = field(default_factory=dict)
    """Array job id -> its runs."""
    under_way: dict[str, str] = field(default_factory=dict)
    """Runs that are already running or queued -> where."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Runs that failed before -> why."""
    refused: list[str] = field(default_factory=list)
    """Runs that sbatch did not accept."""
    refusal: str = ""
    """sbatch's message about them."""


def submit_runs(
    make_plan: Callable[[], Plan],
    runs_folder: Path,
    profile: ClusterProfile,
    places: dict[str, str],
    *,
    name: str,
    retry_failed: bool,
    on_array: Callable[[str, JobArray], None] = lambda job, array: None,
) -> SubmissionResult:
    """Submit the unfinished runs of a plan.

    Args:
        make_plan: makes the plan; called while no other sweep can submit.
        runs_folder: parent of the run folders, shared by all nodes.
        profile: the cluster profile.
        places: the folders ``data`` and ``weights`` of `Launch`.
        name: part of the jobs' names.
        retry_failed: also submit failed runs that are not retried automatically.
        on_array: called with the job id and the array after each accepted array.

    Raises:
        UsageError: no sbatch, or the processes of a run cannot share its batch equally.
        SlurmUnreachable: an earlier submission is unconfirmed and SLURM does not answer.
    """
    if not is_installed("sbatch"):
        raise UsageError(
            "sbatch: not found on this machine. Run the command on a login node of the cluster, or "
            "without cluster=... to train on this machine."
        )
    client = SlurmClient()
    with lock_submissions(runs_folder):
        reconcile_submissions(runs_folder, client)
        plan = make_plan()
        selected, skipped = select_runs(plan, retry_failed)
        result = SubmissionResult()
        for entry in plan.entries:
            run_id = entry.run.run_id
            if run_id in skipped:
                has_failed = entry.status.state is State.FAILED
                (result.left_alone if has_failed else result.under_way)[run_id] = skipped[run_id]
        for run_id, job in find_requeued(selected, runs_folder, client).items():
            result.under_way[run_id] = f"job {job}: requeued"
        selected = [entry for entry in selected if entry.run.run_id not in result.under_way]
        if not selected:
            return result
        arrays = _make_arrays(selected, runs_folder, profile)
        while arrays:
            array = arrays.pop(0)
            submission = _write_intent(runs_folder, array, profile, places, name, retry_failed)
            try:
                job_id = submit_array(array, profile, submission.folder, submission.name)
            except UsageError:
                submission.withdraw("sbatch was never called")
                raise
            except SubmissionRefused as refused:
                # If only the answer was lost, SLURM has a job of this name.
                job_id = _wait_for_job(client, submission) if refused.is_unsure else ""
                if not job_id:
                    submission.withdraw(f"sbatch: {refused}")
                    if refused.is_limit and len(array.entries) > 1:
                        # SLURM may accept half of them.
                        half = (len(array.entries) + 1) // 2
                        halves = array.entries[:half], array.entries[half:]
                        arrays[:0] = [replace(array, entries=entries) for entries in halves]
                        continue
                    # SLURM would refuse all arrays with the same resources.
                    result.refusal = str(refused)
                    same = [array, *(a for a in arrays if a.resources == array.resources)]
                    arrays = [a for a in arrays if a.resources != array.resources]
                    result.refused += [run_id for refused_array in same
                                       for run_id in refused_array.run_ids]  # fmt: skip
                    continue
            submission.note_job(job_id)
            if submission.is_withdrawn:
                result.refusal = "another sweep withdrew their submission while sbatch was busy."
                result.refused += submission.run_ids
                continue
            result.jobs[job_id] = submission.run_ids
            on_array(job_id, array)
    return result


def find_requeued(
    entries: Sequence[PlanEntry], runs_folder: Path, client: SlurmClient
) -> dict[str, str]:
    """Find runs whose last job was requeued while the plan was made; run id -> job.

    SLURM shows a job as ended between the end of its worker and the requeue by its batch script.
    """
    attempts = {}
    for entry in entries:
        folder = RunFolder(runs_folder / entry.run.run_id)
        for last in folder.attempts()[-1:]:
            ended = to_seconds(str((last.ending or {}).get("time")))
            if last.job and ended and time.time() - ended < REQUEUE_SECONDS:
                attempts[folder.run_id] = last
    if not attempts:
        return {}
    jobs = client.query_jobs([last.job for last in attempts.values()], fresh=True).jobs
    return {
        run_id: last.job
        for run_id, last in attempts.items()
        if (job := jobs.get(last.job)) and not job.has_ended and job.restarts > last.restarts
    }


def _write_intent(
    runs_folder: Path,
    array: JobArray,
    profile: ClusterProfile,
    places: dict[str, str],
    name: str,
    retry_failed: bool,
) -> Submission:
    resources = array.resources
    retries = profile.retries
    if profile.memory_escalation:
        retries = retry.add_memory_retry(retries)
    launch = Launch(
        **places,
        threads=resources.threads_per_process,
        workers=resources.workers,
        checkpoint_seconds=profile.checkpoint_seconds,
        loggers=list(profile.loggers),
        retries=retries,
    )
    return write_intent(
        runs_folder,
        name,
        [(entry.run.run_id, to_plain(entry.run.spec, identity=True)) for entry in array.entries],
        profile=profile.name,
        nodes=resources.nodes,
        processes=resources.processes_total,
        cpus=resources.cpus,
        requeue=profile.requeue,
        retry_failed=retry_failed,
        cluster=read_cluster_name(),
        launch=asdict(launch),
    )


def make_arrays(plan: Plan, runs_folder: Path, profile: ClusterProfile) -> list[JobArray]:
    """Return the arrays that a sweep would submit for a plan.

    Raises:
        UsageError: as `cut_into_arrays`.
    """
    selected, _ = select_runs(plan, retry_failed=False)
    return _make_arrays(selected, runs_folder, profile)


def _make_arrays(
    entries: Sequence[PlanEntry], runs_folder: Path, profile: ClusterProfile
) -> list[JobArray]:
    """Cut runs into arrays; runs that ran out of memory get more if the profile allows it."""
    factors = {
        entry.run.run_id: profile.memory_escalation
        for entry in entries
        if profile.memory_escalation and entry.status.attempts
        for attempt in RunFolder(runs_folder / entry.run.run_id).attempts()
        if attempt.reason is Reason.OUT_OF_MEMORY
    }
    return cut_into_arrays(entries, profile, read_array_limit(), factors)


def reconcile_submissions(runs_folder: Path, client: SlurmClient) -> None:
    """Find the jobs of intents without an answer, and withdraw intents without a job.

    The caller holds the lock of `lock_submissions`.

    Raises:
        SlurmUnreachable: SLURM does not answer.
    """
    for submission in open_submissions(runs_folder):
        if submission.job_id:
            continue
        if job_id := _wait_for_job(client, submission):
            submission.note_job(job_id)
        else:
            submission.withdraw("its sweep died before SLURM had the job")


def _wait_for_job(client: SlurmClient, submission: Submission) -> str:
    """Return the job of a submission; empty if none appears within `SETTLE_SECONDS`."""
    # Both clocks count: that of the machine which submitted may be ahead.
    until = time.monotonic() + SETTLE_SECONDS
    while not (job_id := _find_job(client, submission)):
        if submission.age >= SETTLE_SECONDS or time.monotonic() > until:
            break
        time.sleep(1)
    return job_id


def _find_job(client: SlurmClient, submission: Submission) -> str:
    """Return the job of a submission; empty if SLURM has none."""
    if submission.job_id:  # one of its tasks has begun
        return submission.job_id
    try:
        job_ids = client.find_jobs_by_name(submission.name)
    except SlurmUnreachable as error:
        raise SlurmUnreachable(
            f"{submission.folder}: SLURM does not answer, so it is unknown whether this was "
            f"submitted ({error}). Run the sweep again when SLURM answers."
        ) from error
    return job_ids[0] if job_ids else ""
