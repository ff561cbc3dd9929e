"""Formats numbers, names and run states as text, for all formats of a table."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from protoseg.config.texts.value_text import NONE as NONE
from protoseg.config.texts.value_text import format_value as format_value
from protoseg.runs.states import State
from protoseg.runs.store import LookupResult

MINUS = "−"
NOT_RUN = "not run"
TICK = "✓"


def clean_text(text: str) -> str:
    """Return text as one line without control characters, for terminals and table rows."""
    spaced = " ".join(str(text).split())
    return "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def name_axis(axis: str, names: Mapping[str, str]) -> str:
    """Return the display name of an axis, or else the last part of its key."""
    default = "Configuration" if axis == "label" else axis.rpartition(".")[2].rpartition("/")[2]
    return clean_text(names.get(axis, default))


def name_value(axis: str, value: Any, names: Mapping[str, str]) -> str:
    """Return the display name of ``axis=value``, else that of ``value``, else the value."""
    text = format_value(value)
    return clean_text(names.get(f"{axis}={text}", names.get(text, text)))


def name_group(axis: str, value: Any, names: Mapping[str, str]) -> str:
    """Return the name of a column group: `name_value`, or "axis = value" without a name."""
    shown, text = name_value(axis, value, names), clean_text(format_value(value))
    return shown if shown != text or axis == "label" else f"{name_axis(axis, names)} = {shown}"


def format_number(value: float, decimals: int) -> str:
    """Format a number with fixed decimals and a typographic minus; never "-0.00"."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite and cannot be shown in a table")
    shown = f"{value:.{decimals}f}"
    if float(shown) == 0:
        shown = shown.lstrip("-")
    return shown.replace("-", MINUS)


def format_difference(value: float, decimals: int) -> str:
    """Format a difference with its sign; without a sign if it rounds to zero."""
    shown = format_number(value, decimals)
    return shown if shown.startswith(MINUS) or float(shown) == 0 else f"+{shown}"


def format_arrow(value: float, decimals: int) -> str:
    """Format a difference as the paper does: an arrow and the absolute value, or only 0."""
    shown = format_number(abs(value), decimals)
    if float(shown) == 0:
        return shown
    return f"{'↑' if value > 0 else '↓'}{shown}"


def format_millions(count: float) -> str:
    """Format a count in millions, for example "24.70", "0.00005" for 50 and "12,345.7"."""
    scaled = count / 1e6
    if count == 0:
        return "0"
    if scaled >= 10_000:
        return f"{scaled:,.1f}"
    if scaled >= 0.005:
        return format_number(scaled, 2)
    rounded = float(f"{scaled:.0e}")  # to one digit, shown without an exponent
    return f"{rounded:.{-math.floor(math.log10(rounded))}f}"


def format_p(p: float | None) -> str:
    """Format a p value with three decimals, below 0.001 as "< 0.001"; `NONE` without a value."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def describe_state(result: LookupResult) -> str:
    """Describe the state of a run without a result."""
    if result.damaged:
        return "damaged record"
    status = result.status
    if status.state is State.NEW:
        return NOT_RUN
    if status.state in (State.FAILED, State.INTERRUPTED) and status.reason is not None:
        return f"{status.state}: {status.reason}"
    return str(status.state)


def summarise_states(states: Iterable[str]) -> str:
    """Summarise the states of several runs: the common state, or each with its count."""
    counts = Counter(states)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def format_seeds(count: int) -> str:
    """Format a number of seeds: ``1 seed``, ``3 seeds``."""
    return f"{count} seed" if count == 1 else f"{count} seeds"
