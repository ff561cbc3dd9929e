"""``protoseg status``: shows the progress of each run, and why it failed or was interrupted."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_operands, add_record_options
from protoseg.cli.exit_status import FAILED, OK
from protoseg.config.matrix import Matrix
from protoseg.launch.current_plan import read_plan
from protoseg.planning.plan import Plan
from protoseg.runs.states import State

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg status quickstart --watch"
WATCH_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "MATRIX | RUN | OVERRIDE",
        "matrices and their overrides, run ids, or unique parts of run ids",
    )
    add_record_options(parser)
    parser.add_argument(
        "--watch", action="store_true", help="refresh the display until every run is done or failed"
    )


def run(context: Context) -> int:
    """Show the progress of each run; with ``--watch``, until all have ended."""
    from protoseg.cli.run_lookup import load_matrices_and_runs
    from protoseg.cli.stages import list_stages
    from protoseg.cli.views.plan import plan_to_dict
    from protoseg.cli.views.status import render_status

    matrices = list_stages(load_matrices_and_runs(context))
    plan = read_plan(matrices, context.paths.runs, context.record_folders)
    if context.json:
        context.print_json(plan_to_dict(plan))
    elif context.arguments.watch:
        plan = _watch(context, matrices, plan)
    else:
        context.console.print(render_status(plan, width=context.console.width))
    has_failed = plan.counts()[State.FAILED] > 0
    return context.print_errors(plan.problems) or (FAILED if has_failed else OK)


def _watch(context: Context, matrices: list[Matrix], plan: Plan) -> Plan:
    from rich.live import Live

    from protoseg.cli.views.status import render_status

    console = context.console
    view = render_status(plan, console.height, console.width)
    with Live(view, console=console, auto_refresh=False) as display:
        try:
            while not all(e.status.state in (State.DONE, State.FAILED) for e in plan.entries):
                time.sleep(WATCH_SECONDS)
                plan = read_plan(matrices, context.paths.runs, context.record_folders)
                view = render_status(plan, console.height, console.width)
                display.update(view, refresh=True)
        except KeyboardInterrupt:
            pass
    return plan
