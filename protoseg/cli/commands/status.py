"""``protoseg status``: shows the progress of each run, and why it failed or was interrupted."""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_operands, add_record_options, seconds
from protoseg.cli.exit_status import FAILED, OK
from protoseg.cli.interrupts import INTERRUPTS, is_interrupt
from protoseg.config.matrix import Matrix
from protoseg.errors import UsageError
from protoseg.launch.current_plan import read_plan
from protoseg.planning.plan import Plan
from protoseg.runs.states import State

if TYPE_CHECKING:
    from rich.console import Group

    from protoseg.cli.context import Context

EXAMPLE = "protoseg status quickstart --watch"
WATCH_SECONDS, SHORTEST_PAUSE = 2.0, 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "MATRIX | RUN | OVERRIDE",
        "matrices and their overrides, run ids, or unique parts of run ids",
    )
    add_record_options(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="refresh the display, with curves of the loss, until every run is done or failed",
    )
    parser.add_argument(
        "--every",
        type=seconds,
        metavar="S",
        help=f"with --watch: seconds between two displays (default: {WATCH_SECONDS:.0f})",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="also write a web page that reloads itself; see --watch"
    )


def run(context: Context) -> int:
    """Show the progress of each run; with ``--watch``, until all have ended."""
    from protoseg.cli.run_lookup import load_matrices_and_runs
    from protoseg.cli.stages import list_stages
    from protoseg.cli.views.plan import plan_to_dict
    from protoseg.cli.views.status import render_status

    arguments = context.arguments
    if arguments.every is not None and not arguments.watch:
        raise UsageError("status: --every is the interval of --watch. Add --watch.")
    matrices = list_stages(load_matrices_and_runs(context))
    plan = _read_plan(context, matrices)
    if context.json:
        context.print_json(plan_to_dict(plan))
    elif arguments.watch:
        try:
            plan = _watch_plan(context, matrices, plan)
        except (KeyboardInterrupt, RuntimeError) as error:
            if not is_interrupt(error):
                raise
            return OK  # Ctrl-C is how one stops watching
    else:
        context.console.print(render_status(plan, width=context.console.width))
    has_failed = plan.counts()[State.FAILED] > 0
    return context.print_errors(plan.problems) or (FAILED if has_failed else OK)


def _read_plan(context: Context, matrices: list[Matrix]) -> Plan:
    """Read the states of the runs, and write them to the page of ``--html``."""
    plan = read_plan(matrices, context.paths.runs, context.record_folders)
    if context.arguments.html:
        from protoseg.cli.views.live_page import write_live_page

        path, runs = Path(context.arguments.html), context.paths.runs
        write_live_page(path, plan, matrices, runs, is_watched=context.arguments.watch)
    return plan


def _watch_plan(context: Context, matrices: list[Matrix], plan: Plan) -> Plan:
    """Display the runs again and again until all have ended; return their last plan.

    In a terminal the display is replaced; elsewhere each one is a block of lines after its time.
    """
    from rich.live import Live

    console = context.console
    every = WATCH_SECONDS if context.arguments.every is None else context.arguments.every
    if not console.is_terminal:
        return _print_plans(context, matrices, plan, every)
    with Live(_render_plan(context, plan), console=console, auto_refresh=False) as display:
        while not _has_ended(plan):
            _pause(every)
            plan = _read_plan(context, matrices)
            display.update(_render_plan(context, plan), refresh=True)
    return plan


def _print_plans(context: Context, matrices: list[Matrix], plan: Plan, every: float) -> Plan:
    while True:
        now = datetime.datetime.now().astimezone()
        context.console.print(f"{now:%Y-%m-%d %H:%M:%S}", markup=False)
        context.console.print(_render_plan(context, plan))
        context.console.file.flush()
        if _has_ended(plan):
            return plan
        context.console.print()
        _pause(every)
        plan = _read_plan(context, matrices)


def _render_plan(context: Context, plan: Plan) -> Group:
    """The runs with their curves, and when each matrix will have ended."""
    from protoseg.cli.views.matrix_times import describe_matrices
    from protoseg.cli.views.status import render_status
    from protoseg.runs.folder import RunFolder
    from protoseg.runs.loss_history import read_loss_history

    console, runs = context.console, context.paths.runs
    histories = {
        entry.run.run_id: read_loss_history(RunFolder(runs / entry.run.run_id), entry.status)
        for entry in plan.entries
    }
    notes = describe_matrices(plan, datetime.datetime.now().astimezone())
    height = console.height if console.is_terminal else None
    return render_status(plan, height, console.width, histories, notes)


def _has_ended(plan: Plan) -> bool:
    return all(entry.status.state in (State.DONE, State.FAILED) for entry in plan.entries)


def _pause(every: float) -> None:
    INTERRUPTS.raise_if_interrupted()
    time.sleep(max(SHORTEST_PAUSE, every))
