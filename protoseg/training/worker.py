"""``python -m protoseg.training.worker RUN_DIR [LAUNCH_FILE]``: the job payload is a path.

Whoever starts it, it decides from the run folder whether to begin, to go on, or to leave: a run
that has its record, or that a live worker holds, is left alone. However the attempt ends, short of
the machine's death, its end and reason are on disk.

Of several processes that srun starts together the first one decides for all, and holds the claim;
the others follow it, with a log of their own.

Exit status: 0 done or nothing to do, 1 failed, 75 interrupted and worth resuming, 74 if the run
folder could not be written. Those that follow end with 0 unless they lost the first one.
"""

from __future__ import annotations

import contextlib
import os
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
from protoseg.training.signals import StopRequest, StopRequested

if TYPE_CHECKING:
    from protoseg.training.distributed.process_group import Processes

DONE, FAILED, INTERRUPTED = 0, 1, 75

CLAIM_SECONDS = claim.STALE_SECONDS + 4 * claim.HEARTBEAT_SECONDS
"""How long a requeued job waits for the claim of what it was before."""
ORDER_SECONDS = CLAIM_SECONDS + 300.0
"""How long those that follow wait for the first process to decide."""


def main(arguments: list[str] | None = None, stop: StopRequest | None = None) -> int:
    """Run the worker on the folder named in the arguments.

    Args:
        arguments: of the command line, without the name of the program.
        stop: one that listens to signals already.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) not in (1, 2):
        print("usage: python -m protoseg.training.worker RUN_DIR [LAUNCH_FILE]", file=sys.stderr)
        return 2
    if stop is None:
        stop = StopRequest()
        stop.listen()
    folder = RunFolder(Path(given[0]).resolve())
    launch_file = Path(given[1]) if given[1:] else folder.launch
    launch = files.read_json(launch_file)
    if not isinstance(launch, dict):
        print(f"{launch_file}: missing or torn; run the sweep again.", file=sys.stderr)
        return FAILED
    try:
        place = rank_from_slurm()
        if place.size == 1:
            return _lead(folder, launch, stop)
        # torch is imported after the number of threads is set.
        _limit_threads(launch)
        from protoseg.training.distributed.process_group import Processes

        return _one_of_several(folder, launch, stop, Processes(place, folder.path))
    except ProtosegError as error:  # not even the attempt could be written down
        _say(str(error))
        return NOT_WRITTEN if isinstance(error, files.StorageError) else FAILED


def _one_of_several(
    folder: RunFolder, launch: dict[str, Any], stop: StopRequest, processes: Processes
) -> int:
    """Lead or follow; ends this process."""
    status = FAILED
    try:
        work = _follow if processes.rank else _lead
        status = work(folder, launch, stop, processes)
    except ProtosegError as error:
        _say(str(error))
        status = NOT_WRITTEN if isinstance(error, files.StorageError) else FAILED
    finally:
        processes.leave()
    # Not by way of the interpreter's end, where torch's threads still run while the connections of
    # those that are gone break: a crash there would be taken for a failure of the whole step.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _lead(
    folder: RunFolder, launch: dict[str, Any], stop: StopRequest, processes: Processes | None = None
) -> int:
    """Decide what to do with the run, and do it."""
    spec = folder.read_spec()
    if spec is None:
        print(f"{folder.spec}: missing or torn; run the sweep again.", file=sys.stderr)
        return FAILED
    if folder.status().state is State.DONE:
        print(f"{folder.run_id}: done already.")
        return DONE
    held = _claim(folder, stop)
    if held is None:
        if stop.signal_number is not None:
            return INTERRUPTED
        print(f"{folder.run_id}: another worker has it.")
        return DONE
    try:
        # Between the first look and the claim another worker may have finished.
        if folder.record.exists():
            return DONE
        stop.still_mine, stop.taken_over = held.is_mine, held.taken_over
        folder.clear_remains()
        return _attempt(folder, spec, launch, stop, processes, held)
    finally:
        held.release()


def _claim(folder: RunFolder, stop: StopRequest) -> claim.Claim | None:
    """The claim, or None where a live worker holds it.

    A job that was requeued may find the claim of its earlier life, on a node that is out of sight:
    it can not be alive, but it takes a while until that shows.
    """
    job = current_job()
    key = job.key if job else ""
    end = time.monotonic() + CLAIM_SECONDS
    while True:
        held = claim.acquire(folder.claim, job=key, job_is_active=is_job_active if job else None)
        holder = claim.live_holder(folder.claim) if held is None else None
        of_this_job = holder is not None and key != "" and holder.job == key
        if held or not of_this_job or stop.signal_number or time.monotonic() > end:
            return held
        time.sleep(1)


def _attempt(
    folder: RunFolder,
    spec: dict[str, Any],
    launch: dict[str, Any],
    stop: StopRequest,
    processes: Processes | None,
    held: claim.Claim,
) -> int:
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
    _redirect_output(attempt / "log.txt")

    def end(reason: Reason | None, message: str) -> int:
        _say(f"{now()}  end: {reason.value if reason else 'done'}. {message}")
        ending = {"time": now(), "reason": reason and reason.value, "message": message}
        try:
            files.create_json(attempt / "end.json", ending)
        except ProtosegError as error:  # the exit status says it where the disk can not
            _say(str(error))
            return NOT_WRITTEN if reason else DONE
        if reason is None:
            return DONE
        # Not from the folder's status: as long as this process holds the claim, it is `running`.
        return INTERRUPTED if folder.may_go_on(reason) else FAILED

    def give_up(reason: Reason, message: str) -> None:
        status = end(reason, message)
        held.release()
        os._exit(status)

    if processes:
        processes.publish("attempt", attempt.name)
        processes.watch(give_up)
    reason, message = _train(folder, spec, launch, stop, processes)
    if reason is Reason.LOST and processes:
        # That the connection broke is what this process saw; the other one may know why.
        reason, message = processes.failure() or (reason, message)
    return end(reason, message)


def _follow(
    folder: RunFolder, launch: dict[str, Any], stop: StopRequest, processes: Processes
) -> int:
    """Train with the first process, if it says so; it also does the writing."""
    name = processes.wait_for("attempt", ORDER_SECONDS)
    if name is None:
        return DONE
    try:
        _redirect_output(folder.attempts_folder / name / f"log.rank{processes.rank}.txt")
        reason, message = _train(folder, folder.read_spec() or {}, launch, stop, processes)
    except files.StorageError as error:
        reason, message = Reason.STORAGE, str(error)
    _say(f"{now()}  end: {reason.value if reason else 'done'}. {message}")
    if reason is Reason.LOST:
        return FAILED
    if reason is not None:
        processes.report(reason, message)
    return DONE


def _train(
    folder: RunFolder,
    data: dict[str, Any],
    launch: dict[str, Any],
    stop: StopRequest,
    processes: Processes | None = None,
) -> tuple[Reason | None, str]:
    """Train, and put whatever stops it into a reason and one sentence."""
    try:
        from protoseg.config.identity import run_id, spec_from_dict
        from protoseg.config.schema import METHOD_VERSION
        from protoseg.training import determinism
        from protoseg.training.run import execute

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
        determinism.apply(spec.determinism)  # before `join`, which starts CUDA
        if processes:
            processes.join()
        execute(spec, folder, Launch(**launch), stop, processes)
    except StopRequested as stopped:
        if processes and processes.rank > 0:
            return None, "stopped with the first process"
        return failures.stop_reason(stopped.signal_number, folder.checkpoint_iteration())
    except Exception as error:
        return failures.reason_of(error)
    return None, "record written"


def _limit_threads(launch: dict[str, Any]) -> None:
    threads = int(launch.get("threads", 0))
    if threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)


def _say(text: str) -> None:
    """Print to the log. On a full disk the rest of what is buffered goes nowhere: it must neither
    hide the reason of the end nor change the exit status."""
    try:
        print(text, flush=True)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.close(descriptor)


def _redirect_output(log: Path) -> None:
    """Send everything this process prints, and its children, to the log of the attempt."""
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise files.storage_error(error, log) from error
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
