"""The progress of runs and the ends of attempts, as rich renderables and as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from protoseg.cli.views.cost import count_runs, format_duration
from protoseg.cli.views.plan import STYLES, describe_counts
from protoseg.cli.views.sparkline import draw_sparkline
from protoseg.cli.views.sweep import WIDE
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.runs.attempts import Attempt
from protoseg.runs.folder import Status
from protoseg.runs.loss_history import LossHistory
from protoseg.runs.states import State

COLUMNS = ("Run", "State", "Progress", "it/s", "Left", "Node", "Tries", "mIoU")
CURVE_COLUMNS = ("Loss", "mIoU")
"""The last columns with ``histories``, each a sparkline and the last value."""
WIDE_WITH_CURVES = 130
"""Characters from which on there is room for all columns and for curves of 16 characters."""
URGENCY = (
    State.RUNNING,
    State.FAILED,
    State.INTERRUPTED,
    State.QUEUED,
    State.NEW,
    State.DONE,
)
"""Runs in these states come first if not all runs fit on the screen."""


def render_status(
    plan: Plan,
    lines: int | None = None,
    width: int = WIDE,
    histories: Mapping[str, LossHistory] | None = None,
    notes: Sequence[Text] = (),
) -> Group:
    """One line per run: progress, speed, node, attempts; below, why attempts ended.

    Args:
        lines: height of the screen. Running and failed runs come first; runs that do not fit are
            only counted. None: all runs, in the order of the matrix.
        width: width of the screen. If it is narrow, the common beginning of the run ids is shown
            once, and columns without information are left out.
        histories: run id -> its curves, which are drawn if this is set.
        notes: lines after the summary.
    """
    shown = list(plan.entries)
    messages = [*notes, *_collect_messages(plan, plan.entries)]
    if lines is not None and len(shown) + len(messages) + 5 > lines:
        # A stable sort: the order of the matrix within each state.
        shown.sort(key=lambda entry: URGENCY.index(entry.status.state))
        shown = shown[: max(3, (lines - 6) * 2 // 3)]
        messages = messages[: max(1, lines - 6 - len(shown))]
    is_wide = width >= (WIDE if histories is None else WIDE_WITH_CURVES)
    has_room = is_wide if histories is None else width >= 2 * WIDE
    beginning = "" if has_room else _find_common_beginning(plan)
    rows = [_list_cells(entry, beginning) for entry in shown]
    columns: tuple[str, ...] = COLUMNS
    if histories is not None:
        columns = (*COLUMNS[:-1], *CURVE_COLUMNS)
        for row, entry in zip(rows, shown, strict=True):
            row[-1:] = _list_curves(entry, histories.get(entry.run.run_id), width)
    names = [
        name
        for name, *cells in zip(columns, *rows, strict=True)
        if is_wide or _is_informative(name, {cell.plain for cell in cells})
    ]
    if histories is not None and width < WIDE:
        names = [name for name in names if name not in ("it/s", "Node", "Tries")]
    table = Table(box=None, pad_edge=False)
    for name in names:
        justify: Any = "left" if name in ("Run", "State", "Node") else "right"
        # Run ids that do not fit are folded; nothing is truncated.
        is_id = name == "Run"
        overflow: Any = "fold" if is_id else "ellipsis"
        table.add_column(
            name, header_style="dim", justify=justify, no_wrap=not is_id, overflow=overflow
        )
    for row in rows:
        table.add_row(*(cell for name, cell in zip(columns, row, strict=True) if name in names))
    if len(shown) < len(plan.entries):
        left_out = count_runs(len(plan.entries) - len(shown))
        messages.append(Text(f"... and {left_out} more", style="dim"))
    title = [Text(f"Run ids begin with {beginning}", style="dim")] if beginning else []
    return Group(*title, table, Text(), _render_summary(plan), *messages)


def _find_common_beginning(plan: Plan) -> str:
    """The first words that all run ids share; empty if a row would not be shorter."""
    ids = [entry.run.run_id.split("-") for entry in plan.entries]
    shared = [parts[0] for parts in takewhile(lambda p: len(set(p)) == 1, zip(*ids, strict=False))]
    return "-".join([*shared, ""]) if len(ids) > 1 and shared else ""


def _is_informative(name: str, texts: set[str]) -> bool:
    """Whether a column of a narrow table distinguishes runs."""
    if name == "Tries":
        return not texts <= {"", "1"}
    return name in ("Run", "State") or (len(texts) > 1 if name == "Node" else texts != {""})


def _list_cells(entry: PlanEntry, beginning: str) -> list[Text]:
    """The cells of a run, in the order of `COLUMNS`."""
    status = entry.status
    total = entry.run.spec.schedule.last_iteration
    done = total if status.state is State.DONE else status.iteration
    rate = status.iterations_per_second if status.state is not State.QUEUED else None
    return [
        Text(entry.run.run_id.removeprefix(beginning)),
        Text(status.state.value, style=STYLES[status.state]),
        Text(f"{done}/{total}"),
        Text("" if rate is None else f"{rate:.2f}"),
        Text(format_duration(entry.seconds) if status.state is not State.DONE else ""),
        Text(status.host if status.state not in (State.DONE, State.QUEUED) else ""),
        Text(str(status.attempts or "")),
        Text(format_miou(status)),
    ]


def _list_curves(entry: PlanEntry, history: LossHistory | None, width: int) -> list[Text]:
    """The cells of `CURVE_COLUMNS`: the losses on a logarithmic scale, and the mIoU.

    Args:
        width: of the screen; below `WIDE` only the losses have a curve.
    """
    losses = [value for _, value in history.losses] if history else []
    metrics = [value for _, value in history.metrics] if history else []
    size = 16 if width >= WIDE_WITH_CURVES else 8
    sizes = (size, size) if width >= WIDE else (6, 0)
    loss = entry.status.loss if entry.status.loss is not None else next(reversed(losses), None)
    logarithms = [math.log(value) for value in losses if value > 0]
    cells = []
    for values, length, style, last, digits in (
        (logarithms, sizes[0], "cyan", loss, 4),
        (metrics, sizes[1], "green", next(reversed(metrics), None), 2),
    ):
        value = "" if last is None else f"{last:.{digits}f}"
        # The values are below each other, whatever the length of the curve.
        curve = draw_sparkline(values, length).ljust(length) if value else ""
        cells.append(Text.assemble((curve, style), f" {value:>{digits + 3}}" if value else ""))
    return cells


def format_miou(status: Status) -> str:
    """The mIoU of a finished run, or of the last evaluation on the way with its iteration."""
    if status.record:
        return f"{status.record['metrics']['miou']:.2f}"
    last = status.evaluation
    return (
        f"{last['miou']:.2f} at {last['iteration']:.0f}" if {"miou", "iteration"} <= {*last} else ""
    )


def _render_summary(plan: Plan) -> Table:
    counts = plan.counts()
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(max(1, len(plan.entries)), counts[State.DONE], width=30)
    line.add_row(bar, f"{counts[State.DONE]}/{len(plan.entries)}", describe_counts(plan))
    return line


def _collect_messages(plan: Plan, entries: Sequence[PlanEntry]) -> list[Text]:
    """The messages of runs; equal messages are shown once."""
    runs_by_message: dict[str, list[str]] = {}
    for entry in entries:
        status = entry.status
        if status.message and status.message not in plan.problems:
            reason = f"{status.reason.value}: " if status.reason else ""
            if status.state is State.QUEUED:
                reason = ""
            runs_by_message.setdefault(reason + status.message, []).append(entry.run.run_id)
    return [
        Text(f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {message}")
        for message, ids in runs_by_message.items()
    ]


def render_attempts(attempts: Sequence[Attempt], is_running: bool) -> Table:
    """The attempts of a run: start, node, job, first iteration, and why each ended.

    Args:
        is_running: whether the run is running now.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("Try", "Began", "Node", "Job", "From"):
        table.add_column(name, header_style="dim", no_wrap=True)
    table.add_column("End", header_style="dim", overflow="fold")
    for data in attempts_to_dicts(attempts, is_running):
        table.add_row(
            str(data["number"]),
            Text(data["began"]),
            Text(data["node"]),
            Text(data["job"]),
            str(data["iteration"]),
            Text(f"{data['reason'] or data['state']}: {data['message']}".rstrip(": ")),
        )
    return table


def attempts_to_dicts(attempts: Sequence[Attempt], is_running: bool) -> list[dict[str, Any]]:
    """The attempts of a run as plain data.

    Args:
        is_running: whether the run is running now, in its last attempt. Any other attempt without
            an end is ``vanished``.
    """
    last = attempts[-1:]
    return [_attempt_to_dict(attempt, is_running and attempt in last) for attempt in attempts]


def _attempt_to_dict(attempt: Attempt, is_running: bool) -> dict[str, Any]:
    has_ended = attempt.ending is not None
    state = "running" if is_running else "vanished"
    if has_ended:
        state = "ended" if attempt.reason else "done"
    return {
        "number": attempt.number,
        "began": str(attempt.start.get("time", "")),
        "node": str(attempt.start.get("node") or attempt.start.get("host") or ""),
        "job": attempt.job,
        "restarts": attempt.start.get("restarts", 0),
        "iteration": attempt.began_at,
        "ended": str((attempt.ending or {}).get("time", "")),
        "state": state,
        "reason": attempt.reason.value if attempt.reason and has_ended else None,
        "message": "" if is_running else attempt.message,
    }
