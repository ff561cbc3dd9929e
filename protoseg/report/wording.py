"""How numbers, names and states are put in words: the one place, for every form of a table."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from protoseg.runs.states import State
from protoseg.runs.store import LookupResult

NONE = "–"
MINUS = "−"
NOT_RUN = "not run"
TICK = "✓"


def clean_text(text: str) -> str:
    """One line without control characters: a label is put on terminals and in table rows."""
    spaced = " ".join(str(text).split())
    return "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def format_value(value: Any) -> str:
    """The text of an axis value, equal for equal values: 1, 1.0 and "1" are the same setting."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(format_value(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {format_value(v)}" for k, v in value.items()) + "}"
    return str(value)


def name_axis(axis: str, names: Mapping[str, str]) -> str:
    """Display name of an axis; without one, the last part of its key."""
    default = "Configuration" if axis == "label" else axis.rpartition(".")[2].rpartition("/")[2]
    return clean_text(names.get(axis, default))


def name_value(axis: str, value: Any, names: Mapping[str, str]) -> str:
    """Display name of a value: that of ``axis=value``, else of ``value``, else its text."""
    text = format_value(value)
    return clean_text(names.get(f"{axis}={text}", names.get(text, text)))


def name_group(axis: str, value: Any, names: Mapping[str, str]) -> str:
    """Display name of a column: like `name_value`, with the axis where the value has no name."""
    shown, text = name_value(axis, value, names), clean_text(format_value(value))
    return shown if shown != text or axis == "label" else f"{name_axis(axis, names)} = {shown}"


def format_number(value: float, decimals: int) -> str:
    """A number with fixed decimals and a typographic minus; never "-0.00"."""
    if not math.isfinite(value):
        raise ValueError(f"a table never shows {value}")
    shown = f"{value:.{decimals}f}"
    if float(shown) == 0:
        shown = shown.lstrip("-")
    return shown.replace("-", MINUS)


def format_difference(value: float, decimals: int) -> str:
    """A difference: always with its sign, but for one that rounds to zero."""
    shown = format_number(value, decimals)
    return shown if shown.startswith(MINUS) or float(shown) == 0 else f"+{shown}"


def format_arrow(value: float, decimals: int) -> str:
    """A difference as the paper prints it: an arrow and how much, or 0 alone."""
    shown = format_number(abs(value), decimals)
    if float(shown) == 0:
        return shown
    return f"{'↑' if value > 0 else '↓'}{shown}"


def format_millions(count: float) -> str:
    """A count of numbers in millions, two decimals; a count that is not zero never reads "0.00"."""
    scaled = count / 1e6
    if count == 0:
        return "0"
    return format_number(scaled, 2) if scaled >= 0.005 else f"{scaled:.1g}"


def describe_state(found: LookupResult) -> str:
    """One run without a result, in words."""
    if found.damaged:
        return "damaged record"
    status = found.status
    if status.state is State.NEW:
        return NOT_RUN
    if status.state in (State.FAILED, State.INTERRUPTED) and status.reason is not None:
        return f"{status.state}: {status.reason}"
    return str(status.state)


def summarise_states(words: Iterable[str]) -> str:
    """Several runs without a result: their common word, or each with its count."""
    counts = Counter(words)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {word}" for word, count in counts.most_common())


def format_seeds(count: int) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count} seed" if count == 1 else f"{count} seeds"
