"""The command line: `protoseg VERB` is ``commands/VERB.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        from protoseg.cli.command_line import main

        return main(arguments)
    except (KeyboardInterrupt, RuntimeError) as error:
        if not is_interrupt(error):
            raise
        # During the imports, before a verb runs.
        print("protoseg: interrupted; nothing was started.", file=sys.stderr)
        return 1


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception is a KeyboardInterrupt, or is raised in place of one.

    Python 3.11 raises RuntimeError in place of an exception in ``__set_name__``, which each field
    of a dataclass calls.
    """
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
