"""Shows the final runs whose settings are not chosen yet, and choices, in a plan."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from protoseg.cli.views.cost import count_runs, describe_cost, format_duration, sum_seconds
from protoseg.config.matrix import Matrix
from protoseg.planning.cost import CostEstimate
from protoseg.planning.plan import Plan
from protoseg.report.tuning.notes import describe_halving, list_choices

TO_BE_CHOSEN = "to be chosen"


def render_later_stage(matrix: Matrix, plan: Plan, cost: CostEstimate) -> Group:
    """The final runs of a matrix, row by row, before their settings are chosen.

    Args:
        plan: of the same number of runs with the values of the first trials.
        cost: of this plan.
    """
    assert matrix.tuning is not None
    halving = describe_halving(matrix.tuning)
    table = Table(title=f"{matrix.name}: {matrix.title}", title_justify="left", box=None)
    for name in ("Run", "Seeds", "State", "Left to train"):
        table.add_column(name, header_style="dim")
    seeds = ", ".join(map(str, matrix.tuning.seeds))
    for row in matrix.tuning.rows:
        # A trial that goes on continues an earlier run; a final run does not.
        entries = [e for e in plan.entries if e.run.axes == row.axes and not e.run.start]
        takes = format_duration(sum_seconds(entries)) if entries else ""
        table.add_row(Text(row.name), seeds, Text(TO_BE_CHOSEN, style="yellow"), takes)
    number = len(matrix.tuning.rows) * len(matrix.tuning.seeds)
    selection = matrix.tuning.selection
    seconds = sum_seconds(plan.entries)
    takes = "unknown" if seconds is None else format_duration(seconds)
    oracle = " (oracle)" if matrix.tuning.is_oracle else ""
    sentence = (
        f"After the trials: {count_runs(number)} {TO_BE_CHOSEN} by {selection.metric} on "
        f"{selection.on}{oracle}. Training time{', with trials that go on' if halving else ''}: "
        f"{takes}."
    )
    sentences = [*([halving] if halving else []), sentence, *describe_cost(cost)]
    return Group(Text(), table, Text(), *map(Text, sentences))


def render_choice(matrix: Matrix) -> Group:
    """The chosen settings of a matrix; empty without a search."""
    lines = list_choices(matrix)
    if not lines:
        return Group()
    return Group(Text(f"{matrix.name}: chosen settings"), *(Text(f"  {line}") for line in lines))


def later_stage_to_dict(matrix: Matrix, plan: Plan, cost: CostEstimate) -> dict[str, Any]:
    """The final runs whose settings are not chosen, as plain data."""
    assert matrix.tuning is not None
    return {
        "matrix": matrix.name,
        "rows": [row.name for row in matrix.tuning.rows],
        "seeds": list(matrix.tuning.seeds),
        "runs": len(matrix.tuning.rows) * len(matrix.tuning.seeds),
        "left_seconds": sum_seconds(plan.entries),
        "gpu_hours": cost.gpu_hours.value if cost.gpu_hours.known else None,
        "storage_bytes": cost.storage.value if cost.storage.known else None,
    }
