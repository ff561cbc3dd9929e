"""``protoseg plan``: shows the runs of matrices, their states and the remaining cost."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import (
    add_jobs_option,
    add_matrix_operands,
    add_record_options,
    iterations,
)
from protoseg.cli.exit_status import FAILED, OK
from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.launch.current_plan import read_plan
from protoseg.planning.cost import CostEstimate, estimate_cost, workloads_to_time
from protoseg.planning.plan import Plan, make_plan, with_timings
from protoseg.planning.plugin_code import find_changed_plugins
from protoseg.planning.timings import (
    Device,
    Failure,
    Timing,
    choose_timings,
    find_device,
    measure_workload,
    read_timings,
)
from protoseg.planning.workload import Workload, describe_workload, make_model_key
from protoseg.runs.folder import Status
from protoseg.runs.states import State
from protoseg.runs.store import all_records

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.launch.job_arrays import JobArray
    from protoseg.report.seed_power import SeedPower

EXAMPLE = "protoseg plan quickstart"
SHOWN = 5
"""Shared trials that are named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_matrix_operands(parser)
    add_record_options(parser)
    add_jobs_option(parser)
    parser.add_argument(
        "--sbatch", action="store_true", help="with cluster=NAME: print the batch scripts instead"
    )
    parser.add_argument(
        "--time",
        type=iterations,
        nargs="?",
        const=10,
        metavar="N",
        help="measure N iterations (default: 10) of each workload of unknown speed on this machine",
    )


def run(context: Context) -> int:
    """Show the plan."""
    from protoseg.cli.stages import is_unchosen, select_stage
    from protoseg.cli.views.cost import cost_to_dict
    from protoseg.cli.views.plan import (
        array_to_dict,
        describe_arrays,
        list_short_branches,
        plan_to_dict,
        render_plan,
    )
    from protoseg.cli.views.stages import later_stage_to_dict
    from protoseg.launch.local import choose_job_count, count_cores, list_local_gpus

    named, _ = context.matrices()
    matrices = [select_stage(matrix) for matrix in named]
    plan = read_plan(matrices, context.paths.runs, context.record_folders)
    arrays = _make_job_arrays(context, plan)
    jobs = context.arguments.jobs or choose_job_count(count_cores(), list_local_gpus())
    device: Device | None = None
    failures: list[Failure] = []
    if context.arguments.time:
        device, failures = _time_workloads(context, plan, max(1, count_cores() // jobs))
    timings = read_timings(context.paths.runs)
    usable = choose_timings(timings, device)
    plan = with_timings(plan, usable)
    changed = find_changed_plugins(plan, context.paths.runs)
    gpu_timings = choose_timings((timing for timing in timings if timing.gpu), device)
    sizes = _read_published_sizes(context, matrices)
    records = list(all_records(context.record_folders))
    cost = estimate_cost(plan, records, sizes, gpu_timings)
    powers = _estimate_powers(context, [m for m in named if not is_unchosen(m)], records)
    known = [*records, *(e.status.record for e in plan.entries if e.status.record)]
    later = _plan_later_stages(named, known, sizes, usable, gpu_timings)
    if context.arguments.sbatch:
        print(_make_batch_scripts(context, matrices, arrays), end="")
        print(_make_next_stage_scripts(context, [matrix for matrix, *_ in later]), end="")
    elif context.json:
        data: dict[str, Any] = {"arrays": [array_to_dict(array) for array in arrays]}
        data["changed_plugins"] = [dataclasses.asdict(plugin) for plugin in changed]
        data["recipe_notes"] = list(context.composer.recipes.notes.values())
        data["not_timed"] = {failure.what: failure.message for failure in failures}
        if later:
            data["to_be_chosen"] = [later_stage_to_dict(*stage) for stage in later]
        branches = {matrix.name: list_short_branches(matrix) for matrix in matrices}
        if any(branches.values()):
            data["short_branches"] = {name: lines for name, lines in branches.items() if lines}
        data["power"] = {name: power.to_dict() for name, power in powers.items()}
        context.print_json(plan_to_dict(plan) | cost_to_dict(cost) | data)
    elif context.cluster is not None:
        where = describe_arrays(arrays, context.cluster.name)
        context.console.print(render_plan(plan, matrices, where, cost, powers))
    else:
        where = f"on this machine, {f'{jobs} at the same time' if jobs > 1 else 'one at a time'}"
        context.console.print(render_plan(plan, matrices, where, cost, powers))
    if not context.json and not context.arguments.sbatch:
        _print_stages(context, named, later)
        for plugin in changed:
            context.console.print(f"Changed code: {plugin.describe()}", markup=False)
    context.print_config_notes()
    # "Does not fit into memory" is a result of the timing, not a failure.
    has_failed = any(not failure.memory for failure in failures)
    return context.print_errors(plan.problems) or (FAILED if has_failed else OK)


def _print_stages(
    context: Context, matrices: list[Matrix], later: list[tuple[Matrix, Plan, CostEstimate]]
) -> None:
    """Print the final runs to be chosen, chosen settings, and runs that several rows share."""
    from protoseg.cli.stages import list_shared_finals
    from protoseg.cli.views.stages import render_choice, render_later_stage

    for stage in later:
        context.console.print(render_later_stage(*stage))
    if later and context.cluster is not None:
        from protoseg.launch.next_stage import describe_next_stage

        context.console.print(describe_next_stage(context.cluster), markup=False)
    for matrix in matrices:
        if matrix.tuning is not None:
            context.console.print(render_choice(matrix))
            shared = [*matrix.tuning.list_shared_trials(), *list_shared_finals(matrix)]
            for sentence in shared[:SHOWN]:
                context.console.print(sentence, markup=False)


def _plan_later_stages(
    matrices: list[Matrix],
    records: list[dict[str, Any]],
    sizes: dict[Workload, float],
    timings: Mapping[str, Timing],
    gpu_timings: Mapping[str, Timing],
) -> list[tuple[Matrix, Plan, CostEstimate]]:
    """The final runs of each matrix whose settings are not chosen yet, and their cost.

    Args:
        records: of any runs, the trials included.
    """
    from protoseg.cli.stages import is_unchosen, make_example

    stages = []
    for matrix in filter(is_unchosen, matrices):
        example = make_example(matrix)
        statuses = {run.run_id: Status(State.NEW) for run in example.runs}
        plan = with_timings(make_plan([example], statuses, lambda: records), timings)
        stages.append((matrix, plan, estimate_cost(plan, records, sizes, gpu_timings)))
    return stages


def _estimate_powers(
    context: Context, matrices: list[Matrix], records: list[dict[str, Any]]
) -> dict[str, SeedPower]:
    """Matrix -> which differences its seeds can detect, as far as it is known."""
    from protoseg.report.level_metrics import with_levels
    from protoseg.report.seed_power import estimate_power
    from protoseg.runs.store import RecordStore

    powers = {}
    for matrix in matrices:
        store = with_levels(matrix, RecordStore(context.record_folders, None))

        def complete(
            record: Mapping[str, Any], matrix: Matrix = matrix, store: RecordStore = store
        ) -> Mapping[str, Any]:
            return (store.find(record["run_id"]).record if matrix.trees else None) or record

        # A plan does not need it; `protoseg tables` reports errors in a table.
        with contextlib.suppress(ProtosegError):
            power = estimate_power(matrix, records, complete)
            if power is not None:
                powers[matrix.name] = power
    return powers


def _make_job_arrays(context: Context, plan: Plan) -> list[JobArray]:
    """The job arrays that a sweep would submit; none without a cluster."""
    if context.cluster is None:
        if context.arguments.sbatch:
            raise UsageError("plan --sbatch: no cluster is named. Add cluster=NAME.")
        return []
    from protoseg.launch.submit import make_arrays

    return make_arrays(plan, context.paths.runs, context.cluster)


def _make_batch_scripts(context: Context, matrices: list[Matrix], arrays: list[JobArray]) -> str:
    from protoseg.cli.cluster_sweep import make_job_name
    from protoseg.launch.sbatch import preview_scripts

    assert context.cluster is not None
    return preview_scripts(arrays, context.cluster, context.paths.runs, make_job_name(matrices))


def _make_next_stage_scripts(context: Context, unchosen: list[Matrix]) -> str:
    """The batch scripts of the small jobs that submit the next stages of searches."""
    from protoseg.cli.cluster_sweep import make_next_stage
    from protoseg.launch.next_stage import make_script

    assert context.cluster is not None
    if not context.cluster.next_stage:
        return ""
    return "".join(
        f"\n# ---- the next stage of {matrix.name}, after the arrays above\n"
        + make_script(make_next_stage(context, matrix, 0), context.cluster, ["ARRAY"])
        for matrix in unchosen
    )


def _read_published_sizes(context: Context, matrices: list[Matrix]) -> dict[Workload, float]:
    """Model -> number of parameters that a published table states."""
    from protoseg.cli.published_counts import published_sizes
    from protoseg.report.tables.published import load_published

    folders = context.paths.published
    specs = [run.spec for matrix in matrices for run in matrix.runs]
    sizes: dict[Workload, float] = {}
    # A plan does not need them; `protoseg tables` reports errors in these files.
    with contextlib.suppress(ProtosegError):
        backbones = {spec.backbone.name for spec in specs}
        sizes = published_sizes(folders, context.composer, backbones)
    for matrix in matrices:
        with contextlib.suppress(ProtosegError):
            numbers = load_published(matrix, folders)
            if numbers is None:
                continue
            for planned in matrix.runs:
                millions = numbers.parameters(planned.axes)
                if millions is not None:
                    sizes[make_model_key(planned.spec)] = millions * 1e6
    return sizes


def _time_workloads(context: Context, plan: Plan, threads: int) -> tuple[Device, list[Failure]]:
    """Time the workloads of unknown speed; return the device and the workloads that failed.

    Each timing is stored when it is complete, so a call after Ctrl-C continues with the next one.
    """
    runs, number_of_iterations = context.paths.runs, context.arguments.time
    device = find_device(threads)
    records = [*all_records(context.record_folders)]
    records += [entry.status.record for entry in plan.entries if entry.status.record]
    specs = workloads_to_time(plan, records, read_timings(runs), device)
    if specs:
        noun = "workload" if len(specs) == 1 else "workloads"
        context.errors.print(
            f"Timing {len(specs)} {noun} on {device.name}, {number_of_iterations} iterations each.",
            markup=False,
        )
    else:
        context.errors.print("Nothing to time: records or timings cover every workload.")
    failures = []
    for number, spec in enumerate(specs, 1):
        description = describe_workload(spec)
        with context.progress_bar(description) as bar:
            timing = measure_workload(
                spec,
                runs,
                device,
                iterations=number_of_iterations,
                threads=threads,
                on_iteration=functools.partial(bar.update, total=number_of_iterations),
            )
        if isinstance(timing, Failure):
            failures.append(timing)
            result = f"not timed: {timing.message}"
        else:
            result = f"{timing.seconds:.3g} s per iteration ({timing.iterations} timed)"
        context.errors.print(f"{number}/{len(specs)}  {description}: {result}", markup=False)
    return device, failures
