"""How long the rest of each matrix takes, estimated from its runs."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from rich.text import Text

from protoseg.cli.views.cost import count_runs, format_duration
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.runs.states import State

ENDED = (State.DONE, State.FAILED)


def estimate_seconds(entries: Sequence[PlanEntry]) -> float | None:
    """Seconds until some runs have ended, with as many at once as are running now.

    A run whose time is unknown is assumed to have the mean speed of the running ones. The result is
    at least the time of the longest run, because one worker trains it.

    Args:
        entries: runs of one matrix; those that are done or failed take no time.

    Returns:
        The seconds; None if no run is running, or the speed of none is known.
    """
    running = [entry for entry in entries if entry.status.state is State.RUNNING]
    rates = [e.status.iterations_per_second for e in running if e.status.iterations_per_second]
    if not rates:
        return None
    rate = sum(rates) / len(rates)
    left = [
        entry.iterations_left / rate if entry.seconds is None else entry.seconds
        for entry in entries
        if entry.status.state not in ENDED
    ]
    return max(*left, sum(left) / len(running)) if len(left) > 1 else left[0]


def describe_matrices(plan: Plan, now: datetime.datetime) -> list[Text]:
    """One line for each matrix with unfinished runs: how long it takes, and when it ends.

    Args:
        plan: the runs of all matrices.
        now: local time.
    """
    names = dict.fromkeys(name for entry in plan.entries for name in entry.matrices)
    lines = []
    for name in names:
        entries = [entry for entry in plan.entries if name in entry.matrices]
        left = [entry for entry in entries if entry.status.state not in ENDED]
        if not left:
            continue
        running = sum(entry.status.state is State.RUNNING for entry in entries)
        text = f"{name}: {count_runs(len(left))} left, {running} running"
        seconds = estimate_seconds(entries)
        if seconds is not None:
            end = format_end(seconds, now)
            text += f": about {format_duration(seconds)}, until {end}"
        lines.append(Text(text))
    return lines


def format_end(seconds: float, now: datetime.datetime) -> str:
    """The local time in some seconds: ``16:42``, with the day if it is another one."""
    end = now + datetime.timedelta(seconds=seconds)
    return f"{end:%H:%M}" if end.date() == now.date() else f"{end:%a %d %b %H:%M}"
