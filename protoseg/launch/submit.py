"""The sweep on a cluster: what a plan leaves to do is submitted, and the submitter may leave."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from protoseg.config.fields import plain
from protoseg.errors import UsageError
from protoseg.launch.job_arrays import Array, cut
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.sbatch import SubmissionRefused, submit
from protoseg.launch.submission import (
    Submission,
    open_submissions,
    submitting,
    write_intent,
)
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.planning.selection import select_runs
from protoseg.runs import retry
from protoseg.runs.folder import Launch, RunFolder
from protoseg.runs.states import Reason, State
from protoseg.slurm.client import SlurmClient, SlurmUnreachable
from protoseg.slurm.cluster_info import array_limit, cluster_name
from protoseg.slurm.command import installed

SETTLE_SECONDS = 15.0
"""An sbatch whose submitter was killed is given this long to arrive. One that comes later still
finds its intent withdrawn, and its tasks leave at once."""


@dataclass
class SubmissionResult:
    """What a sweep gave to the scheduler, and what it did not."""

    jobs: dict[str, list[str]] = field(default_factory=dict)
    """Array job id -> its runs."""
    under_way: dict[str, str] = field(default_factory=dict)
    """Runs that a worker has or the scheduler holds already, and where."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Runs that failed before, and why."""
    refused: list[str] = field(default_factory=list)
    """Runs that the scheduler did not take."""
    refusal: str = ""
    """Its words about them."""


def submit_runs(
    make_plan: Callable[[], Plan],
    runs_folder: Path,
    profile: ClusterProfile,
    places: dict[str, str],
    *,
    name: str,
    retry_failed: bool,
    on_array: Callable[[str, Array], None] = lambda job, array: None,
) -> SubmissionResult:
    """Submit the runs that a plan leaves to do.

    Args:
        replan: makes the plan; called when no other sweep can submit in between.
        runs_folder: shared by all nodes.
        profile: how to ask for resources.
        places: the folders ``data`` and ``weights`` of `Launch`.
        name: part of the jobs' names.
        retry_failed: also runs that failed for a reason that does not pass.
        on_array: told of each array that was accepted.

    Raises:
        UsageError: no sbatch here, or runs that can not be shared out over the processes.
        SchedulerSilent: an earlier submission is unsure and nobody can be asked about it.
    """
    if not installed("sbatch"):
        raise UsageError(
            "sbatch: not found on this machine. cluster=... works where SLURM's commands are, on a "
            "login node; without it the sweep runs here."
        )
    scheduler = SlurmClient()
    with submitting(runs_folder):
        reconcile(runs_folder, scheduler)
        plan = make_plan()
        chosen, left = select_runs(plan, retry_failed)
        outcome = SubmissionResult()
        for entry in plan.entries:
            run_id = entry.run.run_id
            if run_id in left:
                failed = entry.status.state is State.FAILED
                (outcome.left_alone if failed else outcome.under_way)[run_id] = left[run_id]
        if not chosen:
            return outcome
        waiting = _cut(chosen, runs_folder, profile)
        while waiting:
            array = waiting.pop(0)
            submission = _intent(runs_folder, array, profile, places, name, retry_failed)
            try:
                job = submit(array, profile, submission.folder, submission.name)
            except UsageError:
                submission.withdraw("sbatch was never called")
                raise
            except SubmissionRefused as refused:
                # The answer may have been lost on its way: a job of that name is ours.
                job = _await(scheduler, submission) if refused.unsure else ""
                if not job:
                    submission.withdraw(f"sbatch: {refused}")
                    if refused.limit and len(array.entries) > 1:
                        # There may be room for some of them.
                        half = (len(array.entries) + 1) // 2
                        parts = array.entries[:half], array.entries[half:]
                        waiting[:0] = [replace(array, entries=part) for part in parts]
                        continue
                    # What else asks for the same would hear the same.
                    outcome.refusal = str(refused)
                    same = [array, *(a for a in waiting if a.resources == array.resources)]
                    waiting = [a for a in waiting if a.resources != array.resources]
                    outcome.refused += [e.run.run_id for each in same for e in each.entries]
                    continue
            submission.note_job(job)
            if submission.withdrawn:
                outcome.refusal = "another sweep gave their submission up while sbatch was busy."
                outcome.refused += submission.run_ids
                continue
            outcome.jobs[job] = submission.run_ids
            on_array(job, array)
    return outcome


def _intent(
    runs_folder: Path,
    array: Array,
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
        threads=resources.threads_each,
        workers=resources.workers,
        checkpoint_seconds=profile.checkpoint_seconds,
        retries=retries,
    )
    return write_intent(
        runs_folder,
        name,
        [(entry.run.run_id, plain(entry.run.spec, identity=True)) for entry in array.entries],
        profile=profile.name,
        nodes=resources.nodes,
        processes=resources.processes_total,
        cpus=resources.cpus,
        requeue=profile.requeue,
        retry_failed=retry_failed,
        cluster=cluster_name(),
        launch=asdict(launch),
    )


def arrays_of(plan: Plan, runs_folder: Path, profile: ClusterProfile) -> list[Array]:
    """The arrays that a sweep would submit for a plan.

    Raises:
        UsageError: as `cut`.
    """
    chosen, _ = select_runs(plan, retry_failed=False)
    return _cut(chosen, runs_folder, profile)


def _cut(entries: Sequence[PlanEntry], runs_folder: Path, profile: ClusterProfile) -> list[Array]:
    """Arrays of runs; one that ever ran out of memory gets more, where the profile allows it."""
    factors = {
        entry.run.run_id: profile.memory_escalation
        for entry in entries
        if profile.memory_escalation and entry.status.attempts
        for attempt in RunFolder(runs_folder / entry.run.run_id).attempts()
        if attempt.reason is Reason.OUT_OF_MEMORY
    }
    return cut(entries, profile, array_limit(), factors)


def reconcile(runs_folder: Path, scheduler: SlurmClient) -> None:
    """Find out what became of intents without an answer; called by the one who may submit.

    Raises:
        SchedulerSilent: nobody could be asked.
    """
    for submission in open_submissions(runs_folder):
        if submission.job_id:
            continue
        if job := _await(scheduler, submission):
            submission.note_job(job)
        else:
            submission.withdraw("its submitter died before the scheduler had it")


def _await(scheduler: SlurmClient, submission: Submission) -> str:
    """The job of a submission once it shows up; empty if it does not within `SETTLE_SECONDS`."""
    # By both clocks: that of a machine which submitted may run ahead.
    until = time.monotonic() + SETTLE_SECONDS
    while not (job := _find(scheduler, submission)):
        if submission.age >= SETTLE_SECONDS or time.monotonic() > until:
            break
        time.sleep(1)
    return job


def _find(scheduler: SlurmClient, submission: Submission) -> str:
    """The job of a submission, asked of the scheduler; empty where it has none."""
    if submission.job_id:  # a task of it has begun
        return submission.job_id
    try:
        found = scheduler.named(submission.name)
    except SlurmUnreachable as error:
        raise SlurmUnreachable(
            f"{submission.folder}: whether it was submitted can not be told, the scheduler is "
            f"silent ({error}). Run the sweep again when it answers."
        ) from error
    return found[0] if found else ""
