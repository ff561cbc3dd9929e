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


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to ``name``; None if no name is similar."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(
    kind: str, name: str, where: str, known: Iterable[str], *, in_order: bool = False
) -> str:
    """Make the message for an unknown name: where it is, the closest known one, all known ones.

    Args:
        kind: what the name is of, for instance ``key``.
        name: the unknown name.
        where: file, key or option that holds it.
        known: allowed names.
        in_order: list the known names in their order; otherwise sorted.
    """
    names = list(known) if in_order else sorted(known)
    guess = nearest(name, names)
    hint = f" Did you mean '{guess}'?" if guess else ""
    return f"{where}: unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}."
