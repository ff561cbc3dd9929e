"""``plan``, ``sweep``, ``train`` and ``status``: what is to be run, and how it stands."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from protoseg.cli.context import FAILED, OK, Context
from protoseg.cli.views.plan import (
    array_data,
    arrays_text,
    counts_text,
    plan_data,
    plan_view,
    price_data,
)
from protoseg.cli.views.status import status_view
from protoseg.config.identity import run_id
from protoseg.config.matrix import Matrix, PlannedRun, TableSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.launch.current_plan import read_plan
from protoseg.launch.job_arrays import Array
from protoseg.planning.cost import estimate_cost
from protoseg.planning.plan import Plan, with_timings
from protoseg.planning.timings import Device, Failure, chosen, read
from protoseg.planning.workload import Workload, make_model_key
from protoseg.runs.folder import Launch
from protoseg.runs.states import State
from protoseg.runs.store import all_records

WATCH_SECONDS = 2.0


def plan(context: Context) -> int:
    """Show the runs of matrices, their states, and the price of what is left."""
    from protoseg.launch.local import cores, default_jobs, local_gpus

    matrices, _ = context.matrices()
    found = read_plan(matrices, context.places.runs, context.record_folders)
    arrays = _arrays(context, found)
    jobs = context.arguments.jobs or default_jobs(cores(), local_gpus())
    device: Device | None = None
    failures: list[Failure] = []
    if context.arguments.time:
        from protoseg.cli.commands.timing import time_workloads

        device, failures = time_workloads(context, found, max(1, cores() // jobs))
    timings = read(context.places.runs)
    found = with_timings(found, chosen(timings, device))
    on_gpus = chosen((timing for timing in timings if timing.gpu), device)
    sizes = _published_sizes(context, matrices)
    cost = estimate_cost(found, all_records(context.record_folders), sizes, on_gpus)
    if context.arguments.sbatch:
        print(_scripts(context, matrices, arrays), end="")
    elif context.json:
        data: dict[str, Any] = {"arrays": [array_data(array) for array in arrays]}
        data["not_timed"] = {failure.what: failure.message for failure in failures}
        context.print_json(plan_data(found) | price_data(cost) | data)
    elif context.cluster is not None:
        there = arrays_text(arrays, context.cluster.name)
        context.console.print(plan_view(found, matrices, there, cost))
    else:
        here = f"on this machine {jobs} at once"
        context.console.print(plan_view(found, matrices, here, cost))
    # That something does not fit into memory is what was asked for.
    failed = any(not failure.memory for failure in failures)
    return context.print_errors(found.problems) or (FAILED if failed else OK)


def _published_sizes(context: Context, matrices: list[Matrix]) -> dict[Workload, float]:
    """Model -> its parameters as the literature prints them, in any table that counts it."""
    from protoseg.cli.published_counts import published_sizes
    from protoseg.report.tables.published import load

    folder = context.places.results / "published"
    specs = [run.spec for matrix in matrices for run in matrix.runs]
    sizes: dict[Workload, float] = {}
    # A plan does without them; what is wrong with such a file is said when a table is made.
    with contextlib.suppress(ProtosegError):
        sizes = published_sizes(folder, context.composer, {s.backbone.name for s in specs})
    for matrix in matrices:
        with contextlib.suppress(ProtosegError):
            numbers = load(matrix, folder)
            for run in matrix.runs if numbers is not None else ():
                size = numbers.parameters(run.axes) if numbers is not None else None
                sizes |= {make_model_key(run.spec): size * 1e6} if size is not None else {}
    return sizes


def _arrays(context: Context, found: Plan) -> list[Array]:
    """The job arrays that a sweep would submit; none without a cluster."""
    if context.cluster is None:
        if context.arguments.sbatch:
            raise UsageError("plan --sbatch: needs a cluster; add cluster=NAME.")
        return []
    from protoseg.launch.submit import arrays_of

    return arrays_of(found, context.places.runs, context.cluster)


def _scripts(context: Context, matrices: list[Matrix], arrays: list[Array]) -> str:
    from protoseg.cli.commands.submit import job_name
    from protoseg.launch.sbatch import preview

    assert context.cluster is not None
    name = job_name(matrices)
    return preview(arrays, context.cluster, context.places.runs, name)


def status(context: Context) -> int:
    """Show how far each run is; with ``--watch``, again and again."""
    matrices, _ = context.matrices()
    found = read_plan(matrices, context.places.runs, context.record_folders)
    if context.json:
        context.print_json(plan_data(found))
    elif context.arguments.watch:
        found = _watch(context, matrices, found)
    else:
        context.console.print(status_view(found))
    failed = found.counts()[State.FAILED] > 0
    return context.print_errors(found.problems) or (FAILED if failed else OK)


def _watch(context: Context, matrices: list[Matrix], found: Plan) -> Plan:
    from rich.live import Live

    lines = context.console.height
    view = status_view(found, lines)
    with Live(view, console=context.console, auto_refresh=False) as display:
        try:
            while not all(e.status.state in (State.DONE, State.FAILED) for e in found.entries):
                time.sleep(WATCH_SECONDS)
                found = read_plan(matrices, context.places.runs, context.record_folders)
                display.update(status_view(found, context.console.height), refresh=True)
        except KeyboardInterrupt:
            pass
    return found


def sweep(context: Context) -> int:
    """Train what matrices still need, on this machine or on a cluster."""
    matrices, _ = context.matrices()
    if context.cluster is not None:
        from protoseg.cli.commands.submit import submit

        return submit(context, matrices, context.cluster)
    found = read_plan(matrices, context.places.runs, context.record_folders)
    return _train(context, found)


def train(context: Context) -> int:
    """Train a single run, given by overrides alone."""
    spec = context.one_run()
    run = PlannedRun(spec, {"label": run_id(spec)})
    matrix = Matrix("train", "one run", (run,), TableSpec(), ("label",))
    if context.cluster is not None:
        from protoseg.cli.commands.submit import submit

        return submit(context, [matrix], context.cluster)
    found = read_plan([matrix], context.places.runs, context.record_folders)
    return _train(context, found)


def _train(context: Context, found: Plan) -> int:
    from protoseg.cli.local_sweep import sweep as run_sweep
    from protoseg.launch.local import cores, default_jobs, local_gpus
    from protoseg.planning.selection import select_runs

    arguments = context.arguments
    available, gpus = cores(), local_gpus()
    jobs = arguments.jobs or default_jobs(available, gpus)
    chosen, _ = select_runs(found, arguments.retry_failed)
    # A run that finds no free GPU would train on the CPU: another device within one table.
    jobs = max(1, min(jobs, len(chosen), len(gpus) or jobs))
    launch = Launch(
        data=str(context.places.data),
        weights=str(context.places.weights),
        threads=arguments.threads or max(1, available // jobs),
        workers=arguments.workers,
        checkpoint_seconds=arguments.checkpoint_seconds,
    )
    quiet = context.json
    console = context.errors if quiet else context.console
    if not quiet:
        console.print(f"{len(found.entries)} runs: ", counts_text(found), sep="", end=".\n")
    outcome = run_sweep(
        found,
        context.places.runs,
        launch,
        jobs=jobs,
        retry_failed=arguments.retry_failed,
        console=console,
        live=sys.stdout.isatty() and not quiet,
    )
    if quiet:
        context.print_json(vars(outcome))
    elif outcome.interrupted:
        console.print(
            f"{len(outcome.interrupted)} runs are not finished: run the same command again, it "
            "continues from the last checkpoints."
        )
    elif outcome.complete() and not outcome.trained:
        console.print("Nothing to do: every run has its record.")
    left = [f"{name}: {reason}" for name, reason in outcome.left_alone.items()]
    problems = [*(left if not quiet else []), *found.problems]
    context.print_errors(list(dict.fromkeys(problems)))
    return OK if outcome.complete() else FAILED
