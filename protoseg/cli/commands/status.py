"""``protoseg status``: shows the progress of each run, and why it failed or was interrupted."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_matrix_operands, add_record_options
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
    add_matrix_operands(parser)
    add_record_options(parser)
    parser.add_argument(
        "--watch", action="store_true", help="refresh the display until every run is done or failed"
    )


def run(context: Context) -> int:
    """Show the progress of each run; with ``--watch``, until all have ended."""
    from protoseg.cli.views.plan import plan_to_dict
    from protoseg.cli.views.status import render_status

    matrices, _ = context.matrices()
    plan = read_plan(matrices, context.paths.runs, context.record_folders)
    if context.json:
        context.print_json(plan_to_dict(plan))
    elif context.arguments.watch:
        plan = _watch(context, matrices, plan)
    else:
        context.console.print(render_status(plan))
    has_failed = plan.counts()[State.FAILED] > 0
    return context.print_errors(plan.problems) or (FAILED if has_failed else OK)


def _watch(context: Context, matrices: list[Matrix], plan: Plan) -> Plan:
    from rich.live import Live

    from protoseg.cli.views.status import render_status

    view = render_status(plan, context.console.height)
    with Live(view, console=context.console, auto_refresh=False) as display:
        try:
            while not all(e.status.state in (State.DONE, State.FAILED) for e in plan.entries):
                time.sleep(WATCH_SECONDS)
                plan = read_plan(matrices, context.paths.runs, context.record_folders)
                display.update(render_status(plan, context.console.height), refresh=True)
        except KeyboardInterrupt:
            pass
    return plan
