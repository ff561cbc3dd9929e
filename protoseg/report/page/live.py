"""Renders the page of running runs, which reloads itself: progress, loss, speed, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protoseg.report.page.render import render_template

REFRESH_SECONDS = 5


@dataclass(frozen=True)
class LiveRun:
    """One run, as the page shows it."""

    run_id: str
    row: str
    """Its values in the matrix."""
    state: str
    iteration: int
    iterations: int
    losses: tuple[float, ...]
    """The loss curve so far; empty without one."""
    rate: str
    """Iterations per second; empty without one."""
    left: str
    """Time left to train; empty for a finished run."""
    node: str
    attempts: int
    miou: str
    """Of a finished run, or of the last evaluation on the way."""
    message: str
    """Why it failed or was interrupted."""


def render_live_page(
    title: str,
    runs: Sequence[LiveRun],
    time: str,
    problems: Sequence[str],
    is_watched: bool = True,
) -> str:
    """Render the page; it reloads itself until every run is done or failed.

    Args:
        title: names of the matrices.
        runs: the running ones are shown first, then the order of the matrices.
        time: when the states were read.
        problems: messages about damaged records.
        is_watched: whether the page is written again and again; else it does not reload.
    """
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    has_ended = all(run.state in ("done", "failed") for run in runs)
    return render_template(
        "live.html",
        title=title,
        runs=sorted(runs, key=lambda run: run.state != "running"),
        counts=", ".join(f"{number} {state}" for state, number in counts.items()),
        time=time,
        problems=problems,
        has_ended=has_ended,
        refresh=REFRESH_SECONDS if is_watched and not has_ended else 0,
    )
