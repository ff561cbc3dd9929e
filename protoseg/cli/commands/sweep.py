"""``protoseg sweep``: trains the unfinished runs of matrices, on this machine or on SLURM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from protoseg.cli.arguments import (
    add_jobs_option,
    add_operands,
    add_record_options,
    add_training_options,
    count,
)
from protoseg.cli.exit_status import FAILED, OK
from protoseg.config.matrix import Matrix
from protoseg.config.plugins import list_packages
from protoseg.errors import UsageError
from protoseg.launch.current_plan import read_plan
from protoseg.planning.plugin_code import find_changed_plugins
from protoseg.runs.folder import Launch

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.cli.local_sweep import Outcome

EXAMPLE = "protoseg sweep quickstart --jobs 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "MATRIX | OVERRIDE | cluster=NAME",
        "matrices, and changes of their values; cluster=NAME submits to SLURM with the profile "
        "CLUSTERS/NAME.yaml",
    )
    add_record_options(parser)
    add_jobs_option(parser)
    add_training_options(parser)
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="choose settings among the finished trials if others failed; the table has a note",
    )
    parser.add_argument(
        "--next-stage",
        type=count,
        metavar="N",
        help="used by the job that submits the next stage of a search: submit nothing if a run was "
        "cancelled, or if the trials have not trained more than N iterations",
    )


def run(context: Context) -> int:
    """Train the unfinished runs of the matrices."""
    if context.arguments.next_stage is not None and context.cluster is None:
        raise UsageError("sweep --next-stage: no cluster is named. Add cluster=NAME.")
    matrices, _ = context.matrices()
    return train_matrices(context, matrices)


def train_matrices(context: Context, matrices: Sequence[Matrix]) -> int:
    """Train the unfinished runs of matrices on the named cluster, or on this machine.

    A matrix with a search has stages: its trials, in several steps with a successive halving, then
    its final runs with the chosen settings. On a cluster, each call submits the stage that is next,
    and a small job that submits the one after it.
    """
    from protoseg.cli.stages import choose_finished, refuse_other_choices, select_stage

    loggers = context.loggers  # an unknown name is refused before any work
    context.print_config_notes()
    refuse_other_choices(context, matrices)
    arguments = context.arguments
    allow_missing = bool(getattr(arguments, "allow_missing", False))
    chosen, waiting = choose_finished(
        context, matrices, allow_missing and not arguments.retry_failed
    )
    stages = [select_stage(matrix) for matrix in chosen]
    if context.cluster is not None:
        from protoseg.cli.cluster_sweep import submit_stages

        _check_plugins(context, stages)
        return submit_stages(context, chosen, waiting, context.cluster)
    outcome, problems = _train_here(context, stages, loggers)
    started = {run.run_id for stage in stages for run in stage.runs}
    while waiting and not outcome.interrupted:
        chosen, waiting = choose_finished(context, chosen, allow_missing)
        stages = [select_stage(matrix) for matrix in chosen]
        later = [s for s in stages if any(run.run_id not in started for run in s.runs)]
        if not later:
            break
        started |= {run.run_id for stage in later for run in stage.runs}
        more, messages = _train_here(context, later, loggers)
        outcome, problems = outcome.add(more), [*problems, *messages]
    return _report_outcome(context, chosen, outcome, problems, waiting)


def _check_plugins(context: Context, matrices: Sequence[Matrix]) -> None:
    """Refuse to mix runs that were trained with other code of a plug-in.

    Raises:
        UsageError: the code of a package changed.
    """
    specs = [run.spec for matrix in matrices for run in matrix.runs]
    if context.arguments.accept_code or not any(map(list_packages, specs)):
        return
    plan = read_plan(matrices, context.paths.runs, context.record_folders)
    changed = find_changed_plugins(plan, context.paths.runs)
    if changed:
        raise UsageError(" ".join(plugin.describe() for plugin in changed))


def _train_here(
    context: Context, matrices: Sequence[Matrix], loggers: list[str]
) -> tuple[Outcome, list[str]]:
    """Train the unfinished runs of matrices on this machine; also return problems of records."""
    from protoseg.cli.local_sweep import run_sweep
    from protoseg.cli.views.cost import count_runs
    from protoseg.cli.views.plan import describe_counts
    from protoseg.launch.local import choose_job_count, count_cores, list_local_gpus
    from protoseg.planning.selection import select_runs

    _check_plugins(context, matrices)
    plan = read_plan(matrices, context.paths.runs, context.record_folders)
    arguments = context.arguments
    available, gpus = count_cores(), list_local_gpus()
    jobs = arguments.jobs or choose_job_count(available, gpus)
    selected, _ = select_runs(plan, arguments.retry_failed)
    # More jobs than GPUs would train some runs on the CPU: one table would mix two devices.
    jobs = max(1, min(jobs, len(selected), len(gpus) or jobs))
    launch = Launch(
        data=str(context.paths.data),
        weights=str(context.paths.weights),
        threads=arguments.threads or max(1, available // jobs),
        workers=arguments.workers,
        checkpoint_seconds=arguments.checkpoint_seconds,
        loggers=loggers,
        project=str(context.paths.project or ""),
    )
    console = context.errors if context.json else context.console
    if not context.json:
        console.print(
            f"{count_runs(len(plan.entries))}: ", describe_counts(plan), sep="", end=".\n"
        )
    outcome = run_sweep(
        plan,
        context.paths.runs,
        launch,
        jobs=jobs,
        retry_failed=arguments.retry_failed,
        console=console,
        live=sys.stdout.isatty() and not context.json,
    )
    return outcome, plan.problems


def _report_outcome(
    context: Context,
    matrices: Sequence[Matrix],
    outcome: Outcome,
    problems: Sequence[str],
    waiting: Mapping[str, Mapping[str, str]],
) -> int:
    """Print the outcome of a sweep on this machine, and return the exit status.

    Args:
        waiting: matrix -> row -> why its settings are not chosen.
    """
    from protoseg.cli.stages import describe_waiting, stages_to_dict
    from protoseg.cli.views.cost import count_runs

    messages: list[str] = []
    if context.json:
        context.print_json(vars(outcome) | stages_to_dict(matrices, waiting))
    else:
        if outcome.interrupted:
            context.console.print(
                f"Not finished: {count_runs(len(outcome.interrupted))}; run the same command again "
                "to resume from the last checkpoints."
            )
        elif not waiting and outcome.is_complete() and not outcome.has_news():
            context.console.print("Nothing to do: every run has its record.")
        messages += [f"{name}: {reason}" for name, reason in outcome.left_alone.items()]
        if not outcome.interrupted:
            messages += describe_waiting(waiting)
    context.print_errors(list(dict.fromkeys([*messages, *problems])))
    return OK if outcome.is_complete() and not waiting else FAILED
