"""The command line: `protoseg VERB` is ``commands/VERB.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        from protoseg.cli.command_line import main

        return main(arguments)
    except KeyboardInterrupt:  # during the imports, before a verb runs
        print("protoseg: interrupted; nothing was started.", file=sys.stderr)
        return 1
