"""Finds the run that a user names by its id or by a part of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from protoseg.cli.context import Context
from protoseg.config.identity import run_id_pattern
from protoseg.errors import UsageError, describe_unknown_name

SHOWN = 5
"""Candidates that a message lists."""


def find_run(name: str, run_ids: Collection[str], where: str) -> str:
    """The run that a name identifies: a run id, or a part of exactly one.

    Args:
        run_ids: the ids to choose from.
        where: where these ids come from, for the message.

    Raises:
        UsageError: no run matches, or several.
    """
    if name in run_ids:
        return name
    matching = sorted(run_id for run_id in run_ids if name in run_id)
    if len(matching) == 1:
        return matching[0]
    if matching:
        listed = ", ".join(matching[:SHOWN])
        others = len(matching) - SHOWN
        more = f" and {others} more" if others > 0 else ""
        raise UsageError(
            f"'{name}' is a part of {len(matching)} run ids: {listed}{more}. Give a longer part."
        )
    known = sorted(run_ids)
    if len(known) > 4 * SHOWN:  # there may be thousands of runs
        where = f"{where} ({len(known)} runs)"
        known = get_close_matches(name, known, n=SHOWN, cutoff=0.3) or known[:SHOWN]
    raise UsageError(describe_unknown_name("run", name, where, known))


def started_or_submitted_runs(context: Context) -> set[str]:
    """Ids of the runs that have a run folder or were submitted to SLURM."""
    from protoseg.launch.submission import open_submissions

    runs = context.paths.runs
    submitted = {run_id for each in open_submissions(runs) for run_id in each.run_ids}
    return submitted | _run_ids(path.name for path in runs.glob("*"))


def started_or_recorded_runs(context: Context) -> set[str]:
    """Ids of the runs that have a run folder or a committed record."""
    started = {path.parent.name for path in context.paths.runs.glob("*/spec.json")}
    return started | recorded_runs(context)


def finished_runs(context: Context) -> set[str]:
    """Ids of the runs whose folder has a record."""
    return {path.parent.name for path in context.paths.runs.glob("*/record.json")}


def recorded_runs(context: Context) -> set[str]:
    """Ids of the runs that have a committed record."""
    return {path.stem for folder in context.record_folders for path in folder.glob("*.json")}


def _run_ids(names: Iterable[str]) -> set[str]:
    pattern = run_id_pattern()
    return {name for name in names if pattern.fullmatch(name)}
