"""Stop requests: a signal sets a flag, which is read where a run can stop safely.

What happens on SIGTERM, SIGINT, SIGHUP or SIGUSR2 (SLURM's warning before the time limit):

1. The handler sets the flag. The preparation of a single process is cut short.
2. `TrainingLoop.run` finishes the iteration, saves a checkpoint and raises `StopRequested`;
   the evaluation raises it after a batch.
3. The worker writes the reason (`failures.classify_signal`) as the end of the attempt. It exits
   with 75 if the run may be resumed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protoseg.training.distributed.process_group import Processes

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)


class StopRequested(BaseException):
    """A signal stops the run; its state is on disk.

    Not an `Exception`, so that no library's error handler catches it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class ClaimLost(Exception):  # noqa: N818  not an error
    """Another worker took the run over while this one was frozen; this one must not write."""


class StopRequest:
    """Turns SIGTERM, SIGINT, SIGHUP and SIGUSR2 into a flag that is read between iterations."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.still_mine: Callable[[], bool] = lambda: True
        """Whether this process still holds the claim of its run; reads the claim file."""
        self.taken_over: Callable[[], bool] = lambda: False
        """Whether the heartbeat has noticed that the claim is lost; reads no file."""
        self._raises = False

    def listen(self) -> None:
        """Install the signal handlers; only possible in the main thread."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first = self.signal_number is None
        self.signal_number = number
        if self._raises and is_first:
            raise StopRequested(number)

    @contextlib.contextmanager
    def raise_immediately(self) -> Iterator[None]:
        """Within this context a signal raises `StopRequested` at once.

        For long preparations that leave nothing half done. Python discards an exception in a
        destructor, for instance; the flag is set all the same, and the next check stops the run.
        """
        if self.signal_number is not None:
            raise StopRequested(self.signal_number)
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def check_ownership(self) -> None:
        """Raise `ClaimLost` if another worker owns the run; called before each write."""
        if not self.still_mine():
            raise ClaimLost

    def raise_if_taken_over(self) -> None:
        """Raise `ClaimLost` if the heartbeat noticed a takeover.

        Called between writes, so that two workers do not train the same run for long.
        """
        if self.taken_over():
            raise ClaimLost


def raise_if_stop_requested(stop: StopRequest, processes: Processes) -> None:
    """Raise `StopRequested` in all processes if any of them received a signal."""
    signal_number = processes.agree_on_signal(stop.signal_number)
    if signal_number is not None:
        raise StopRequested(signal_number)


def accept_signals_from_parent_only(worker_id: int) -> None:
    """Ignore stop signals that the parent did not send; a loader process calls this at its start.

    A scheduler sends SIGTERM to every process of a job. If the loader processes exited, the
    training process would have no batches for its last iteration before the checkpoint.
    """
    stop_signals = set(STOP_SIGNALS)
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    parent = os.getppid()

    def wait_for_parent() -> None:
        while signal.sigwaitinfo(stop_signals).si_pid != parent:
            continue
        os._exit(0)

    threading.Thread(target=wait_for_parent, name="signals-of-parent", daemon=True).start()
