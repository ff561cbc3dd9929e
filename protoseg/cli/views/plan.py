"""Plans and states for people: rich renderables and plain data, no decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from protoseg.config.matrix import Matrix
from protoseg.launch.job_arrays import Array
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


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def axes_text(entry: PlanEntry) -> str:
    """What tells a run from its siblings, without the seed."""
    parts = [
        str(value) if key == "label" else f"{key}={value}"
        for key, value in entry.run.axes.items()
        if value != ""
    ]
    return ", ".join(parts) or "the only run"


def counts_text(plan: Plan) -> Text:
    """``3 done, 1 running, 2 new`` in the colours of the states."""
    parts = [
        Text(f"{number} {state.value}", style=STYLES[state])
        for state, number in plan.counts().items()
        if number
    ]
    return Text(", ").join(parts) if parts else Text("no runs")


def plan_view(
    plan: Plan, matrices: Sequence[Matrix], where: str, cost: CostEstimate | None = None
) -> Group:
    """The runs row by row, then what is left to do and what it will take.

    Args:
        cost: of what is left, where it was asked for.
        where: and how the runs are trained, as part of a sentence.
    """
    parts: list[Any] = []
    for matrix in matrices:
        table = Table(title=f"{matrix.name}: {matrix.title}", title_justify="left", box=None)
        for name in ("Run", "Seeds", "State", "Left to train"):
            table.add_column(name, header_style="dim")
        for text, entries in _by_row(plan, matrix).items():
            seeds = ", ".join(str(entry.run.spec.seed) for entry in entries)
            timed = ", timed" if any(entry.timing for entry in entries) else ""
            takes = duration(_seconds(entries)) + timed
            table.add_row(Text(text), seeds, _states(entries), takes)
        parts += [table, Text()]
    left = plan.left()
    shared = plan.listed - len(plan.entries)
    summary = Text(f"{len(plan.entries)} runs")
    if shared:
        summary.append(f" ({plan.listed} in the tables, {shared} shared)")
    summary.append(": ").append_text(counts_text(plan)).append(".")
    parts.append(summary)
    if left:
        parts.append(Text(_price(left, where)))
        parts += [Text(line) for line in (_costs(cost) if cost is not None else ())]
        timings = [entry.timing for entry in left if entry.timing]
        parts += [Text(line) for line in _timings([*timings, *(cost.timings if cost else ())])]
    return Group(*parts)


def _by_row(plan: Plan, matrix: Matrix) -> dict[str, list[PlanEntry]]:
    states = {entry.run.run_id: entry for entry in plan.entries}
    rows: dict[str, list[PlanEntry]] = {}
    for run in matrix.runs:
        found = states[run.run_id]
        entry = dataclasses.replace(found, run=run)
        rows.setdefault(axes_text(entry), []).append(entry)
    return rows


def _states(entries: Iterable[PlanEntry]) -> Text:
    counted: dict[str, tuple[int, State]] = {}
    for entry in entries:
        status = entry.status
        name = status.state.value + (f": {status.reason.value}" if status.reason else "")
        counted[name] = (counted.get(name, (0, status.state))[0] + 1, status.state)
    return Text(", ").join(
        Text(f"{number} {name}", style=STYLES[state]) for name, (number, state) in counted.items()
    )


def _seconds(entries: Iterable[PlanEntry]) -> float | None:
    known = [entry.seconds for entry in entries]
    return None if any(s is None for s in known) else sum(s for s in known if s is not None)


def _price(left: Sequence[PlanEntry], where: str) -> str:
    seconds = _seconds(left)
    known = [entry.seconds for entry in left if entry.seconds is not None]
    text = f"To train: {len(left)} runs, {where}. "
    timed = [entry for entry in left if entry.timing]
    if timed:
        recorded = [e for e in left if e.seconds is not None and not e.timing]
        parts = [(recorded, "the records of like runs"), (timed, "timings")]
        known_by = " and ".join(
            f"{duration(_seconds(entries))} by {source} ({len(entries)} runs)"
            for entries, source in parts
            if entries
        )
        return text + f"Training time: {known_by}{_unknown(len(left) - len(known))}."
    if seconds is not None:
        return text + f"Training time by the records of like runs: {duration(seconds)} in all."
    if known:
        unknown = len(left) - len(known)
        return text + f"Known training time: {duration(sum(known))}; {unknown} runs unknown."
    return text + "Training time unknown: no like run has a record yet."


def _costs(cost: CostEstimate) -> Iterator[str]:
    hours, storage, timed = cost.gpu_hours, cost.storage, cost.timed
    if timed.known:
        recorded = f"{hours.value - timed.value:.1f} by the records of like runs and "
        yield (
            f"GPU-hours: {recorded if hours.known > timed.known else ''}{timed.value:.1f} by "
            f"timings ({timed.known} runs), each run on one GPU{_unknown(hours.unknown)}."
        )
    elif hours.known:
        yield f"GPU-hours by the records of like runs: {hours.value:.1f}{_unknown(hours.unknown)}."
    else:
        yield "GPU-hours unknown: no like run has a record made on a GPU."
    if storage.known:
        rest = _unknown(storage.unknown)
        yield f"Storage at the end: about {_bytes(storage.value)}{rest} ({STORAGE_RULE})."
    else:
        yield "Storage unknown: neither a record nor a published table counts such a model."


def _unknown(runs: int) -> str:
    return f"; {runs} runs unknown" if runs else ""


def _timings(timings: Iterable[Timing]) -> Iterator[str]:
    """What the timings are that figures rest on."""
    devices: dict[str, set[Timing]] = {}
    for timing in timings:
        devices.setdefault(timing.device, set()).add(timing)
    for device, found in devices.items():
        numbers = sorted({timing.iterations for timing in found})
        many = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        kinds = f"{len(found)} kind{'s' * (len(found) > 1)} of runs"
        yield (
            f"Timings: {kinds} on {device}, the median of {many} iterations each, on crops made up "
            "beforehand: neither reading images nor evaluating is in them."
        )


def _bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def price_data(cost: CostEstimate) -> dict[str, Any]:
    """The price as plain data: what is known, and for how many runs it is not."""
    return {
        "gpu_hours": cost.gpu_hours.value if cost.gpu_hours.known else None,
        "gpu_hours_unknown_runs": cost.gpu_hours.unknown,
        "gpu_hours_by_timings": cost.timed.value if cost.timed.known else None,
        "gpu_hours_timed_runs": cost.timed.known,
        "storage_bytes": cost.storage.value if cost.storage.known else None,
        "storage_unknown_runs": cost.storage.unknown,
    }


def arrays_text(arrays: Sequence[Array], cluster: str) -> str:
    """How runs are going to be submitted: ``on NAME in 2 job arrays (...)``."""
    parts = [f"{len(array.entries)} runs, each {array.resources}" for array in arrays]
    noun = "job array" if len(arrays) == 1 else "job arrays"
    return f"on {cluster} in {len(arrays)} {noun} ({'; '.join(parts)})"


def array_data(array: Array) -> dict[str, Any]:
    """A job array to be submitted as plain data."""
    return {"runs": array.run_ids, "resources": vars(array.resources)}


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "listed": plan.listed,
        "runs": [entry_data(entry) for entry in plan.entries],
        "counts": {state.value: number for state, number in plan.counts().items()},
        "left_seconds": _seconds(plan.left()),
        "timings": [vars(t) for t in dict.fromkeys(e.timing for e in plan.entries) if t],
        "problems": plan.problems,
    }


def entry_data(entry: PlanEntry) -> dict[str, Any]:
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
    }
