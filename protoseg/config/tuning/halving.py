"""Successive halving: some trials of a row end early, and only the best go on.

    halving: {rungs: [250, 500], factor: 2}

All trials of a row are trained to the first rung. The best 1 / ``factor`` of them go on to the next
one, and so on to the end of the schedule. A rung is decided when all its trials have ended, so
results do not depend on timing, unlike those of ASHA (Li et al. 2020, arXiv:1810.05934), whose
rungs these are. All rows have the same rungs, so their budgets are equal.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, describe_unknown_name

KEYS = ("rungs", "factor")


@dataclass(frozen=True)
class Halving:
    """The rungs of a search, and the share of the trials that goes on at each."""

    rungs: tuple[int, ...] = ()
    """Iterations after which trials are compared, ascending; empty if all trials train to the
    end."""
    factor: int = 2
    """One of ``factor`` trials goes on."""

    def count_kept(self, trials: int, rung: int) -> int:
        """Count the trials of a row that are trained to a rung.

        Args:
            trials: of the row.
            rung: number of the rung, from 0; ``len(rungs)`` is the end of the schedule.
        """
        return int(trials // self.factor**rung)

    def list_budget(self, trials: int, iterations: int) -> list[tuple[int, int]]:
        """List (trials, iterations that each of them ends at) of all rungs, the end included."""
        ends = (*self.rungs, iterations)
        return [(self.count_kept(trials, rung), end) for rung, end in enumerate(ends)]


def read_halving(value: Any, where: str) -> Halving:
    """Read ``tune.halving``.

    Raises:
        UsageError: an unknown key, rungs that do not ascend, or a factor below 2.
    """
    if value is None:
        return Halving()
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: expected rungs and factor, found {value!r}.")
    for key in value:
        if key not in KEYS:
            raise UsageError(describe_unknown_name("key", str(key), where, KEYS))
    rungs, factor = value.get("rungs"), value.get("factor", 2)
    if not isinstance(rungs, list) or not rungs or not all(_is_count(rung) for rung in rungs):
        raise UsageError(
            f"{where}.rungs: expected a list of iterations, found {rungs!r}. Set e.g. [250, 500]."
        )
    if any(later <= rung for rung, later in itertools.pairwise(rungs)):
        raise UsageError(f"{where}.rungs: {rungs} does not ascend. Sort the iterations.")
    if not _is_count(factor) or factor < 2:
        raise UsageError(f"{where}.factor: expected a whole number from 2, found {factor!r}.")
    return Halving(tuple(rungs), factor)


def check_halving(halving: Halving, trials: int, spec: RunSpec, where: str) -> None:
    """Check that the rungs of a row leave a trial at the end of the schedule.

    Args:
        halving: the rungs.
        trials: number of trials of the row.
        spec: the first of them.
        where: place named in error messages.

    Raises:
        UsageError: too few trials, or a rung at or after the last iteration.
    """
    needed = halving.factor ** len(halving.rungs)
    if trials < needed:
        raise UsageError(
            f"{where}: {trials} trials are too few for {len(halving.rungs)} rungs of factor "
            f"{halving.factor}: no trial would be trained to the end. Set at least {needed} "
            "trials, or fewer rungs."
        )
    if halving.rungs and halving.rungs[-1] >= spec.schedule.iterations:
        raise UsageError(
            f"{where}: the rung {halving.rungs[-1]} is not before the last of "
            f"{spec.schedule.iterations} iterations of a trial. Lower it, or raise "
            "tune.base.schedule.iterations."
        )


def end_early(spec: RunSpec, iteration: int) -> RunSpec:
    """Return a trial that ends at a rung."""
    schedule = dataclasses.replace(spec.schedule, stop_after=iteration)
    return dataclasses.replace(spec, schedule=schedule)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
