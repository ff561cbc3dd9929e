"""The command line: `protoseg VERB` is ``commands/VERB.py``."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    from protoseg.cli.command_line import main

    return main(arguments)
