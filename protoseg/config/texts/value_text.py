"""The text of an axis value, and whether a typed text is that value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NONE = "–"
TRUTH = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
"""YAML's words for truth values."""


def format_value(value: Any) -> str:
    """Format an axis value; equal values give equal text: 1, 1.0 and "1" are the same setting."""
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


def is_value(text: str, value: Any) -> bool:
    """Whether a typed text is a value: ``5e-2`` is 0.05, and ``on`` is true."""
    if text == format_value(value):
        return True
    if isinstance(value, bool):
        return TRUTH.get(text.lower()) is value
    try:
        return isinstance(value, int | float | str) and float(text) == float(value)
    except ValueError:
        return False
