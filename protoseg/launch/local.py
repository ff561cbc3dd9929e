"""Local sweeps: trains the runs of a plan on this machine, several at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg import files
from protoseg.config.fields import to_plain
from protoseg.errors import ProtosegError, UsageError
from protoseg.launch.diagnosis import attempt_evidence
from protoseg.launch.worker_processes import WorkerProcess, WorkerProcesses
from protoseg.planning.plan import PlanEntry
from protoseg.runs import claim, retry
from protoseg.runs.attempts import Attempt
from protoseg.runs.end_reasons import diagnose
from protoseg.runs.evidence import Evidence
from protoseg.runs.folder import Launch, RunFolder, Status
from protoseg.runs.states import State

POLL_SECONDS = 0.1


@dataclass
class Active:
    """A run that trains: its folder, its worker and its GPU."""

    folder: RunFolder
    worker: WorkerProcess
    gpu: int | None
    attempts_before: int
    forwarded_signal: int | None = None
    """The last signal that was sent to its worker."""


Event = Callable[[str, RunFolder, Status], None]
"""Called with (``started`` | ``ended``, folder, status); a retried run starts and ends again."""


class LocalSweep:
    """Trains the runs of a plan on this machine.

    Args:
        runs_folder: parent of the run folders.
        launch: settings of every worker.
        jobs: number of runs at once.
        gpus: indices of the GPUs to use; empty for the CPU.
        on_event: called when a run starts or ends.
    """

    def __init__(
        self,
        runs_folder: Path,
        launch: Launch,
        jobs: int,
        gpus: Sequence[int] = (),
        on_event: Event | None = None,
    ) -> None:
        self.runs_folder = runs_folder
        self.launch = launch
        self.jobs = jobs
        self.free_gpus = list(gpus)
        self.on_event: Event = on_event or (lambda event, folder, status: None)
        self.active: list[Active] = []
        self.stop_signal: int | None = None
        """The signal that stops the sweep; SIGKILL after the second request."""
        # A folder that no other sweep uses, also on other machines.
        self._logs = runs_folder / ".workers" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self._workers = WorkerProcesses(self._logs, launch.threads)

    @property
    def is_importing(self) -> bool:
        """Whether the first workers wait for the imports of the fork server."""
        return self._workers.is_importing

    def prepare(self, entries: Sequence[PlanEntry]) -> list[RunFolder]:
        """Create the run folders before any run starts; folders that fail are reported."""
        launch = vars(self.launch)
        folders = []
        files.make_folder(self.runs_folder)
        for entry in entries:
            folder = RunFolder(self.runs_folder / entry.run.run_id)
            try:
                folder.create(to_plain(entry.run.spec, identity=True), launch)
            except (OSError, ProtosegError) as error:
                self._report_refusal(folder, error)  # the other runs are not affected
            else:
                folders.append(folder)
        return folders

    def run(self, folders: Sequence[RunFolder], each_poll: Callable[[], None]) -> None:
        """Train until every run has ended, or until all workers have exited after `stop`.

        Args:
            folders: the runs to train.
            each_poll: called after every poll of the workers.
        """
        waiting = list(folders)
        try:
            while self.active or (waiting and self.stop_signal is None):
                while waiting and len(self.active) < self.jobs and self.stop_signal is None:
                    folder = waiting.pop(0)
                    try:
                        self._start(folder)
                    except (OSError, ProtosegError) as error:
                        # Other runs continue; a full disk may have space again later.
                        self._report_refusal(folder, error)
                waiting += self._collect_ended()
                each_poll()
                time.sleep(POLL_SECONDS)
        except BaseException:
            # After any error (e.g. a closed pipe), workers must not run unattended.
            self.on_event = lambda event, folder, status: None
            if self.stop_signal is None:
                self.stop(signal.SIGTERM)
            while self.active:
                self._collect_ended()
                time.sleep(POLL_SECONDS)
            raise
        finally:
            self._workers.close()
            if not self.active:
                shutil.rmtree(self._logs, ignore_errors=True)

    def stop(self, signal_number: int) -> None:
        """Start no more runs and forward the signal: the workers save and exit.

        A second call kills them, and the work since their last checkpoints is lost. Can be called
        in a signal handler.
        """
        self.stop_signal = signal_number if self.stop_signal is None else signal.SIGKILL

    def _start(self, folder: RunFolder) -> None:
        files.make_folder(self._logs)
        gpu = self.free_gpus[0] if self.free_gpus else None
        environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
        before = len(folder.attempts())
        log = self._logs / f"{folder.run_id}.{before + 1}.txt"
        worker = self._workers.start(folder.path, log, environment)
        if gpu is not None:
            self.free_gpus.remove(gpu)
        self.active.append(Active(folder, worker, gpu, before))
        self.on_event("started", folder, folder.status())

    def _report_refusal(self, folder: RunFolder, error: Exception) -> None:
        if isinstance(error, OSError):
            error = files.storage_error(error, folder.path)
        self.on_event("ended", folder, Status(State.FAILED, message=str(error)))

    def _collect_ended(self) -> list[RunFolder]:
        """Forward a signal, report exited workers, and return the runs to start again."""
        if self.stop_signal is not None:
            self._forward_signal(self.stop_signal)
        self._workers.update()
        ended = [active for active in self.active if active.worker.has_exited]
        self.active = [active for active in self.active if not active.worker.has_exited]
        return [active.folder for active in ended if self._report_end(active)]

    def _forward_signal(self, number: int) -> None:
        self._workers.cancel_imports()
        for active in self.active:
            # Once for each worker: its signal handlers exist from the start.
            if active.worker.pid is not None and active.forwarded_signal != number:
                active.worker.send_signal(number)
                active.forwarded_signal = number

    def _report_end(self, active: Active) -> bool:
        """Report the end of a worker, and return whether its run starts again."""
        if active.gpu is not None:
            self.free_gpus.append(active.gpu)
        folder = active.folder
        attempts = folder.attempts()
        was_attempted = len(attempts) > active.attempts_before
        if was_attempted and attempts[-1].ending is None and not claim.live_holder(folder.claim):
            self._record_end(active, attempts[-1])
        status = folder.status()
        if not was_attempted and status.state in (State.NEW, State.INTERRUPTED):
            if self.stop_signal is not None:
                return False
            # It ended before its attempt began: only its output explains why.
            message = (
                files.read_last_line(active.worker.log)
                or "the worker ended before it wrote anything"
            )
            status = Status(State.FAILED, message=message, attempts=status.attempts)
        self.on_event("ended", folder, status)
        restarts = was_attempted and retry.is_automatic(status.state, status.reason)
        return restarts and self.stop_signal is None

    def _record_end(self, active: Active, attempt: Attempt) -> None:
        """Record the end of an attempt whose worker could not."""
        folder = active.folder
        evidence = Evidence(
            **attempt_evidence(folder, attempt),
            was_stopped_twice=active.forwarded_signal == signal.SIGKILL,
        )
        reason, message = diagnose(evidence)
        if evidence.was_stopped_twice:
            saved = folder.checkpoint_iteration()
            message += f"; saved at iteration {saved}" if saved else "; nothing was saved"
        with contextlib.suppress(ProtosegError):  # a full disk must not end the sweep
            folder.record_verdict(attempt.number, reason, message, "sweep")


def list_local_gpus() -> list[int]:
    """Return the indices of this machine's GPUs, without torch.

    Raises:
        UsageError: CUDA_VISIBLE_DEVICES names GPUs in another way than by index.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [part.strip() for part in visible.split(",") if part.strip()]
        if not all(name.isdigit() for name in names):
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES={visible}: a local sweep needs GPU numbers. "
                "Allowed: numbers like 0,1. Set the variable to GPU numbers."
            )
        return [int(name) for name in names]
    return sorted(
        int(path.name.removeprefix("nvidia"))
        for path in Path("/dev").glob("nvidia[0-9]*")
        if path.name.removeprefix("nvidia").isdigit()
    )


def count_cores() -> int:
    """Return the number of CPU cores that this process may use (inside a job: those of the job)."""
    return len(os.sched_getaffinity(0))


def choose_job_count(available: int, gpus: Sequence[int]) -> int:
    """Return the default number of runs at once: one per GPU, or one per two cores.

    Args:
        available: number of CPU cores.
        gpus: indices of the GPUs.
    """
    return len(gpus) or max(1, available // 2)
