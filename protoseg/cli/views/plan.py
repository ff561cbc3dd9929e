"""Plans as rich renderables and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from protoseg.cli.views.cost import (
    count_runs,
    describe_cost,
    describe_timings,
    describe_training_time,
    format_duration,
    sum_seconds,
)
from protoseg.config.hierarchy.table_trees import describe_short_branches
from protoseg.config.hierarchy.tree import make_hierarchy
from protoseg.config.holdout.settings import describe_holdout
from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.launch.job_arrays import JobArray
from protoseg.planning.cost import CostEstimate
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.report import wording
from protoseg.report.seed_power import SeedPower
from protoseg.report.statistics.significance import MIN_SEEDS
from protoseg.runs.states import State

STYLES = {
    State.NEW: "default",
    State.QUEUED: "cyan",
    State.RUNNING: "blue",
    State.INTERRUPTED: "yellow",
    State.FAILED: "red",
    State.DONE: "green",
}


def describe_values(entry: PlanEntry) -> dict[str, str]:
    """Axis -> its value in words, without the seed."""
    return {
        key: str(value) if key == "label" else f"{key}={value}"
        for key, value in entry.run.axes.items()
        if value != ""
    }


def describe_axes(entry: PlanEntry) -> str:
    """The values that distinguish a run from the others of its matrix, without the seed."""
    return ", ".join(describe_values(entry).values()) or "the only run"


def describe_counts(plan: Plan) -> Text:
    """``3 done, 1 running, 2 new`` in the colours of the states."""
    parts = [
        Text(f"{number} {state.value}", style=STYLES[state])
        for state, number in plan.counts().items()
        if number
    ]
    return Text(", ").join(parts) if parts else Text("no runs")


def render_plan(
    plan: Plan,
    matrices: Sequence[Matrix],
    where: str,
    cost: CostEstimate | None = None,
    powers: Mapping[str, SeedPower] = MappingProxyType({}),
) -> Group:
    """The runs row by row, then the unfinished runs and their cost.

    Args:
        where: where and how the runs are trained, as a part of a sentence.
        cost: of the unfinished runs.
        powers: matrix -> which differences its seeds can detect.
    """
    parts: list[Any] = []
    for matrix in matrices:
        table = Table(title=f"{matrix.name}: {matrix.title}", title_justify="left", box=None)
        for name in ("Run", "Seeds", "State", "Left to train"):
            table.add_column(name, header_style="dim")
        for text, entries in _group_by_row(plan, matrix).items():
            seeds = ", ".join(dict.fromkeys(str(entry.run.spec.seed) for entry in entries))
            timed = ", timed" if any(entry.timing for entry in entries) else ""
            takes = format_duration(sum_seconds(entries)) + timed
            table.add_row(Text(text), seeds, _describe_states(entries), takes)
        power = powers.get(matrix.name)
        described = [*_describe_holdouts(matrix), *list_short_branches(matrix)]
        described += [describe_power(power)] if power else []
        parts += [table, *map(Text, described), Text()]
    left = plan.left()
    shared = plan.listed - len(plan.entries)
    summary = Text(count_runs(len(plan.entries)))
    if shared:
        summary.append(f" ({plan.listed} in the tables, {shared} shared)")
    summary.append(": ").append_text(describe_counts(plan)).append(".")
    parts.append(summary)
    if left:
        parts.append(Text(describe_training_time(left, where)))
        parts += [Text(line) for line in (describe_cost(cost) if cost is not None else ())]
        timings = [entry.timing for entry in left if entry.timing]
        parts += [
            Text(line) for line in describe_timings([*timings, *(cost.timings if cost else ())])
        ]
    return Group(*parts)


def _describe_holdouts(matrix: Matrix) -> list[str]:
    """One sentence for each holdout on which runs of a matrix are evaluated."""
    sentences = (
        f"Evaluation: {run.spec.dataset.name} "
        f"{describe_holdout(run.spec.evaluation.holdout, run.spec.dataset.train_split)}."
        for run in matrix.runs
        if run.spec.evaluation.holdout.is_set
    )
    return list(dict.fromkeys(sentences))


def list_short_branches(matrix: Matrix) -> list[str]:
    """One sentence for each data set with classes that are their own groups in its tree.

    Only trees that a method or a metric of the matrix uses are described.
    """
    specs = [run.spec.dataset for run in matrix.runs if run.spec.dataset.hierarchy]
    trees = {spec.name: make_hierarchy(spec.hierarchy) for spec in specs}
    trees |= {name: tree for (name, _), tree in matrix.trees.items()}
    return [line for name, tree in trees.items() for line in describe_short_branches(name, tree)]


def describe_power(power: SeedPower) -> str:
    """Describe in sentences which differences the planned seeds can detect."""
    decimals = power.metric.decimals
    parts = [
        f"{wording.format_number(difference, decimals)} with {wording.format_seeds(n)}"
        for n, difference in power.detectable.items()
    ]
    few = ""
    if power.seeds < MIN_SEEDS:
        few = f" With {wording.format_seeds(power.seeds)} no difference is tested."
    number = f"{power.comparisons} comparison" + "s" * (power.comparisons > 1)
    return (
        f"Smallest true difference in {power.metric.title} that is found with 80% probability in "
        f"{number}: {', '.join(parts)}.{few} The standard deviation of paired differences is "
        f"taken as {wording.format_number(power.spread, decimals)} ({power.source})."
    )


def _group_by_row(plan: Plan, matrix: Matrix) -> dict[str, list[PlanEntry]]:
    states = {entry.run.run_id: entry for entry in plan.entries}
    rows: dict[str, list[PlanEntry]] = {}
    for run in matrix.runs:
        # The trials of a row have more axes than its table, and are one line.
        axes = {axis: run.axes.get(axis, "") for axis in matrix.axes}
        entry = dataclasses.replace(states[run.run_id], run=PlannedRun(run.spec, axes))
        rows.setdefault(describe_axes(entry), []).append(entry)
    return rows


def _describe_states(entries: Iterable[PlanEntry]) -> Text:
    counted: dict[str, tuple[int, State]] = {}
    for entry in entries:
        status = entry.status
        name = status.state.value + (f": {status.reason.value}" if status.reason else "")
        counted[name] = (counted.get(name, (0, status.state))[0] + 1, status.state)
    return Text(", ").join(
        Text(f"{number} {name}", style=STYLES[state]) for name, (number, state) in counted.items()
    )


def describe_arrays(arrays: Sequence[JobArray], cluster: str) -> str:
    """How runs would be submitted: ``on NAME in 2 job arrays (...)``."""
    parts = [f"{count_runs(len(array.entries))}, each {array.resources}" for array in arrays]
    noun = "job array" if len(arrays) == 1 else "job arrays"
    return f"on {cluster} in {len(arrays)} {noun} ({'; '.join(parts)})"


def array_to_dict(array: JobArray) -> dict[str, Any]:
    """A job array as plain data."""
    return {"runs": array.run_ids, "resources": vars(array.resources)}


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "listed": plan.listed,
        "runs": [entry_to_dict(entry) for entry in plan.entries],
        "counts": {state.value: number for state, number in plan.counts().items()},
        "left_seconds": sum_seconds(plan.left()),
        "timings": [vars(t) for t in dict.fromkeys(e.timing for e in plan.entries) if t],
        "problems": plan.problems,
    }


def entry_to_dict(entry: PlanEntry) -> dict[str, Any]:
    """One run and its state as plain data."""
    status = entry.status
    return {
        "run_id": entry.run.run_id,
        "matrices": list(entry.matrices),
        "axes": entry.run.axes,
        "seed": entry.run.spec.seed,
        "state": status.state.value,
        "reason": status.reason.value if status.reason else None,
        "message": status.message,
        "attempts": status.attempts,
        "iteration": status.iteration,
        "iterations": entry.run.spec.schedule.last_iteration,
        "iterations_per_second": status.iterations_per_second,
        "host": status.host,
        "job": status.job,
        "left_seconds": entry.seconds,
        "timed": entry.timing is not None,
        "miou": status.record["metrics"]["miou"] if status.record else None,
        # Of a run without a record, if it has one: its last evaluation on the way.
        **({"evaluation": status.evaluation} if status.evaluation and not status.record else {}),
    }
