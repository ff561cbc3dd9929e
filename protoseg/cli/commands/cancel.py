"""``protoseg cancel``: cancels the jobs of runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_operands
from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.launch.submission import CANCELLED_BY, get_user_name
from protoseg.runs import claim
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import State

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg cancel camvid_methods"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser, "MATRIX | RUN", "matrices (all their runs), run ids, or unique parts of run ids"
    )


def run(context: Context) -> int:
    """Cancel jobs. Running ones save a checkpoint and end."""
    from protoseg.launch.queue import Queue

    run_ids, loaded = _select_runs(context)
    # First, so that it does not submit more runs meanwhile.
    next_stages, problems = _cancel_next_stages(context, loaded)
    queue = Queue(context.paths.runs)
    folders = {run_id: RunFolder(context.paths.runs / run_id) for run_id in run_ids}
    before = {run_id: folder.status() for run_id, folder in folders.items()}
    statuses = queue.apply(before, fresh=True)
    waiting, running = {}, {}
    for run_id, status in statuses.items():
        tasks = queue.tasks.get(run_id, [])
        keys = {task.key for task in tasks if task.key and not queue.elsewhere(task)}
        cluster = next(filter(None, map(queue.elsewhere, tasks)), "")
        is_active = status.state in (State.QUEUED, State.RUNNING)
        if status.state is State.QUEUED and status.job in keys:
            waiting[run_id] = status.job
        elif cluster and is_active and status.job not in keys:
            problems.append(f"{run_id}: is a job of the cluster {cluster}. Cancel it there.")
        elif status.state is State.QUEUED:
            problems.append(f"{run_id}: {status.message}. Cancel it later.")
        elif status.state is State.RUNNING and status.job in keys:
            running[run_id] = status.job
        elif status.state is State.RUNNING:
            holder = claim.read_claim(folders[run_id].claim)
            if holder is None or holder[0].host != claim.host_identity():
                problems.append(
                    f"{run_id}: runs on {status.host} without a SLURM job. Stop it there."
                )
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(holder[0].pid, signal.SIGTERM)
                running[run_id] = ""
    queue.scheduler.cancel([*waiting.values(), *filter(None, running.values())])
    # SLURM does not record a task that is cancelled before it starts, so it is closed here. A task
    # with an unfinished attempt stays open: SLURM still reports why that attempt ended.
    unstarted = [
        job for run_id, job in waiting.items() if not _has_open_attempt(folders[run_id], job)
    ]
    for submission, indices in queue.submissions(unstarted):
        submission.close_tasks(dict.fromkeys(indices, f"{CANCELLED_BY} {get_user_name()}"))
    if context.json:
        context.print_json(
            {
                "waiting": list(waiting),
                "running": list(running),
                "next_stage": next_stages,
                "problems": problems,
            }
        )
    elif waiting or running:
        text = f"Cancelled: {len(waiting)} waiting, {len(running)} running"
        context.console.print(text + (" (they save a checkpoint and end)." if running else "."))
        context.console.print("The next sweep resumes them.")
    elif not next_stages:
        context.console.print("Nothing to cancel.")
    if next_stages and not context.json:
        jobs = ", ".join(next_stages)
        context.console.print(f"Cancelled: the job that submits the next stage ({jobs}).")
    return context.print_errors(problems)


def _cancel_next_stages(
    context: Context, matrices: Sequence[Matrix]
) -> tuple[list[str], list[str]]:
    """Cancel the jobs that submit the next stages of matrices; return their ids, and problems."""
    from protoseg.launch.next_stage import cancel_next_stage

    jobs, problems = [], []
    for matrix in matrices:
        try:
            jobs += cancel_next_stage(matrix, context.paths.runs)
        except ProtosegError as error:
            problems.append(f"{matrix.name}: the job that submits its next stage: {error}")
    return jobs, problems


def _has_open_attempt(folder: RunFolder, job: str) -> bool:
    """Whether the end of an attempt of a job is unknown."""
    return any(each.job == job and each.ending is None for each in folder.attempts())


def _select_runs(context: Context) -> tuple[list[str], list[Matrix]]:
    """The runs that the operands select: single ones, and all of the named matrices.

    The matrices are returned too.
    """
    from protoseg.cli.arguments import split_overrides
    from protoseg.cli.run_lookup import find_run, started_or_submitted_runs
    from protoseg.cli.stages import list_stages
    from protoseg.config.load_matrix import list_matrices

    overrides, names = split_overrides(context.arguments.operands)
    if not names and not overrides:
        raise UsageError("cancel: name matrices or runs; 'protoseg status' lists both.")
    known_matrices = list_matrices(context.experiments)
    matrices = [n for n in names if n in known_matrices or n.endswith((".yaml", ".yml"))]
    if overrides and not matrices:
        raise UsageError(
            f"cancel: '{overrides[0]}' changes a matrix, but no matrix is named. Name the matrix."
        )
    runs = [name for name in names if name not in matrices]
    selected: list[str] = []
    loaded: list[Matrix] = []
    if runs:
        known_runs = started_or_submitted_runs(context)
        selected = [find_run(name, known_runs, str(context.paths.runs)) for name in runs]
    if matrices:
        context.arguments.operands = [*matrices, *overrides]
        loaded, _ = context.matrices()
        selected += [planned.run_id for matrix in list_stages(loaded) for planned in matrix.runs]
    return list(dict.fromkeys(selected)), loaded
