"""Plans as rich renderables and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from protoseg.config.matrix import Matrix
from protoseg.launch.job_arrays import JobArray
from protoseg.planning.cost import STORAGE_RULE, CostEstimate
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.planning.timings import Timing
from protoseg.runs.states import State

STYLES = {
    State.NEW: "default",
    State.QUEUED: "cyan",
    State.RUNNING: "blue",
    State.INTERRUPTED: "yellow",
    State.FAILED: "red",
    State.DONE: "green",
}


def format_duration(seconds: float | None) -> str:
    """A duration in a readable unit: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def count_runs(number: int) -> str:
    """``1 run``, ``9 runs``."""
    return "1 run" if number == 1 else f"{number} runs"


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
    plan: Plan, matrices: Sequence[Matrix], where: str, cost: CostEstimate | None = None
) -> Group:
    """The runs row by row, then the unfinished runs and their cost.

    Args:
        where: where and how the runs are trained, as a part of a sentence.
        cost: of the unfinished runs.
    """
    parts: list[Any] = []
    for matrix in matrices:
        table = Table(title=f"{matrix.name}: {matrix.title}", title_justify="left", box=None)
        for name in ("Run", "Seeds", "State", "Left to train"):
            table.add_column(name, header_style="dim")
        for text, entries in _group_by_row(plan, matrix).items():
            seeds = ", ".join(str(entry.run.spec.seed) for entry in entries)
            timed = ", timed" if any(entry.timing for entry in entries) else ""
            takes = format_duration(_sum_seconds(entries)) + timed
            table.add_row(Text(text), seeds, _describe_states(entries), takes)
        parts += [table, Text()]
    left = plan.left()
    shared = plan.listed - len(plan.entries)
    summary = Text(count_runs(len(plan.entries)))
    if shared:
        summary.append(f" ({plan.listed} in the tables, {shared} shared)")
    summary.append(": ").append_text(describe_counts(plan)).append(".")
    parts.append(summary)
    if left:
        parts.append(Text(_describe_training_time(left, where)))
        parts += [Text(line) for line in (_describe_cost(cost) if cost is not None else ())]
        timings = [entry.timing for entry in left if entry.timing]
        parts += [
            Text(line) for line in _describe_timings([*timings, *(cost.timings if cost else ())])
        ]
    return Group(*parts)


def _group_by_row(plan: Plan, matrix: Matrix) -> dict[str, list[PlanEntry]]:
    states = {entry.run.run_id: entry for entry in plan.entries}
    rows: dict[str, list[PlanEntry]] = {}
    for run in matrix.runs:
        entry = dataclasses.replace(states[run.run_id], run=run)
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


def _sum_seconds(entries: Iterable[PlanEntry]) -> float | None:
    known = [entry.seconds for entry in entries]
    return None if any(s is None for s in known) else sum(s for s in known if s is not None)


def _describe_training_time(left: Sequence[PlanEntry], where: str) -> str:
    seconds = _sum_seconds(left)
    known = [entry.seconds for entry in left if entry.seconds is not None]
    text = f"To train: {count_runs(len(left))}, {where}. "
    timed = [entry for entry in left if entry.timing]
    if timed:
        recorded = [e for e in left if e.seconds is not None and not e.timing]
        parts = [(recorded, "records of similar runs"), (timed, "timings")]
        known_by = " and ".join(
            f"{format_duration(_sum_seconds(entries))} by {source} ({count_runs(len(entries))})"
            for entries, source in parts
            if entries
        )
        return text + f"Training time: {known_by}{_describe_unknown(len(left) - len(known))}."
    if seconds is not None:
        return (
            text + f"Training time by records of similar runs: {format_duration(seconds)} in all."
        )
    if known:
        unknown = len(left) - len(known)
        takes = format_duration(sum(known))
        return text + f"Known training time: {takes}; {count_runs(unknown)} unknown."
    return text + "Training time unknown: no similar run has a record yet."


def _describe_cost(cost: CostEstimate) -> Iterator[str]:
    hours, storage, timed = cost.gpu_hours, cost.storage, cost.timed
    unknown = _describe_unknown(hours.unknown)
    if timed.known:
        recorded = f"{hours.value - timed.value:.1f} by records of similar runs and "
        yield (
            f"GPU-hours: {recorded if hours.known > timed.known else ''}{timed.value:.1f} by "
            f"timings ({count_runs(timed.known)}), each run on one GPU{unknown}."
        )
    elif hours.known:
        yield f"GPU-hours by records of similar runs: {hours.value:.1f}{unknown}."
    else:
        yield "GPU-hours unknown: no similar run has a record made on a GPU."
    if storage.known:
        rest = _describe_unknown(storage.unknown)
        yield f"Storage at the end: about {_format_bytes(storage.value)}{rest} ({STORAGE_RULE})."
    else:
        yield "Storage unknown: no record or published table has the parameters of such a model."


def _describe_unknown(runs: int) -> str:
    return f"; {count_runs(runs)} unknown" if runs else ""


def _describe_timings(timings: Iterable[Timing]) -> Iterator[str]:
    """How the timings were measured."""
    devices: dict[str, set[Timing]] = {}
    for timing in timings:
        devices.setdefault(timing.device, set()).add(timing)
    for device, of_device in devices.items():
        numbers = sorted({timing.iterations for timing in of_device})
        iterations = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        workloads = f"{len(of_device)} workload{'s' * (len(of_device) > 1)}"
        yield (
            f"Timings: {workloads} on {device}, the median of {iterations} iterations each, on "
            "synthetic crops: without reading images and without evaluation."
        )


def _format_bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def cost_to_dict(cost: CostEstimate) -> dict[str, Any]:
    """A cost as plain data: the known part, and the number of runs without a known cost."""
    return {
        "gpu_hours": cost.gpu_hours.value if cost.gpu_hours.known else None,
        "gpu_hours_unknown_runs": cost.gpu_hours.unknown,
        "gpu_hours_by_timings": cost.timed.value if cost.timed.known else None,
        "gpu_hours_timed_runs": cost.timed.known,
        "storage_bytes": cost.storage.value if cost.storage.known else None,
        "storage_unknown_runs": cost.storage.unknown,
    }


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
        "left_seconds": _sum_seconds(plan.left()),
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
        "iterations": entry.run.spec.schedule.iterations,
        "iterations_per_second": status.iterations_per_second,
        "host": status.host,
        "job": status.job,
        "left_seconds": entry.seconds,
        "timed": entry.timing is not None,
        "miou": status.record["metrics"]["miou"] if status.record else None,
        # Of a run without a record, if it has one: its last evaluation on the way.
        **({"evaluation": status.evaluation} if status.evaluation and not status.record else {}),
    }
