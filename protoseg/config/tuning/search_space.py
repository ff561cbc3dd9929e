"""The values that a search may give to a key of a matrix: ``tune.search`` and ``tune.rows``.

schedule.learning_rate: {log_uniform: [3e-4, 1e-2]}    # up to three digits
schedule.head_lr_mult: [1, 3, 10]                      # one of these values
method.num_prototypes: {int: [1, 20]}                  # both ends included
method.momentum: {uniform: [0.9, 1]}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protoseg.errors import UsageError, describe_unknown_name

DIGITS = 3
"""Significant digits of a drawn number, so that run ids do not depend on the last bits of it."""
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
RANGES = ("uniform", "log_uniform", "int")


@dataclass(frozen=True)
class Choice:
    """One of several values, each with the same probability."""

    values: tuple[Any, ...]

    def pick(self, share: float) -> Any:
        """Return the value at a share of the list, 0 ≤ share < 1."""
        return self.values[int(share * len(self.values))]

    def is_at_edge(self, value: Any) -> bool:
        """Whether a value is the smallest or the largest of at least three numbers."""
        if len(self.values) < 3 or not all(_is_number(v) for v in self.values):
            return False
        return value in (min(self.values), max(self.values))

    def describe(self) -> str:
        """Return the values as text."""
        return ", ".join(str(value) for value in self.values)

    def list_ends(self) -> tuple[Any, ...]:
        """Return all values, each of which a run must accept."""
        return self.values


@dataclass(frozen=True)
class Range:
    """Numbers between two ends."""

    low: float
    high: float
    scale: str
    """One of `RANGES`."""

    def pick(self, share: float) -> float | int:
        """Return the number at a share of the range, 0 ≤ share < 1, with `DIGITS` digits."""
        if self.scale == "int":
            return int(self.low) + int(share * (self.high - self.low + 1))
        if self.scale == "log_uniform":
            low, high = math.log(self.low), math.log(self.high)
            number = math.exp(low + share * (high - low))
        else:
            number = self.low + share * (self.high - self.low)
        return min(max(_round(number), self.low), self.high)

    def is_at_edge(self, value: float) -> bool:
        """Whether a value is in the outer tenth of the range, on its scale."""
        low, high = self.low, self.high
        if self.scale == "log_uniform":
            low, high, value = math.log(low), math.log(high), math.log(value)
        if self.scale == "int":
            return value in (low, high)
        return not low + 0.1 * (high - low) <= value <= high - 0.1 * (high - low)

    def describe(self) -> str:
        """Return the range as text."""
        names = {"uniform": "", "log_uniform": ", logarithmic", "int": ", whole numbers"}
        return f"{self.low:g} to {self.high:g}{names[self.scale]}"

    def list_ends(self) -> tuple[Any, ...]:
        """Return the smallest and the largest value."""
        return self.pick(0.0), self.pick(math.nextafter(1.0, 0.0))


Space = Choice | Range


def read_space(value: Any, where: str) -> Space:
    """Read the space of one key.

    Args:
        value: a list of values, or a mapping with one of `RANGES` and its two ends.
        where: place named in error messages.

    Raises:
        UsageError: an empty list or range, a value twice, an inverted range, or ends that the
            scale does not allow.
    """
    if isinstance(value, list):
        if not value:
            raise UsageError(f"{where}: the list is empty. Give at least two values.")
        if len(value) == 1:
            raise UsageError(
                f"{where}: {value} has one value, so nothing is searched. Give at least two "
                "values, or set it in base."
            )
        values = tuple(map(_read_number, value))
        if len(set(map(repr, values))) < len(values):
            raise UsageError(f"{where}: {value} has a value twice. Remove one.")
        return Choice(values)
    if not isinstance(value, Mapping) or len(value) != 1:
        raise UsageError(
            f"{where}: expected a list of values, or one of {', '.join(RANGES)} with its two ends, "
            f"e.g. {{log_uniform: [1e-4, 1e-2]}}; found {value!r}."
        )
    ((scale, ends),) = value.items()
    if scale not in RANGES:
        raise UsageError(describe_unknown_name("range", str(scale), where, RANGES))
    if not isinstance(ends, list) or len(ends) != 2:
        raise UsageError(f"{where}.{scale}: expected two ends, [low, high], found {ends!r}.")
    low, high = (_read_end(end, f"{where}.{scale}") for end in ends)
    if not low < high:
        raise UsageError(
            f"{where}.{scale}: [{low:g}, {high:g}] is empty. Put the smaller number first."
        )
    if scale == "log_uniform" and low <= 0:
        raise UsageError(f"{where}.{scale}: {low:g} has no logarithm. Use ends above 0.")
    if scale == "int" and not (low.is_integer() and high.is_integer()):
        raise UsageError(f"{where}.{scale}: [{low:g}, {high:g}] are no whole numbers.")
    if scale != "int" and _round(low) == _round(high):
        raise UsageError(
            f"{where}.{scale}: [{low:g}, {high:g}] has one value of {DIGITS} digits. Use a wider "
            "range."
        )
    return Range(low, high, str(scale))


def _read_end(end: Any, where: str) -> float:
    # YAML 1.1 reads `1e-3` as a text.
    try:
        number = float(end)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(end, bool) or not math.isfinite(number):
        raise UsageError(f"{where}: expected a number, found {end!r}.")
    return number


def _read_number(value: Any) -> Any:
    # YAML 1.1 reads `1e-3` as a text, and a choice compares its values.
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def _round(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
