"""Shows the runs behind a table cell on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from protoseg.report import wording
from protoseg.report.explanation import Explanation, RunLine

RUN_COLUMNS = ("Seed", "Value", "State", "Commit", "Device", "Finished", "Tries")


def render_explanation(explanation: Explanation) -> Group:
    """Return an explanation for a rich console: runs, differences by seed, interval, notes."""
    names = dict.fromkeys((explanation.table, explanation.row, explanation.column))
    title = " / ".join(names)  # the only row of a single run has the name of the run
    unit = f" {explanation.shown_unit}" if explanation.unit else ""
    shown = explanation.shown
    parts: list[Any] = [
        Text(title, style="bold"),
        Text(f"{shown}{unit if shown[-1:].isdigit() else ''}"),
    ]
    for heading, of_baseline in (("Runs", False), ("Runs of the baseline", True)):
        runs = [run for run in explanation.runs if run.baseline is of_baseline]
        if runs:
            parts.append(_render_runs(heading, runs))
        parts += [Text(f"  {run.record or run.run_id}", style="dim") for run in runs]
        parts += [Text(f"  {run.run_id}: {run.message}") for run in runs if run.message]
    if explanation.pairs:
        parts.append(_render_pairs(explanation))
    if explanation.interval is not None:
        low, high = explanation.interval
        parts.append(Text(f"95% t interval of the mean over seeds: {low:.4f} to {high:.4f}"))
        parts.append(
            Text(
                f"p of the paired t test: {wording.format_p(explanation.p)}, not corrected for "
                "other comparisons"
            )
        )
    if explanation.detectable is not None:
        shown = f"{explanation.detectable:.2f}"
        parts.append(Text(f"detectable with 80% probability: a true difference of {shown}"))
    return Group(*parts, *(Text(note, style="dim") for note in explanation.notes))


def _render_runs(heading: str, runs: list[RunLine]) -> Table:
    rendered = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD)
    for name in RUN_COLUMNS:
        rendered.add_column(name, justify="right" if name in ("Value", "Tries") else "left")
    for run in runs:
        rendered.add_row(*map(Text, run_cells(run)))
    return rendered


def run_cells(run: RunLine) -> tuple[str, ...]:
    """Return the texts of a run for `RUN_COLUMNS`."""
    commit = run.commit[:10] + (" (dirty)" if run.dirty else "")
    value = wording.NONE if run.value is None else f"{run.value:.4f}"
    finished = run.finished[:16].replace("T", " ")
    attempts = str(run.attempts or wording.NONE)
    return str(run.seed), value, run.state, commit, run.device, finished, attempts


def _render_pairs(explanation: Explanation) -> Table:
    rendered = Table(title="Differences", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("Seed", "Value", "Baseline", "Difference"):
        rendered.add_column(name, justify="right")
    for pair in explanation.pairs:
        numbers = (pair.value, pair.baseline, pair.difference)
        rendered.add_row(str(pair.seed), *(f"{number:.4f}" for number in numbers))
    return rendered
