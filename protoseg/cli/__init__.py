"""The command line: `protoseg VERB` is ``commands/VERB.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from protoseg.cli.interrupts import is_interrupt


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
