"""Asking a run to stop: signals become a flag that is read where stopping is safe."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequested(BaseException):
    """A signal asked the run to stop; its state is on disk.

    Not an `Exception`: no handler of errors, in whatever library, takes it for one.
    """

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
        self.taken_over: Callable[[], bool] = lambda: False
        """Whether somebody noticed meanwhile that it does not; costs nothing to ask."""
        self._raises = False

    def listen(self) -> None:
        """Install the handlers; only the main thread may."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_first = self.signal_number is None
        self.signal_number = number
        if self._raises and is_first:
            raise StopRequested(number)

    @contextlib.contextmanager
    def immediately(self) -> Iterator[None]:
        """Inside, a signal raises `StopRequested` wherever the code is.

        For long preparations that leave nothing half done. Where it gets lost, in a destructor for
        instance, the flag is set all the same and the next check stops.
        """
        if self.signal_number is not None:
            raise StopRequested(self.signal_number)
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def check_ownership(self) -> None:
        """Raise `ClaimLost` if the run is another worker's by now; asked before each write."""
        if not self.still_mine():
            raise ClaimLost

    def raise_if_taken_over(self) -> None:
        """Raise `ClaimLost` if it was noticed; between writes, for two must not train for long."""
        if self.taken_over():
            raise ClaimLost


def keep_loading(worker_id: int) -> None:
    """Leave the end of a loader process to its parent; called in it as it starts.

    A scheduler sends SIGTERM to every process of a job. Loader processes that obeyed would take
    away the batches of a training that still has to save.
    """
    stops = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    parent = os.getppid()

    def obey_parent() -> None:
        while signal.sigwaitinfo(stops).si_pid != parent:
            continue
        os._exit(0)

    threading.Thread(target=obey_parent, name="keep-loading", daemon=True).start()
