"""The attempts at a run, read from its folder: when each began, and how it ended.

attempts/0001/start.json     when and where it began
              end.json       how it ended, recorded by the worker
              verdict.json   how it ended, reported by the batch job or the scheduler
              log.txt
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.runs.states import Reason

VANISHED = "the worker died without recording a reason"


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run: when and where it began, and how it ended."""

    number: int
    start: dict[str, Any]
    end: dict[str, Any] | None
    verdict: dict[str, Any] | None = None

    @property
    def ending(self) -> dict[str, Any] | None:
        """The verdict if there is one, else the end that the worker recorded.

        A "lost" verdict is ignored if the worker recorded its own end: on a network file system the
        record can appear late.
        """
        is_lost = self.verdict is not None and self.verdict.get("reason") == Reason.LOST.value
        return self.end if is_lost and self.end else self.verdict or self.end

    @property
    def reason(self) -> Reason | None:
        """Why it failed; None for a success. An attempt without an ending is lost."""
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
        """One sentence about its end."""
        if self.ending is None:
            return VANISHED
        return str(self.ending.get("message", ""))

    @property
    def job(self) -> str:
        """The scheduler's key of its job; empty without a job."""
        return str(self.start.get("job") or "")

    @property
    def restarts(self) -> int:
        """How often its job had been requeued when it began."""
        restarts = self.start.get("restarts", 0)
        return restarts if isinstance(restarts, int) else 0

    @property
    def began_at(self) -> int:
        """The iteration that it resumed from."""
        iteration = self.start.get("iteration", 0)
        return iteration if isinstance(iteration, int) else 0


def read_attempts(folder: Path) -> list[Attempt]:
    """Read all attempts in a folder, oldest first; one without a valid start is left out."""
    try:
        names = sorted((n for n in os.listdir(folder) if n.isdigit()), key=int)
    except (FileNotFoundError, NotADirectoryError):
        return []
    attempts = []
    for name in names:
        start, end, verdict = (
            files.read_json(folder / name / f"{part}.json") for part in ("start", "end", "verdict")
        )
        if isinstance(start, dict):
            attempts.append(Attempt(int(name), start, _mapping(end), _mapping(verdict)))
    return attempts


def _mapping(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None
