"""How runs stand, for people: one line a run, and why attempts ended. No decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from protoseg.cli.views.plan import STYLES, counts_text, duration
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.runs.attempts import Attempt
from protoseg.runs.states import State

URGENCY = (
    State.RUNNING,
    State.FAILED,
    State.INTERRUPTED,
    State.QUEUED,
    State.NEW,
    State.DONE,
)
"""What is shown first where not all runs fit on the screen."""


def status_view(plan: Plan, lines: int | None = None) -> Group:
    """One line a run: how far it is, how fast, where, how often tried; below, why attempts ended.

    Args:
        lines: of the screen; the runs under way and those in trouble are shown first and the
            others are only counted. None shows all, in the order of the matrix.
    """
    shown, words = list(plan.entries), _words(plan, plan.entries)
    if lines is not None and len(shown) + len(words) + 5 > lines:
        # A stable sort: the order of the matrix within each state.
        shown.sort(key=lambda entry: URGENCY.index(entry.status.state))
        shown = shown[: max(3, (lines - 6) * 2 // 3)]
        words = words[: max(1, lines - 6 - len(shown))]
    table = Table(box=None, pad_edge=False)
    # Where the terminal is narrow the names of the runs are folded, and nothing is cut.
    table.add_column("Run", header_style="dim", overflow="fold")
    for name in ("State", "Progress", "it/s", "Left", "Node", "Tries", "mIoU"):
        justify: Any = "left" if name in ("State", "Node") else "right"
        table.add_column(name, header_style="dim", justify=justify, no_wrap=True)
    for entry in shown:
        status = entry.status
        total = entry.run.spec.schedule.iterations
        done = total if status.state is State.DONE else status.iteration
        rate = status.iterations_per_second if status.state is not State.QUEUED else None
        table.add_row(
            Text(entry.run.run_id),
            Text(status.state.value, style=STYLES[status.state]),
            f"{done}/{total}",
            "" if rate is None else f"{rate:.2f}",
            duration(entry.seconds) if status.state is not State.DONE else "",
            Text(status.host if status.state not in (State.DONE, State.QUEUED) else ""),
            str(status.attempts or ""),
            f"{status.record['metrics']['miou']:.2f}" if status.record else "",
        )
    if len(shown) < len(plan.entries):
        words.append(Text(f"... and {len(plan.entries) - len(shown)} runs more", style="dim"))
    return Group(table, Text(), _summary(plan), *words)


def _summary(plan: Plan) -> Table:
    counts = plan.counts()
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(max(1, len(plan.entries)), counts[State.DONE], width=30)
    line.add_row(bar, f"{counts[State.DONE]}/{len(plan.entries)}", counts_text(plan))
    return line


def _words(plan: Plan, entries: Sequence[PlanEntry]) -> list[Text]:
    """A sentence for each run that has something to say; those that say the same say it once."""
    said: dict[str, list[str]] = {}
    for entry in entries:
        status = entry.status
        if status.message and status.message not in plan.problems:
            reason = f"{status.reason.value}: " if status.reason else ""
            if status.state is State.QUEUED:
                reason = ""
            said.setdefault(reason + status.message, []).append(entry.run.run_id)
    return [
        Text(f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {sentence}")
        for sentence, ids in said.items()
    ]


def attempts_view(attempts: Sequence[Attempt]) -> Table:
    """The attempts at one run: when, where, from which iteration, and why each ended."""
    table = Table(box=None, pad_edge=False)
    for name in ("Try", "Began", "Node", "Job", "From"):
        table.add_column(name, header_style="dim", no_wrap=True)
    table.add_column("End", header_style="dim", overflow="fold")
    for data in map(attempt_data, attempts):
        table.add_row(
            str(data["number"]),
            Text(data["began"]),
            Text(data["node"]),
            Text(data["job"]),
            str(data["iteration"]),
            Text(f"{data['reason'] or data['state']}: {data['message']}".rstrip(": ")),
        )
    return table


def attempt_data(attempt: Attempt) -> dict[str, Any]:
    """One attempt as plain data."""
    ended = attempt.ending is not None
    done = ended and attempt.reason is None
    return {
        "number": attempt.number,
        "began": str(attempt.start.get("time", "")),
        "node": str(attempt.start.get("node") or attempt.start.get("host") or ""),
        "job": attempt.job,
        "restarts": attempt.start.get("restarts", 0),
        "iteration": attempt.began_at,
        "ended": str((attempt.ending or {}).get("time", "")),
        "state": "done" if done else "ended" if ended else "under way, or vanished",
        "reason": attempt.reason.value if attempt.reason and ended else None,
        "message": attempt.message if ended else "",
    }
