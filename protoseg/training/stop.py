"""Asking a run to stop: signals become a flag that is read where stopping is safe."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class Stopped(Exception):  # noqa: N818  not an error
    """A signal asked the run to stop; its state is on disk."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class ClaimLost(Exception):  # noqa: N818  not an error
    """Another worker took the run over while this one was frozen; it must write no more."""


class StopRequest:
    """Turns SIGTERM, SIGINT, SIGHUP and SIGUSR2 into a flag, read between iterations."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.still_mine: Callable[[], bool] = lambda: True
        """Whether this process still holds the claim of its run."""

    def listen(self) -> None:
        """Install the handlers; only the main thread may."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number

    def check(self) -> None:
        """Raise `Stopped` if a signal came."""
        if self.signal_number is not None:
            raise Stopped(self.signal_number)

    def confirm(self) -> None:
        """Raise `ClaimLost` if the run is another worker's by now; asked before each write."""
        if not self.still_mine():
            raise ClaimLost
