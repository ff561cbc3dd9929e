"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread is. In a destructor or a callback it is
printed and ignored. The handler here also remembers it, so that a long command can check.
"""

from __future__ import annotations

import signal
from types import FrameType


class InterruptHandler:
    """Raises KeyboardInterrupt at SIGINT, and remembers the signal."""

    def __init__(self) -> None:
        self.was_interrupted = False

    def install(self) -> None:
        """Handle SIGINT, unless the process ignores it (as background jobs of a script do)."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.was_interrupted = True
        raise KeyboardInterrupt

    def raise_if_interrupted(self) -> None:
        """Raise KeyboardInterrupt if an earlier one got lost."""
        if self.was_interrupted:
            raise KeyboardInterrupt


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception is a KeyboardInterrupt, or is raised in place of one.

    Python 3.11 raises RuntimeError in place of an exception in ``__set_name__``, which each field
    of a dataclass calls.
    """
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)


INTERRUPTS = InterruptHandler()
"""The handler of this process."""
