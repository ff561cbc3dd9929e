"""Submits the stages of matrices to SLURM, and jobs that submit the next stages of searches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from protoseg.cli.arguments import is_cluster_setting, split_overrides
from protoseg.cli.exit_status import FAILED
from protoseg.cli.stages import describe_waiting, have_trials_ended, is_unchosen, select_stage
from protoseg.cli.views.cost import count_runs
from protoseg.cli.views.plan import describe_counts
from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError
from protoseg.launch.current_plan import read_plan
from protoseg.launch.job_arrays import JobArray
from protoseg.launch.next_stage import (
    NextStage,
    find_stage_jobs,
    name_next_stage,
    submit_next_stage,
)
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.submission import find_cancelled_runs
from protoseg.launch.submit import SubmissionResult, submit_runs
from protoseg.planning.plan import Plan
from protoseg.runs.states import Reason
from protoseg.slurm.client import SlurmClient

if TYPE_CHECKING:
    from protoseg.cli.context import Context

FOLDERS = ("runs", "data", "weights", "results", "experiments", "clusters")
"""Options with the folders of a sweep, and attributes of its paths."""
KEPT_OPTIONS = ("allow_missing", "ignore_records", "accept_code")
"""Options of a sweep that the next one gets too. ``--retry-failed`` is not among them: failed
trials would be trained again and again."""
ADVICE = "Nothing is submitted. To continue, run the same sweep again."


def submit_stages(
    context: Context,
    matrices: Sequence[Matrix],
    waiting: Mapping[str, Mapping[str, str]],
    profile: ClusterProfile,
) -> int:
    """Submit the unfinished runs of the current stages, and return the exit status.

    Args:
        context: of the sweep.
        matrices: with final runs where settings are chosen.
        waiting: matrix -> row -> why its settings are not chosen.
        profile: the cluster profile.
    """
    stages = [select_stage(matrix) for matrix in matrices]
    profile = dataclasses.replace(profile, loggers=tuple(context.loggers))
    is_next_stage = getattr(context.arguments, "next_stage", None) is not None
    if is_next_stage and (reasons := [*_list_reasons_to_end(context, matrices)]):
        return context.print_errors(reasons)
    outcome, messages = _submit_runs(context, stages, profile)
    unchosen = [matrix for matrix in matrices if is_unchosen(matrix)]
    # Trials that failed are not submitted again, so no later sweep would choose.
    stuck = [matrix.name for matrix in unchosen if have_trials_ended(context, matrix)]
    continued = [matrix for matrix in unchosen if matrix.name not in stuck]
    # A job that has submitted nothing has no successor: no chain of jobs is endless.
    may_continue = bool(outcome.jobs) or not is_next_stage
    jobs = {m.name: _continue_search(context, m, profile, may_continue) for m in continued}
    if context.json:
        shown = {name: vars(job) for name, job in jobs.items()}
        context.print_json(vars(outcome) | ({"next_stage": shown} if unchosen else {}))
    else:
        for matrix in continued:
            context.console.print(_describe_next_stage(matrix, jobs[matrix.name]), markup=False)
    messages += describe_waiting({name: waiting[name] for name in stuck})
    status = context.print_errors(list(dict.fromkeys(messages)))
    return FAILED if outcome.refused or outcome.left_alone else status


def _submit_runs(
    context: Context, stages: Sequence[Matrix], profile: ClusterProfile
) -> tuple[SubmissionResult, list[str]]:
    """Submit the unfinished runs of matrices; also return messages about the others."""
    paths = context.paths
    plans: list[Plan] = []

    def make_plan() -> Plan:
        plan = read_plan(stages, paths.runs, context.record_folders, fresh=True)
        plans.append(plan)
        if not context.json:
            runs = count_runs(len(plan.entries))
            context.console.print(f"{runs}: ", describe_counts(plan), ".", sep="")
        return plan

    def on_array(job: str, array: JobArray) -> None:
        if not context.json:
            text = f"submitted  job {job}: {count_runs(len(array.entries))}, each {array.resources}"
            context.console.print(text, markup=False)

    outcome = submit_runs(
        make_plan,
        paths.runs,
        profile,
        {
            "data": str(paths.data),
            "weights": str(paths.weights),
            "project": str(paths.project or ""),
        },
        name=make_job_name(stages),
        retry_failed=context.arguments.retry_failed,
        on_array=on_array,
    )
    if not context.json:
        _print_outcome(context, stages, outcome)
    skipped = outcome.left_alone.items()
    messages = [] if context.json else [f"{run_id}: {reason}" for run_id, reason in skipped]
    if outcome.refused:
        messages.append(
            f"{count_runs(len(outcome.refused))} not submitted: {outcome.refusal} "
            "Run the sweep again later."
        )
    return outcome, messages + [problem for plan in plans for problem in plan.problems]


def _print_outcome(context: Context, stages: Sequence[Matrix], outcome: SubmissionResult) -> None:
    if outcome.under_way:
        under_way = count_runs(len(outcome.under_way))
        context.console.print(f"Already running or queued: {under_way}.")
    if outcome.jobs:
        names = " ".join(matrix.name for matrix in stages)
        context.console.print(f"Progress: protoseg status {names}")
    elif not outcome.refused and not outcome.left_alone:
        context.console.print("Nothing to submit.")


def make_job_name(matrices: Sequence[Matrix]) -> str:
    """The name of SLURM jobs: the matrices' names, or the first one and the number of others."""
    names = "-".join(matrix.name for matrix in matrices)
    return names if len(names) <= 80 else f"{matrices[0].name}-and-{len(matrices) - 1}-more"


@dataclasses.dataclass(frozen=True)
class NextStageJob:
    """The job that submits the next stage of a search, or why there is none."""

    job: str = ""
    log: str = ""
    """Path of its output."""
    problem: str = ""


def _continue_search(
    context: Context, matrix: Matrix, profile: ClusterProfile, may_continue: bool
) -> NextStageJob:
    """Submit a job that runs this sweep again when the trials of a matrix have ended.

    Without such a job the trials are still trained, so a problem is no error.

    Args:
        may_continue: False in such a job that has submitted nothing.
    """
    if not profile.next_stage:
        return NextStageJob(problem=f"the cluster {profile.name} has next_stage: false.")
    if not may_continue:
        return NextStageJob(problem="this sweep has submitted nothing.")
    runs = context.paths.runs
    plan = read_plan([select_stage(matrix)], runs, context.record_folders, fresh=True)
    jobs = find_stage_jobs(plan, runs)
    if not jobs:
        return NextStageJob(problem="no trial waits or runs in a job of this cluster.")
    stage = make_next_stage(context, matrix, _count_trained(plan))
    try:
        job = submit_next_stage(stage, profile, jobs, SlurmClient())
    except ProtosegError as error:
        return NextStageJob(problem=str(error))
    return NextStageJob(job, str(stage.locate_log(job)))


def make_next_stage(context: Context, matrix: Matrix, trained: int) -> NextStage:
    """Describe the sweep that submits the next stage of a matrix.

    Args:
        context: of the sweep or plan.
        matrix: one of its matrices, with a search.
        trained: iterations that its trials have trained.
    """
    overrides, _ = split_overrides(context.operands)
    settings = filter(is_cluster_setting, context.arguments.operands)
    operands = [context.matrix_operands[matrix.name], *overrides, *settings]
    kept = [name for name in KEPT_OPTIONS if getattr(context.arguments, name, False)]
    options = [f"--{name.replace('_', '-')}" for name in kept]
    for name in context.loggers:
        options += ["--logger", name]
    for name in FOLDERS:
        options += [f"--{name}", str(getattr(context.paths, name))]
    return NextStage(
        name=name_next_stage(matrix, context.paths.runs),
        runs_folder=context.paths.runs,
        arguments=("sweep", *operands, *options, "--next-stage", str(trained)),
        working_folder=Path.cwd(),
    )


def _describe_next_stage(matrix: Matrix, job: NextStageJob) -> str:
    """What is submitted later, and by which job or command."""
    assert matrix.tuning is not None
    runs = len(matrix.tuning.rows) * len(matrix.tuning.seeds)
    if job.problem:
        todo = (
            "Run the same sweep again when the trials are done; it chooses and submits them. "
            f"No job does this: {job.problem}"
        )
    else:
        todo = (
            f"Job {job.job} runs the same sweep again when the trials have ended, and submits what "
            f"follows. Its log: {job.log}"
        )
    number = "1 final run" if runs == 1 else f"{runs} final runs"
    return f"{matrix.name}: to be chosen: {number}. {todo}"


def _list_reasons_to_end(context: Context, matrices: Sequence[Matrix]) -> Iterator[str]:
    """Why the job of a next stage submits nothing.

    The trials must have trained further since it was submitted. As their iterations are limited,
    a chain of such jobs ends, whatever the reasons of the trials' ends are.
    """
    runs = context.paths.runs
    unstarted = find_cancelled_runs(runs)
    for matrix in matrices:
        plan = read_plan([select_stage(matrix)], runs, context.record_folders, fresh=True)
        left = {entry.run.run_id: entry.status.reason for entry in plan.left()}
        cancelled = [
            run_id
            for run_id, reason in left.items()
            if reason is Reason.CANCELLED or run_id in unstarted
        ]
        if cancelled:
            others = f" and {len(cancelled) - 1} others" if len(cancelled) > 1 else ""
            yield f"{matrix.name}: cancelled: {cancelled[0]}{others}. {ADVICE}"
        elif is_unchosen(matrix) and left and _count_trained(plan) <= context.arguments.next_stage:
            yield f"{matrix.name}: the jobs before this one trained no trial further. {ADVICE}"


def _count_trained(plan: Plan) -> int:
    """Iterations that the runs of a plan have trained and saved."""
    return sum(
        entry.run.spec.schedule.last_iteration - entry.iterations_left for entry in plan.entries
    )
