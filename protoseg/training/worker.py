"""``python -m protoseg.training.worker RUN_DIR [LAUNCH_FILE]``: one attempt at a run.

The worker reads from the run folder whether to start the run, resume it, or exit. It exits if the
run has a record or a live worker holds its claim. It writes the end of the attempt and the reason
to the run folder, unless it is killed or the machine fails.

srun may start several processes together. Rank 0 then decides for all and holds the claim; each
other rank follows it and has a separate log.

Exit status: 0 done or nothing to do, 1 failed, 75 interrupted and resumable, 74 the run folder
could not be written. Other ranks exit with 0, or with 1 if they lost the connection to rank 0.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg import files
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs import claim
from protoseg.runs.folder import Launch, RunFolder, now
from protoseg.runs.states import NOT_WRITTEN, Reason, State
from protoseg.slurm.environment import current_job, is_job_active
from protoseg.training import failures
from protoseg.training.distributed.rank import rank_from_slurm
from protoseg.training.machine.network import turn_network_off
from protoseg.training.reporting.run_log import RunLog
from protoseg.training.signals import StopRequest, StopRequested
from protoseg.training.worker_log import print_log, redirect_output

if TYPE_CHECKING:
    from protoseg.training.distributed.process_group import Processes

DONE, FAILED, INTERRUPTED = 0, 1, 75

CLAIM_SECONDS = claim.STALE_SECONDS + 4 * claim.HEARTBEAT_SECONDS
"""How long a requeued job waits for the claim of its previous start to expire."""
ORDER_SECONDS = CLAIM_SECONDS + 300.0
"""How long the other ranks wait for the decision of rank 0."""


def main(arguments: list[str] | None = None, stop: StopRequest | None = None) -> int:
    """Run the worker on the folder named in the arguments; returns the exit status.

    Args:
        arguments: command-line arguments without the program name.
        stop: a stop request that already listens to signals.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) not in (1, 2):
        print("usage: python -m protoseg.training.worker RUN_DIR [LAUNCH_FILE]", file=sys.stderr)
        return 2
    if stop is None:
        stop = StopRequest()
        stop.listen()
    folder = RunFolder(Path(arguments[0]).resolve())
    launch_file = Path(arguments[1]) if arguments[1:] else folder.launch
    launch = files.read_json(launch_file)
    if not isinstance(launch, dict):
        print(f"{launch_file}: missing or incomplete; run the sweep again.", file=sys.stderr)
        return FAILED
    try:
        rank_info = rank_from_slurm()
        if rank_info.size == 1:
            return _lead_run(folder, launch, stop)
        # torch reads the number of threads when it is imported.
        _limit_threads(launch)
        from protoseg.training.distributed.process_group import Processes

        return _run_rank(folder, launch, stop, Processes(rank_info, folder.path))
    except ProtosegError as error:  # the attempt could not be written to the run folder
        print_log(str(error))
        return NOT_WRITTEN if isinstance(error, files.StorageError) else FAILED


def _run_rank(
    folder: RunFolder, launch: dict[str, Any], stop: StopRequest, processes: Processes
) -> int:
    """Run one of several processes, and end the process."""
    status = FAILED
    try:
        run = _follow_run if processes.rank else _lead_run
        status = run(folder, launch, stop, processes)
    except ProtosegError as error:
        print_log(str(error))
        status = NOT_WRITTEN if isinstance(error, files.StorageError) else FAILED
    finally:
        processes.leave()
    # Skip the interpreter's shutdown: torch's threads still run there while connections to ended
    # processes break, and a crash would count as a failure of the whole job step.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _lead_run(
    folder: RunFolder, launch: dict[str, Any], stop: StopRequest, processes: Processes | None = None
) -> int:
    """Start or resume the run, unless it is done or claimed; returns the exit status."""
    spec = folder.read_spec()
    if spec is None:
        print(f"{folder.spec}: missing or incomplete; run the sweep again.", file=sys.stderr)
        return FAILED
    if folder.status().state is State.DONE:
        print(f"{folder.run_id}: already done.")
        return DONE
    own_claim = _acquire_claim(folder, stop)
    if own_claim is None:
        if stop.signal_number is not None:
            return INTERRUPTED
        print(f"{folder.run_id}: another worker holds its claim.")
        return DONE
    try:
        # Another worker may have finished the run before this one acquired the claim.
        if folder.record.exists():
            return DONE
        stop.still_mine, stop.taken_over = own_claim.is_mine, own_claim.taken_over
        folder.clear_remains()
        failures.record_lost_attempts(folder)
        return _run_attempt(folder, spec, launch, stop, processes, own_claim)
    finally:
        own_claim.release()


def _acquire_claim(folder: RunFolder, stop: StopRequest) -> claim.Claim | None:
    """Acquire the claim of a run; None if a live worker holds it.

    A requeued job may find the claim of its previous start on another node. That process has
    ended, but its heartbeat only expires after `CLAIM_SECONDS`; the job waits for this.
    """
    job = current_job()
    key = job.key if job else ""
    end = time.monotonic() + CLAIM_SECONDS
    while True:
        acquired = claim.acquire(
            folder.claim, job=key, job_is_active=is_job_active if job else None
        )
        holder = claim.live_holder(folder.claim) if acquired is None else None
        is_same_job = holder is not None and key != "" and holder.job == key
        if acquired or not is_same_job or stop.signal_number or time.monotonic() > end:
            return acquired
        time.sleep(1)


def _run_attempt(
    folder: RunFolder,
    spec: dict[str, Any],
    launch: dict[str, Any],
    stop: StopRequest,
    processes: Processes | None,
    own_claim: claim.Claim,
) -> int:
    """Open an attempt, train, and write how the attempt ended; returns the exit status."""
    _limit_threads(launch)
    job = current_job()
    start = {
        "time": now(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": job.key if job else "",
        "restarts": job.restarts if job else 0,
        "node": job.node if job else "",
        "processes": processes.size if processes else 1,
        "iteration": folder.checkpoint_iteration(),
    }
    attempt = folder.start_attempt(start)
    redirect_output(attempt / "log.txt")

    def write_end(reason: Reason | None, message: str) -> int:
        print_log(f"{now()}  end: {reason.value if reason else 'done'}. {message}")
        ending = {"time": now(), "reason": reason and reason.value, "message": message}
        try:
            files.create_json(attempt / "end.json", ending)
        except ProtosegError as error:  # the exit status reports that the disk could not be written
            print_log(str(error))
            return NOT_WRITTEN if reason else DONE
        if reason is None:
            return DONE
        # The folder's status is `running` while this process holds the claim.
        return INTERRUPTED if folder.may_go_on(reason) else FAILED

    def exit_after_failure(reason: Reason, message: str) -> None:
        status = write_end(reason, message)
        own_claim.release()
        os._exit(status)

    if processes:
        processes.publish("attempt", attempt.name)
        processes.watch_failures(exit_after_failure)
    run_log = RunLog(launch.get("loggers") or (), folder, attempt)
    reason, message = _train_run(folder, spec, launch, stop, processes, run_log)
    if reason is Reason.LOST and processes:
        # This process only saw a broken connection; the other process may have reported why.
        reason, message = processes.read_failure() or (reason, message)
    status = write_end(reason, message)
    run_log.finish(reason.value if reason else "done")
    return status


def _follow_run(
    folder: RunFolder, launch: dict[str, Any], stop: StopRequest, processes: Processes
) -> int:
    """Train together with rank 0, if it starts an attempt; returns the exit status."""
    name = processes.wait_for("attempt", ORDER_SECONDS)
    if name is None:
        return DONE
    try:
        redirect_output(folder.attempts_folder / name / f"log.rank{processes.rank}.txt")
        reason, message = _train_run(folder, folder.read_spec() or {}, launch, stop, processes)
    except files.StorageError as error:
        reason, message = Reason.STORAGE, str(error)
    print_log(f"{now()}  end: {reason.value if reason else 'done'}. {message}")
    if reason is Reason.LOST:
        return FAILED
    if reason is not None:
        processes.report_failure(reason, message)
    return DONE


def _train_run(
    folder: RunFolder,
    data: dict[str, Any],
    launch: dict[str, Any],
    stop: StopRequest,
    processes: Processes | None = None,
    run_log: RunLog | None = None,
) -> tuple[Reason | None, str]:
    """Train the run; returns why it stopped (None: its record is written) and one sentence.

    Args:
        data: the content of the spec file.
    """
    turn_network_off()  # before the imports: libraries read their switches then
    try:
        from protoseg.config.identity import read_spec, run_id
        from protoseg.config.schema import METHOD_VERSION
        from protoseg.training.machine import determinism
        from protoseg.training.run import execute_run

        spec = read_spec(data, str(folder.spec))
        if run_id(spec) != folder.run_id:
            raise UsageError(
                f"{folder.spec}: the spec of {run_id(spec)}, not of this folder. It was edited, "
                "or written by another version of protoseg. Run the sweep again."
            )
        if spec.method_version != METHOD_VERSION:
            raise UsageError(
                f"{folder.spec}: planned for method version {spec.method_version}; this "
                f"protoseg trains version {METHOD_VERSION}. Plan the run again, or check out the "
                "version of protoseg that planned it."
            )
        determinism.apply_level(spec.determinism)  # before `join`, which initialises CUDA
        if processes:
            processes.join()
        execute_run(spec, folder, Launch(**launch), stop, processes, run_log)
    except StopRequested as stopped:
        print_log(f"{now()}  received {signal.Signals(stopped.signal_number).name}")
        if processes and processes.rank > 0:
            return None, "stopped together with rank 0"
        return failures.classify_signal(stopped.signal_number, folder.checkpoint_iteration())
    except Exception as error:
        return failures.classify_error(error)
    return None, "record written"


def _limit_threads(launch: dict[str, Any]) -> None:
    """Set the number of CPU threads for the libraries that are imported later."""
    threads = int(launch.get("threads", 0))
    if threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)


if __name__ == "__main__":
    sys.exit(main())
