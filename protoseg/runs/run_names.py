"""The run that a user names by its id or by a part of it."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

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
