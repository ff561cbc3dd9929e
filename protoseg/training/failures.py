"""The reason why a run stopped, and one sentence about it: from an exception or a signal."""

from __future__ import annotations

import contextlib
import errno
import signal
import traceback
from pathlib import Path

from protoseg import files
from protoseg.errors import DataError, ProtosegError
from protoseg.runs.end_reasons import diagnose
from protoseg.runs.evidence import Evidence
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason
from protoseg.slurm.environment import current_job, explain_signal
from protoseg.training.signals import ClaimLost

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS)
"""Errors of a file system that is full or unavailable."""


def classify_error(error: Exception) -> tuple[Reason, str]:
    """The reason and one sentence for an exception that ended a run.

    Call this where the exception is handled: it prints the traceback to the log.
    """
    match error:
        case ClaimLost():
            return Reason.LOST, "another worker took the run over; this worker stopped writing"
        case files.StorageError():
            return Reason.STORAGE, str(error)
        case DataError():
            return Reason.BAD_DATA, _data_error_message(error)
        case ProtosegError() if not is_broken_connection(error):
            if error.__cause__ is not None:
                with contextlib.suppress(OSError):
                    traceback.print_exc()
            return Reason.BAD_CONFIG, str(error)
    from protoseg.training.machine.determinism import describe_refusal

    refusal = describe_refusal(error)
    if refusal is not None:
        return Reason.BAD_CONFIG, refusal
    from protoseg.training.layer_errors import describe_shape_error

    shape_error = describe_shape_error(error)
    if shape_error is not None:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return Reason.BAD_CONFIG, shape_error
    # The reason must reach end.json even where the log cannot be written.
    with contextlib.suppress(OSError):
        traceback.print_exc()
    first_line = (str(error).strip().splitlines() or [""])[0]
    message = f"{type(error).__name__}: {first_line}"
    if is_broken_connection(error):
        return Reason.LOST, f"the connection to another process of the run broke ({message})"
    if is_lost_loader(error):
        return Reason.LOST, f"a loader process was killed or ran out of memory ({message})"
    if is_out_of_memory(error):
        return Reason.OUT_OF_MEMORY, message
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        return Reason.STORAGE, message
    return Reason.CODE_ERROR, message


def classify_signal(number: int, saved: int) -> tuple[Reason, str]:
    """The reason and one sentence for a signal; within a SLURM job, SLURM gives the reason.

    Args:
        saved: iteration of the newest checkpoint, 0 without one.
    """
    progress = f"saved at iteration {saved}" if saved else "nothing was trained yet"
    if current_job() is not None and number != signal.SIGINT:
        reason, message = explain_signal(number)
        return reason, f"{message}; {progress}"
    # Not the name of the signal: one Ctrl-C may reach the runs of a sweep as different signals.
    return Reason.CANCELLED, f"stopped on request; {progress}"


def record_lost_attempts(folder: RunFolder) -> None:
    """Record the ends of attempts outside SLURM whose workers could not; needs the claim.

    SLURM may still report why the others ended.
    """
    for attempt in folder.attempts():
        if attempt.ending is None and not attempt.job:
            with contextlib.suppress(ProtosegError):  # a full disk: the next worker tries again
                folder.record_verdict(attempt.number, *diagnose(Evidence()), "worker")


def is_broken_connection(error: Exception) -> bool:
    """Whether an error only shows that another process of the run has ended."""
    from torch.distributed import DistError

    from protoseg.training.distributed.rendezvous import RendezvousError

    if isinstance(error, RendezvousError | DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def is_lost_loader(error: Exception) -> bool:
    """Whether a loader process was killed; an exception raised in one is passed on as it is."""
    if isinstance(error, ConnectionError | EOFError | FileNotFoundError):
        # The loader was killed while it sent a batch, or before the batch was read.
        last_frame = traceback.extract_tb(error.__traceback__)[-1:]
        return bool(last_frame) and Path(last_frame[0].filename).parent.name == "multiprocessing"
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
        return True
    # torch reports a lost loader from a signal handler, possibly during a checkpoint. Its error
    # about the unfinished file then hides the first error.
    return isinstance(error.__context__, Exception) and is_lost_loader(error.__context__)


def _data_error_message(error: DataError) -> str:
    """The message without the traceback that torch adds to an error from a loader process."""
    text = str(error)
    return text.rpartition("DataError: ")[2].strip() if text.startswith("Caught ") else text


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception means that Python, torch, CUDA or OpenCV could not allocate memory."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "CUDA out of memory" in text
        or ":Insufficient memory)" in text  # of OpenCV
    )
