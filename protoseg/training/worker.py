"""``python -m protoseg.training.worker RUN_DIR``: the job payload is a path.

Whoever starts it, it decides from the run folder whether to begin, to go on, or to leave: a run
that has its record, or that a live worker holds, is left alone. However the attempt ends, short of
the machine's death, its end and reason are on disk.

Exit status: 0 done or nothing to do, 1 failed, 75 interrupted and worth resuming.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from protoseg.errors import DataError, ProtosegError, UsageError
from protoseg.runs import atomic, claim
from protoseg.runs.folder import Launch, RunFolder, now
from protoseg.runs.states import Reason, State
from protoseg.training.stop import ClaimLost, Stopped, StopRequest

DONE, FAILED, INTERRUPTED = 0, 1, 75

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS)
"""What a file system says when it is full or away; the run is not to blame."""


def main(arguments: list[str] | None = None) -> int:
    """Run the worker on the folder named in the arguments."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print("usage: python -m protoseg.training.worker RUN_DIR", file=sys.stderr)
        return 2
    stop = StopRequest()
    stop.listen()
    folder = RunFolder(Path(given[0]).resolve())
    spec = folder.read_spec()
    if spec is None:
        print(f"{folder.spec}: missing or torn; run the sweep again.", file=sys.stderr)
        return FAILED
    if folder.status().state is State.DONE:
        print(f"{folder.run_id}: done already.")
        return DONE
    try:
        held = claim.acquire(folder.claim, job=os.environ.get("SLURM_JOB_ID", ""))
    except ProtosegError as error:
        print(error, file=sys.stderr)
        return FAILED
    if held is None:
        print(f"{folder.run_id}: another worker has it.")
        return DONE
    try:
        # Between the first look and the claim another worker may have finished.
        if folder.record.exists():
            return DONE
        stop.still_mine = held.is_mine
        folder.clear_remains()
        return _attempt(folder, spec, stop)
    except ProtosegError as error:  # not even the attempt could be written down
        print(error, file=sys.stderr)
        return FAILED
    finally:
        held.release()


def _attempt(folder: RunFolder, spec: dict[str, Any], stop: StopRequest) -> int:
    launch = atomic.read_json(folder.launch) or {}
    _limit_threads(int(launch.get("threads", 0)))
    start = {
        "time": now(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "iteration": folder.checkpoint_iteration(),
    }
    attempt = folder.start_attempt(start)
    _redirect_output(attempt / "log.txt")
    reason, message = _train(folder, spec, launch, stop)
    end = {"time": now(), "reason": reason and reason.value, "message": message}
    print(f"{now()}  end: {reason.value if reason else 'done'}. {message}", flush=True)
    try:
        atomic.create_json(attempt / "end.json", end)
    except ProtosegError as error:  # the disk is full: the next sweep finds this attempt lost
        print(error, flush=True)
    if reason is None:
        return DONE
    # Not from the folder's status, which is `running` as long as this process holds the claim.
    return INTERRUPTED if folder.may_go_on(reason) else FAILED


def _train(
    folder: RunFolder, data: dict[str, Any], launch: dict[str, Any], stop: StopRequest
) -> tuple[Reason | None, str]:
    """Train, and put whatever stops it into a reason and one sentence."""
    try:
        # torch and mmseg are imported here, after the number of threads is set.
        from protoseg.spec.identity import run_id, spec_from_dict
        from protoseg.spec.schema import METHOD_VERSION
        from protoseg.training.run import execute

        try:
            spec = spec_from_dict(data, str(folder.spec))
            if run_id(spec) != folder.run_id:
                raise UsageError(
                    f"{folder.spec}: is the spec of {run_id(spec)}, not of this folder; it was "
                    "edited, or written by another version of protoseg."
                )
            if spec.method_version != METHOD_VERSION:
                raise UsageError(
                    f"{folder.spec}: planned for method version {spec.method_version}, this "
                    f"protoseg trains version {METHOD_VERSION}. Plan it anew, or check out the "
                    "version that planned it."
                )
            execute(spec, folder, Launch(**launch), stop)
        except Stopped as stopped:
            return _stop_reason(stopped.signal_number)
        except ClaimLost:
            return Reason.LOST, "another worker took the run over; this one wrote no more"
    except atomic.StorageError as error:
        return Reason.STORAGE, str(error)
    except DataError as error:
        return Reason.BAD_DATA, _sentence(error)
    except ProtosegError as error:
        if error.__cause__ is not None:
            traceback.print_exc()
        return Reason.BAD_CONFIG, str(error)
    except Exception as error:  # the reason must be written down whatever it is
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        message = f"{type(error).__name__}: {first}"
        if _is_out_of_memory(error):
            return Reason.OUT_OF_MEMORY, message
        if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            return Reason.STORAGE, message
        return Reason.CODE_ERROR, message
    return None, "record written"


def _sentence(error: DataError) -> str:
    """Its message; torch puts a whole traceback around one from a loader process."""
    text = str(error)
    return text.rpartition("DataError: ")[2].strip() if text.startswith("Caught ") else text


def _stop_reason(number: int) -> tuple[Reason, str]:
    name = signal.Signals(number).name
    if os.environ.get("SLURM_JOB_ID") and number != signal.SIGINT:
        return Reason.PREEMPTED, f"{name} from the scheduler; saved"
    return Reason.CANCELLED, f"{name}; saved"


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "CUDA out of memory" in text
    )


def _limit_threads(threads: int) -> None:
    if threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)


def _redirect_output(log: Path) -> None:
    """Send everything this process prints, and its children, to the log of the attempt."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
