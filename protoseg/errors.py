"""Exceptions for errors that the user can fix, and the message for an unknown name.

The command line prints their message without a traceback and exits with ``exit_code``. Any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProtosegError(Exception):
    """An error that the user can fix: what is wrong and where, allowed values, what to do."""

    exit_code = 1


class UsageError(ProtosegError):
    """A matrix, override or argument with a value that is unknown or out of range."""

    exit_code = 2


class DataError(ProtosegError):
    """A data set or weights file that is missing, damaged, or not the one in the spec."""


class UnchosenError(ProtosegError):
    """A matrix whose settings are not chosen yet, so that it has no final runs."""


def find_nearest_name(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest to ``name``; None if none is similar."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return matches[0] if matches else None


def describe_unknown_name(
    noun: str, name: str, where: str, allowed: Iterable[str], *, in_order: bool = False
) -> str:
    """Make the message for an unknown name, with the closest allowed name and all of them.

    Args:
        noun: for instance ``key``.
        name: the unknown name.
        where: file, key or option that holds it.
        allowed: names.
        in_order: list them in their order; otherwise sorted.
    """
    names = list(allowed) if in_order else sorted(allowed)
    guess = find_nearest_name(name, names)
    hint = f" Did you mean '{guess}'?" if guess else ""
    return f"{where}: unknown {noun} '{name}'.{hint} Known: {join_names(names) or 'none'}."


def join_names(names: Iterable[str]) -> str:
    """Join names with commas; all are quoted if one of them has a comma or a space."""
    names = list(names)
    is_quoted = any("," in name or " " in name or not name for name in names)
    return ", ".join(f"'{name}'" if is_quoted else name for name in names)
