"""The small job that submits the next stage of a search when its trials have ended.

A sweep on a cluster submits the trials of a search. Which runs follow depends on their results, so
the sweep also submits a job of one core that depends on all jobs of the trials and runs the same
sweep again.

RUNS/.submissions/next_stage/
    NAME.sh              the batch script; NAME has a digest of the search
    logs/NAME_JOB.txt    what its sweep printed

Two such jobs of one search are harmless: one sweep at a time submits, and the second one has
nothing to submit. If jobs are added to a stage, one more such job waits for all of them. The
earlier one is not cancelled, because it may be submitting runs at this moment.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.launch.batch_script import (
    BatchExecutor,
    check_log_folder,
    check_paths,
    format_options,
    locate_log,
    make_setup_lines,
)
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.profile.values import format_time
from protoseg.launch.queue import Queue
from protoseg.launch.sbatch_errors import SubmissionRefused
from protoseg.launch.submission import (
    SUBMISSIONS_FOLDER,
    get_user_name,
    job_name,
    lock_submissions,
)
from protoseg.planning.plan import Plan
from protoseg.runs.states import State
from protoseg.slurm.client import SlurmClient
from protoseg.slurm.jobs import array_id

FOLDER = "next_stage"
"""Without a hyphen: only submission folders have one."""
MEMORY = "1G"
"""Ten times what a sweep of a hundred trials uses."""
SECONDS = 1800
"""Time limit. A sweep takes seconds, but a busy controller may delay each sbatch by minutes."""
ACTIVE = (State.QUEUED, State.RUNNING)


@dataclass(frozen=True)
class NextStage:
    """A search, and the sweep that continues it."""

    name: str
    """Name of the job, see `name_next_stage`."""
    runs_folder: Path
    arguments: tuple[str, ...]
    """Arguments of ``protoseg``."""
    working_folder: Path
    """The sweep runs in it, so that relative paths keep their meaning."""

    @property
    def folder(self) -> Path:
        """Folder of the batch script and of its logs."""
        return locate_folder(self.runs_folder)

    @property
    def script(self) -> Path:
        """Path of the batch script."""
        return self.folder / f"{self.name}.sh"

    def locate_log(self, job: str) -> Path:
        """Return the output file of a job."""
        return self.folder / "logs" / f"{self.name}_{job}.txt"


def locate_folder(runs_folder: Path) -> Path:
    """Return the folder of the batch scripts of a runs folder."""
    return (runs_folder / SUBMISSIONS_FOLDER / FOLDER).absolute()


def name_next_stage(matrix: Matrix, runs_folder: Path) -> str:
    """Return the name of the job of a search: one per user, runs folder, matrix and overrides."""
    search = [get_user_name(), str(runs_folder), matrix.name, sorted(matrix.overrides)]
    digest = hashlib.sha256(json.dumps(search).encode()).hexdigest()
    return job_name(f"{matrix.name[:34]}-next", digest[:12])


def find_stage_jobs(plan: Plan, runs_folder: Path) -> list[str]:
    """Return the jobs of this cluster in which runs of a plan wait or run, as ids of arrays.

    Args:
        plan: with the states that SLURM reported now.
        runs_folder: parent of the run folders.
    """
    queue = Queue(runs_folder)
    jobs = set()
    for entry in plan.entries:
        if entry.status.state not in ACTIVE:
            continue
        for task in queue.tasks.get(entry.run.run_id, []):
            if task.key and task.key == entry.status.job and not queue.elsewhere(task):
                jobs.add(array_id(task.key))
    return sorted(jobs, key=int)


def submit_next_stage(
    stage: NextStage, profile: ClusterProfile, jobs: Collection[str], client: SlurmClient
) -> str:
    """Return the job that continues a search after some jobs; submit it if there is none.

    Args:
        stage: the search.
        profile: the cluster profile.
        jobs: ids of the jobs of its trials, at least one.
        client: client for SLURM.

    Raises:
        SubmissionRefused: sbatch accepted no job, or its answer was lost.
        SlurmUnreachable: SLURM does not answer.
        UsageError: no sbatch, or a path that a batch script cannot contain.
        ProtosegError: the folder cannot be written.
    """
    with lock_submissions(stage.runs_folder):
        if job := _find_job(stage, jobs, client):
            return job
        try:
            return _make_executor(stage, profile, jobs).submit_script(stage.script)
        except SubmissionRefused as refused:
            # If only the answer was lost, SLURM has the job.
            if refused.is_unsure and (job := _find_job(stage, jobs, client)):
                return job
            raise


def make_script(stage: NextStage, profile: ClusterProfile, jobs: Collection[str]) -> str:
    """Return the batch script of the job that continues a search.

    Args:
        stage, profile, jobs: as for `submit_next_stage`.

    Raises:
        UsageError: a path that a batch script cannot contain.
    """
    return _make_executor(stage, profile, jobs).make_script()


def cancel_next_stage(matrix: Matrix, runs_folder: Path) -> list[str]:
    """Cancel the jobs that continue a search, and return their ids.

    Raises:
        ProtosegError: SLURM refused or did not answer.
    """
    name = name_next_stage(matrix, runs_folder)
    if not (locate_folder(runs_folder) / f"{name}.sh").exists():
        return []
    client = SlurmClient()
    jobs = [job.id for job in client.list_dependent_jobs(name)]
    client.cancel(jobs)
    return jobs


def describe_next_stage(profile: ClusterProfile) -> str:
    """Describe in one sentence how the runs after the trials are submitted."""
    if not profile.next_stage:
        return (
            f"The cluster {profile.name} has next_stage: false: after the trials, run the same "
            "sweep again."
        )
    options = "".join(f", {key} {value}" for key, value in profile.next_stage_sbatch.items())
    resources = f"1 core, {MEMORY}; {_format_time_limit(profile)}{options}"
    return f"A small job ({resources}) submits the next stage when the trials have ended."


def _find_job(stage: NextStage, jobs: Collection[str], client: SlurmClient) -> str:
    """Return a waiting job that depends on all ``jobs``; empty if there is none."""
    if not stage.script.exists():
        return ""
    for job in client.list_dependent_jobs(stage.name):
        if job.is_waiting and job.waits_for >= set(jobs):
            return job.id
    return ""


def _format_time_limit(profile: ClusterProfile) -> str:
    # A partition for short jobs may not accept more than the limit of a run.
    return format_time(min(SECONDS, profile.seconds))


def _make_executor(
    stage: NextStage, profile: ClusterProfile, jobs: Collection[str]
) -> BatchExecutor:
    texts = {f"argument {text!r}": text for text in stage.arguments}
    check_paths({"working folder": str(stage.working_folder), "python": sys.executable, **texts})
    check_paths({"run folders": str(stage.folder)})
    check_log_folder(stage.folder)
    # -P: protoseg is imported from the environment, as in the other jobs, not from the folder.
    executor = BatchExecutor(stage.folder, ["-P", "-m", "protoseg.cli", *stage.arguments])
    enter = f"cd {shlex.quote(str(stage.working_folder))} || exit 1"
    setup = [*make_setup_lines(profile), enter]
    executor.set_options(stage.name, setup, _make_options(stage, profile, jobs))
    return executor


def _make_options(
    stage: NextStage, profile: ClusterProfile, jobs: Collection[str]
) -> dict[str, Any]:
    keys = ("partition", "account", "qos", "reservation")
    from_profile = {key: value for key in keys if (value := getattr(profile, key))}
    return {
        **locate_log(stage.folder, "%x_%j.txt"),
        "dependency": ":".join(["afterany", *jobs]),
        "ntasks": 1,
        "cpus-per-task": 1,
        "mem": MEMORY,
        "time": _format_time_limit(profile),
        "requeue" if profile.requeue else "no-requeue": True,
        **from_profile,
        **format_options(profile.next_stage_sbatch),
    }
