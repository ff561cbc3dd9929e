"""Whatever stops a run, put into a reason and one sentence."""

from __future__ import annotations

import contextlib
import errno
import signal
import traceback
from pathlib import Path

from protoseg import files
from protoseg.errors import DataError, ProtosegError
from protoseg.runs.states import Reason
from protoseg.slurm.environment import current_job, why_stopped
from protoseg.training.signals import ClaimLost

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS)
"""What a file system says when it is full or away; the run is not to blame."""


def reason_of(error: Exception) -> tuple[Reason, str]:
    """Why a run failed; called where the error is handled, for its traceback goes to the log."""
    match error:
        case ClaimLost():
            return Reason.LOST, "another worker took the run over; this one wrote no more"
        case files.StorageError():
            return Reason.STORAGE, str(error)
        case DataError():
            return Reason.BAD_DATA, _sentence(error)
        case ProtosegError() if not is_broken_connection(error):
            if error.__cause__ is not None:
                with contextlib.suppress(OSError):
                    traceback.print_exc()
            return Reason.BAD_CONFIG, str(error)
    from protoseg.training.determinism import refusal

    refused = refusal(error)
    if refused is not None:
        return Reason.BAD_CONFIG, refused
    # The reason must be written down whatever it is, also where the log can not be.
    with contextlib.suppress(OSError):
        traceback.print_exc()
    first = (str(error).strip().splitlines() or [""])[0]
    message = f"{type(error).__name__}: {first}"
    if is_broken_connection(error):
        return Reason.LOST, f"another process of the run is gone ({message})"
    if is_lost_loader(error):
        return Reason.LOST, f"a loader process is gone: killed, or out of memory ({message})"
    if _is_out_of_memory(error):
        return Reason.OUT_OF_MEMORY, message
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        return Reason.STORAGE, message
    return Reason.CODE_ERROR, message


def stop_reason(number: int, saved: int) -> tuple[Reason, str]:
    """Why a signal asked to stop; inside a job the scheduler is asked, for it knows.

    Args:
        saved: iteration of the newest checkpoint, 0 without one.
    """
    state = f"saved at iteration {saved}" if saved else "nothing was trained yet"
    if current_job() is not None and number != signal.SIGINT:
        reason, message = why_stopped(number)
        return reason, f"{message}; {state}"
    return Reason.CANCELLED, f"{signal.Signals(number).name}; {state}"


def is_broken_connection(error: Exception) -> bool:
    """Whether an error says no more than that another process of the run is gone."""
    from torch.distributed import DistError

    from protoseg.training.distributed.rendezvous import RendezvousError

    if isinstance(error, RendezvousError | DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def is_lost_loader(error: Exception) -> bool:
    """Whether a loader process died without a word of its own; what it raises comes through."""
    if isinstance(error, ConnectionError | EOFError | FileNotFoundError):
        # It was killed while it handed over a batch, or the batch died with it.
        last = traceback.extract_tb(error.__traceback__)[-1:]
        return bool(last) and Path(last[0].filename).parent.name == "multiprocessing"
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
        return True
    # The news comes by a signal, also in the middle of a checkpoint: what torch then says of the
    # file that it could not finish hides it.
    return isinstance(error.__context__, Exception) and is_lost_loader(error.__context__)


def _sentence(error: DataError) -> str:
    """Its message; torch puts a whole traceback around one from a loader process."""
    text = str(error)
    return text.rpartition("DataError: ")[2].strip() if text.startswith("Caught ") else text


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "CUDA out of memory" in text
    )
