"""The one exception whose message is meant for a person at a terminal.

The command line prints it as it is, without a traceback, and exits with ``exit_code``. Everything
else that escapes is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProtosegError(Exception):
    """Something the user can put right: what, where, the allowed values, and what to do next."""

    exit_code = 1


class UsageError(ProtosegError):
    """A matrix, override or argument that names something unknown or out of range."""

    exit_code = 2


class DataError(ProtosegError):
    """A data set or weights file that is missing, damaged, or not the one the spec names."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to ``name``, or None where nothing comes near it."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(
    kind: str, name: str, where: str, known: Iterable[str], *, in_order: bool = False
) -> str:
    """The sentence for an unknown name: what it is, where it stands, and what is allowed.

    Args:
        in_order: the order of the known ones means something; otherwise they are sorted.
    """
    names = list(known) if in_order else sorted(known)
    guess = nearest(name, names)
    hint = f" Did you mean '{guess}'?" if guess else ""
    return f"{where}: unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}."
