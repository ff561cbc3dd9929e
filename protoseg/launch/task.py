"""``python -m protoseg.launch.task SUBMISSION``: the program of a task of a job array.

It finds its run in the submission, starts the worker (one process per GPU) with srun, and waits for
its end. If the run ended for a temporary reason, its job is requeued. The state of a run is on
disk: if this process dies with its node, SLURM or the next ``sweep`` starts the run again.

Exit status: that of the worker (0 done or nothing to do, 1 failed, 75 interrupted), or 74 if the
run folder could not be written.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

from protoseg import files
from protoseg.errors import ProtosegError
from protoseg.launch.diagnosis import (
    attempt_evidence,
    record_earlier_ends,
    record_failed_start,
)
from protoseg.launch.submission import Submission, read_submission
from protoseg.runs import claim, retry
from protoseg.runs.attempts import Attempt
from protoseg.runs.end_reasons import diagnose
from protoseg.runs.evidence import Evidence
from protoseg.runs.folder import RunFolder, now
from protoseg.runs.states import NOT_WRITTEN, State
from protoseg.slurm.client import SlurmClient
from protoseg.slurm.environment import (
    CurrentJob,
    current_job,
    explain_signal,
    find_signal_evidence,
)

OK, FAILED = 0, 1

NODE_FAILURE = re.compile(rb"srun: error: Node failure on ")
OUT_OF_MEMORY = re.compile(rb"oom[-_ ]kill|exceeded (job |step )?memory limit|Out Of Memory")
"""SLURM's message in the output of a step that it killed for its memory."""


def main(arguments: list[str] | None = None) -> int:
    """Run the task of the current array element, and return the exit status."""
    paths = sys.argv[1:] if arguments is None else arguments
    current = current_job()
    if len(paths) != 1 or current is None:
        print("usage, inside a job: python -m protoseg.launch.task SUBMISSION", file=sys.stderr)
        return 2
    signals = _Signals()
    try:
        submission = read_submission(Path(paths[0]))
        if submission is None:
            raise ProtosegError(f"{paths[0]}: is not a submission folder. Run the sweep again.")
        return _run_task(submission, current, signals)
    except ProtosegError as error:
        _print_line(str(error))
        return NOT_WRITTEN if isinstance(error, files.StorageError) else FAILED


def _print_line(text: str) -> None:
    """Print a line; a full disk for the logs must not end the task."""
    with contextlib.suppress(OSError):
        os.write(1, f"{now()}  {text}\n".encode())


class _Signals:
    """Keeps the last stop signal; the steps get it too, and the task waits for their ends."""

    def __init__(self) -> None:
        self.number: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number


def _run_task(submission: Submission, current: CurrentJob, signals: _Signals) -> int:
    array, _, index = current.key.partition("_")
    if submission.is_withdrawn:
        _print_line(f"{submission.name}: withdrawn; nothing to do.")
        return OK
    # The sweep may have died before it could record the job number.
    submission.note_job(array)
    task = int(index)
    run_id = submission.run_ids[task]
    folder = RunFolder(submission.runs_folder / run_id)
    folder.create(submission.spec(task), submission.intent["launch"])
    _print_line(f"job {current.key} on {current.node}, start {current.restarts}: {run_id}")
    _record_earlier_starts(folder, current)
    status = folder.status()
    was_tried = any(attempt.job == current.key for attempt in folder.attempts())
    retry_failed = bool(submission.intent.get("retry_failed")) and not was_tried
    has_ended = status.state in (State.DONE, State.FAILED)
    if has_ended and not retry.is_due(status.state, status.reason, retry_failed):
        _print_line(f"already {status.state.value}: {status.message or 'has its record'}")
        return OK
    code, output = _run_worker(submission, folder)
    return _finish_task(submission, folder, current, code, output, signals)


def _record_earlier_starts(folder: RunFolder, current: CurrentJob) -> None:
    """Record the ends of attempts of this job's starts before, if their workers did not."""
    earlier = [
        attempt
        for attempt in folder.attempts()
        if attempt.job == current.key and attempt.restarts < current.restarts
    ]
    if all(attempt.ending is not None for attempt in earlier):
        return
    if claim.live_holder(folder.claim) is not None:
        return  # SLURM set its node down, but its worker still runs; the new worker waits for it
    with contextlib.suppress(ProtosegError):
        record_earlier_ends(folder, earlier, SlurmClient().list_starts(current.key))


def _run_worker(submission: Submission, folder: RunFolder) -> tuple[int, bytes]:
    """Run the worker to its end, and return its exit status and the last output of srun."""
    intent = submission.intent
    command = [
        "srun",
        f"--nodes={intent['nodes']}",
        f"--ntasks={intent['processes']}",
        f"--cpus-per-task={intent['cpus']}",
        "--kill-on-bad-exit=1",
        "--unbuffered",
        # A fixed name in sacct, independent of runs and matrices.
        "--job-name=worker",
        *(sys.executable, "-m", "protoseg.training.worker"),
        str(folder.path),
        str(submission.folder / "launch.json"),
    ]
    tail = bytearray()
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ProtosegError(f"srun: cannot be started: {error.strerror}.") from error

    def copy_output() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with contextlib.suppress(OSError):  # disk full: srun must not block on its output
                os.write(2, line)
            tail.extend(line)
            del tail[:-16384]

    reader = threading.Thread(target=copy_output, daemon=True)
    reader.start()
    code = process.wait()
    reader.join(timeout=10)
    return code, bytes(tail)


def _finish_task(
    submission: Submission,
    folder: RunFolder,
    current: CurrentJob,
    code: int,
    output: bytes,
    signals: _Signals,
) -> int:
    """Record the reason that the worker could not, and requeue the job if the run may continue."""
    _wait_for_worker(folder, current)
    _record_earlier_starts(folder, current)  # a live worker may have kept them open at the start
    attempts = [
        attempt
        for attempt in folder.attempts()
        if attempt.job == current.key and attempt.restarts == current.restarts
    ]
    last = attempts[-1] if attempts else None
    is_done = folder.status().state is State.DONE
    if last is None and (is_done or code == OK):
        return OK
    evidence = _find_evidence(folder, last, code, output, signals, current)
    if last is None:
        record_failed_start(folder, current.key, evidence, "batch script", current.restarts)
    elif last.verdict is None:
        reason, message = diagnose(evidence)
        if last.end is None or (evidence.own_reason and reason is not evidence.own_reason):
            folder.record_verdict(last.number, reason, message, "batch script")
    if is_done:
        return OK
    status = folder.status()
    _print_line(f"{status.state.value}: {status.reason}: {status.message}")
    continues = retry.is_automatic(status.state, status.reason)
    if continues and signals.number is not None:
        # The job itself is being ended, maybe for another reason than its worker. A requeue would
        # restart a cancelled job.
        continues = retry.requeues_ending_job(explain_signal(signals.number)[0])
    if continues and submission.intent["requeue"] and not submission.is_withdrawn:
        try:
            SlurmClient().requeue(current.key)
            _print_line("requeued")
        except ProtosegError as error:  # the next sweep submits it
            _print_line(f"not requeued: {error}")
    return code if code in (FAILED, 75) else FAILED


def _wait_for_worker(folder: RunFolder, current: CurrentJob) -> None:
    """Wait for the worker if srun ended first: SLURM set the node down, but both still run."""
    while True:
        holder = claim.live_holder(folder.claim)
        if holder is None or holder.job != current.key or holder.host != claim.host_identity():
            return
        time.sleep(1)


def _find_last_message(output: bytes) -> str:
    """Return the last line of the output, without srun's messages about ending the step."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    noise = ("srun: launch/", "srun: Job step aborted", "srun: got ", "srun: forcing", "slurmstepd")
    messages = [line for line in lines if line and not line.startswith(noise)]
    from_worker = [line for line in messages if not line.startswith("srun:")]
    return (from_worker or messages or [""])[-1][-300:]


def _find_evidence(
    folder: RunFolder,
    last: Attempt | None,
    code: int,
    output: bytes,
    signals: _Signals,
    current: CurrentJob,
) -> Evidence:
    """Return what this task has seen of the end of its worker."""
    number = signals.number or 0
    if code in (128 + signal.SIGUSR2, -signal.SIGUSR2):
        number = signal.SIGUSR2  # the warning came before the worker's signal handler
    facts = attempt_evidence(folder, last) if last is not None else {}
    is_open = (last is None or last.end is None) and not facts.get("has_record")
    evidence = find_signal_evidence(number) if number and is_open else Evidence()
    facts["node"] = current.node
    return replace(
        evidence,
        **facts,
        has_begun=last is not None,
        reports_out_of_memory=OUT_OF_MEMORY.search(output) is not None,
        reports_node_failure=NODE_FAILURE.search(output) is not None,
        exit_status=code,
        last_output=_find_last_message(output),
    )


if __name__ == "__main__":
    sys.exit(main())
