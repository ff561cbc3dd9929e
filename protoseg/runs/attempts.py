"""The attempts at a run: each try's beginning, end, and what was found out about it later.

attempts/0001/start.json     when and where it began
              end.json       how it ended, in the worker's own words
              verdict.json   how it ended, by the word of others (its batch job, the scheduler)
              log.txt
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.runs.states import PASSING, Reason


@dataclass(frozen=True)
class Attempt:
    """One try at a run: when and where it began, and how it ended."""

    number: int
    start: dict[str, Any]
    end: dict[str, Any] | None
    verdict: dict[str, Any] | None = None

    @property
    def ending(self) -> dict[str, Any] | None:
        """The verdict where there is one, else the worker's own words.

        That it was lost is no news beside its own words: they only were not seen in time, on a
        network file system.
        """
        lost = self.verdict is not None and self.verdict.get("reason") == Reason.LOST.value
        return self.end if lost and self.end else self.verdict or self.end

    @property
    def reason(self) -> Reason | None:
        """Why it failed; None for a success. Without an ending the worker vanished: lost."""
        if self.ending is None:
            return Reason.LOST
        if not self.ending.get("reason"):
            return None
        try:
            return Reason(self.ending["reason"])
        except ValueError:  # written by a newer version, or by hand
            return Reason.CODE_ERROR

    @property
    def message(self) -> str:
        """The one sentence about its end."""
        if self.ending is None:
            return "the worker vanished without a word"
        return str(self.ending.get("message", ""))

    @property
    def job(self) -> str:
        """The scheduler's key of its job, empty where there was none."""
        return str(self.start.get("job") or "")

    @property
    def restarts(self) -> int:
        """How often its job had been requeued before."""
        restarts = self.start.get("restarts", 0)
        return restarts if isinstance(restarts, int) else 0

    @property
    def began_at(self) -> int:
        """The iteration it went on from."""
        iteration = self.start.get("iteration", 0)
        return iteration if isinstance(iteration, int) else 0


def read_attempts(folder: Path) -> list[Attempt]:
    """All attempts below an attempts folder, oldest first."""
    try:
        names = sorted((n for n in os.listdir(folder) if n.isdigit()), key=int)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for name in names:
        start, end, verdict = (
            files.read_json(folder / name / f"{part}.json") for part in ("start", "end", "verdict")
        )
        if isinstance(start, dict):
            found.append(Attempt(int(name), start, _mapping(end), _mapping(verdict)))
    return found


def _mapping(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def failures_in_a_row(attempts: Sequence[Attempt], checkpoint_iteration: int) -> int:
    """How many attempts at the end share one reason.

    Where the reason lies outside the run, those that got further than they began do not count,
    and neither does what was before them.

    Args:
        checkpoint_iteration: of the newest checkpoint; how far the last attempt got.
    """
    reached = checkpoint_iteration
    count = 0
    for attempt in reversed(attempts):
        reason = attempt.reason
        if reason is not attempts[-1].reason:
            break
        if reason in PASSING and reached > attempt.began_at:
            break
        count += 1
        reached = attempt.began_at
    return count
