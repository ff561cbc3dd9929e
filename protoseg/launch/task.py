"""``python -m protoseg.launch.task SUBMISSION``: what a task of a job array does.

It finds its run in the submission, starts the worker (one process a GPU) through srun, and stays
until it ends. A run that was cut off for a reason that passes goes back into the queue; whoever
submitted it need not be there. All that counts is on disk: if this process dies with its node,
SLURM or the next ``sweep`` starts the run again.

Exit status: that of the worker (0 done or nothing to do, 1 failed, 75 cut off), or 74 where the run
folder could not be written.
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
from pathlib import Path
from types import FrameType

from protoseg import files
from protoseg.errors import ProtosegError
from protoseg.launch.diagnosis import record_earlier_end, record_failed_start
from protoseg.launch.submission import Submission, read_submission
from protoseg.runs import claim, retry
from protoseg.runs.folder import RunFolder, now
from protoseg.runs.states import NOT_WRITTEN, Reason, State
from protoseg.slurm.client import SlurmClient
from protoseg.slurm.environment import CurrentJob, current_job, why_stopped

OK, FAILED = 0, 1

UNTOLD = (Reason.LOST, Reason.CODE_ERROR)
"""What a worker says whose other processes were killed."""
NODE_FAILURE = re.compile(rb"srun: error: Node failure on ")
OUT_OF_MEMORY = re.compile(rb"oom[-_ ]kill|exceeded (job |step )?memory limit|Out Of Memory")
"""How SLURM tells in a step's output that it killed a step for its memory."""


def main(arguments: list[str] | None = None) -> int:
    """Do the task of this array element."""
    given = sys.argv[1:] if arguments is None else arguments
    here = current_job()
    if len(given) != 1 or here is None:
        print("usage, inside a job: python -m protoseg.launch.task SUBMISSION", file=sys.stderr)
        return 2
    stopped = _Signals()
    try:
        submission = read_submission(Path(given[0]))
        if submission is None:
            raise ProtosegError(f"{given[0]}: holds no submission.")
        return _run(submission, here, stopped)
    except ProtosegError as error:
        _say(str(error))
        return NOT_WRITTEN if isinstance(error, files.StorageError) else FAILED


def _say(text: str) -> None:
    """Print a line; where the disk with the logs is full, the work is not to end for that."""
    with contextlib.suppress(OSError):
        os.write(1, f"{now()}  {text}\n".encode())


class _Signals:
    """Notes SIGTERM and the like: the steps get them too, and their ends are waited for."""

    def __init__(self) -> None:
        self.number: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number


def _run(submission: Submission, here: CurrentJob, stopped: _Signals) -> int:
    array, _, index = here.key.partition("_")
    if submission.withdrawn:
        _say(f"{submission.name}: withdrawn; nothing to do.")
        return OK
    # The submitter may have died before it could write this down.
    submission.note_job(array)
    task = int(index)
    run_id = submission.run_ids[task]
    folder = RunFolder(submission.runs_folder / run_id)
    folder.create(submission.spec(task), submission.intent["launch"])
    _say(f"job {here.key} on {here.node}, start {here.restarts}: {run_id}")
    _judge_earlier(folder, here)
    status = folder.status()
    tried = any(attempt.job == here.key for attempt in folder.attempts())
    retry_failed = bool(submission.intent.get("retry_failed")) and not tried
    has_ended = status.state in (State.DONE, State.FAILED)
    if has_ended and not retry.is_due(status.state, status.reason, retry_failed):
        _say(f"{status.state.value} already: {status.message or 'has its record'}")
        return OK
    code, words = _work(submission, folder)
    return _afterwards(submission, folder, here, code, words, stopped)


def _judge_earlier(folder: RunFolder, here: CurrentJob) -> None:
    """Write down how the start before this one ended, if its worker could not."""
    attempts = folder.attempts()
    if not attempts or attempts[-1].ending is not None or attempts[-1].job != here.key:
        return
    if claim.live_holder(folder.claim) is not None:
        return  # a node that the scheduler gave up lives on; the worker waits for it
    with contextlib.suppress(ProtosegError):
        record_earlier_end(folder, attempts[-1], SlurmClient().starts(here.key))


def _work(submission: Submission, folder: RunFolder) -> tuple[int, bytes]:
    """Run the worker to its end: its exit status, and what srun said last."""
    intent = submission.intent
    command = [
        "srun",
        f"--nodes={intent['nodes']}",
        f"--ntasks={intent['processes']}",
        f"--cpus-per-task={intent['cpus']}",
        "--kill-on-bad-exit=1",
        "--unbuffered",
        # A name of ours in sacct, and none that a run or a matrix could choose.
        "--job-name=worker",
        *(sys.executable, "-m", "protoseg.training.worker"),
        str(folder.path),
        str(submission.folder / "launch.json"),
    ]
    tail = bytearray()
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ProtosegError(f"srun: can not be started: {error.strerror}.") from error

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with contextlib.suppress(OSError):  # no room for logs; srun must not wait for a reader
                os.write(2, line)
            tail.extend(line)
            del tail[:-16384]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    code = process.wait()
    reader.join(timeout=10)
    return code, bytes(tail)


def _afterwards(
    submission: Submission,
    folder: RunFolder,
    here: CurrentJob,
    code: int,
    words: bytes,
    stopped: _Signals,
) -> int:
    """Write down what the worker could not, and put the run back into the queue if it may go on."""
    _outlive(folder, here)
    attempts = [a for a in folder.attempts() if a.job == here.key]
    last = attempts[-1] if attempts else None
    mine = last is not None and last.restarts == here.restarts
    if folder.status().state is State.DONE or (code == OK and not mine):
        return OK
    silent = mine and last is not None and last.ending is None
    # A process that the kernel killed leaves its siblings with a broken pipe to complain of.
    out_of_memory = OUT_OF_MEMORY.search(words) is not None and last is not None and mine
    if last is not None and (silent or (out_of_memory and last.reason in UNTOLD)):
        reason, message = _death(code, words, stopped, here)
        folder.record_verdict(last.number, reason, message, "batch script")
    elif not mine:
        reason, message = _death(code, words, stopped, here)
        if reason is Reason.LOST:
            message = _last_words(words) or message
        record_failed_start(
            folder, here.key, here.node, reason, message, "batch script", here.restarts
        )
    status = folder.status()
    _say(f"{status.state.value}: {status.reason}: {status.message}")
    goes_on = retry.is_automatic(status.state, status.reason)
    if goes_on and stopped.number is not None:
        # The job itself is being ended, perhaps for another reason than its worker was: asked to
        # requeue, SLURM brings a cancelled job back to life.
        goes_on = retry.requeues_ending_job(why_stopped(stopped.number)[0])
    if goes_on and submission.intent["requeue"] and not submission.withdrawn:
        try:
            SlurmClient().requeue(here.key)
            _say("back into the queue")
        except ProtosegError as error:  # the next sweep submits it
            _say(f"not requeued: {error}")
    return code if code in (FAILED, 75) else FAILED


def _outlive(folder: RunFolder, here: CurrentJob) -> None:
    """Wait for the worker where srun went before it: SLURM gave the node up, and both live on."""
    while True:
        holder = claim.live_holder(folder.claim)
        if holder is None or holder.job != here.key or holder.host != claim.host_identity():
            return
        time.sleep(1)


def _last_words(words: bytes) -> str:
    """The last line that srun passed on; its own talk about ending the step says nothing new."""
    lines = [line.strip() for line in words.decode(errors="replace").splitlines()]
    own = ("srun: launch/", "srun: Job step aborted", "srun: got ", "srun: forcing", "slurmstepd")
    telling = [line for line in lines if line and not line.startswith(own)]
    foreign = [line for line in telling if not line.startswith("srun:")]
    return (foreign or telling or [""])[-1][-300:]


def _death(code: int, words: bytes, stopped: _Signals, here: CurrentJob) -> tuple[Reason, str]:
    """Why a worker ended without a word."""
    if OUT_OF_MEMORY.search(words):
        return Reason.OUT_OF_MEMORY, "SLURM killed the worker for its memory"
    if NODE_FAILURE.search(words):
        return Reason.NODE_FAILURE, f"SLURM gave up the node {here.node}"
    if code == NOT_WRITTEN:
        return Reason.STORAGE, "the run folder could not be written"
    if stopped.number is not None:
        return why_stopped(stopped.number)
    number = code - 128 if code > 128 else -code if code < 0 else 0
    if number == signal.SIGUSR2:  # the warning came before the worker could listen
        return why_stopped(number)
    if number:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return Reason.LOST, f"the worker was killed ({name})"
    return Reason.LOST, f"the worker vanished without a word (srun ended with {code})"


if __name__ == "__main__":
    sys.exit(main())
