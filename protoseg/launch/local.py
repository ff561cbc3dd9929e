"""Runs on this machine, a set number at once."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg import files
from protoseg.config.fields import plain
from protoseg.errors import ProtosegError, UsageError
from protoseg.launch.worker_processes import WorkerProcess, WorkerProcesses
from protoseg.planning.plan import PlanEntry
from protoseg.runs import retry
from protoseg.runs.folder import Launch, RunFolder, Status
from protoseg.runs.states import Reason, State

POLL_SECONDS = 0.1


@dataclass
class Active:
    """A run under way: its folder, its process, the GPU it was given."""

    folder: RunFolder
    worker: WorkerProcess
    gpu: int | None
    attempts_before: int
    passed_on: int | None = None
    """The last signal sent to it."""


Event = Callable[[str, RunFolder, Status], None]
"""Told (``started`` | ``ended``, folder, status); an end that may be retried comes again."""


class LocalSweep:
    """Trains the runs of a plan on this machine.

    Args:
        runs_folder: where run folders go.
        launch: given to every worker.
        jobs: runs at once.
        gpus: indices of the GPUs to share out, empty on a CPU.
        on_event: told when a run starts or ends.
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
        self.on_event: Event = on_event or (lambda kind, folder, status: None)
        self.active: list[Active] = []
        self.stop_signal: int | None = None
        """What asked the sweep to stop; SIGKILL after the second request."""
        # Apart from other sweeps, also those of other machines.
        self._logs = runs_folder / ".workers" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self._workers = WorkerProcesses(self._logs, launch.threads)

    @property
    def is_importing(self) -> bool:
        """Whether the first workers wait for the imports of their server."""
        return self._workers.is_importing

    def prepare(self, entries: Sequence[PlanEntry]) -> list[RunFolder]:
        """Write the run folders, before anything starts."""
        launch = vars(self.launch)
        folders = []
        files.make_folder(self.runs_folder)
        for entry in entries:
            folder = RunFolder(self.runs_folder / entry.run.run_id)
            try:
                folder.create(plain(entry.run.spec, identity=True), launch)
            except (OSError, ProtosegError) as error:
                self._refused(folder, error)  # its siblings have nothing to do with it
            else:
                folders.append(folder)
        return folders

    def run(self, folders: Sequence[RunFolder], each_poll: Callable[[], None]) -> None:
        """Train until every run has ended, or until all workers have exited after `stop`."""
        waiting = list(folders)
        try:
            while self.active or (waiting and self.stop_signal is None):
                while waiting and len(self.active) < self.jobs and self.stop_signal is None:
                    folder = waiting.pop(0)
                    try:
                        self._start(folder)
                    except (OSError, ProtosegError) as error:
                        # Its siblings under way go on; a full disk may have room again by then.
                        self._refused(folder, error)
                waiting += self._collect_ended()
                each_poll()
                time.sleep(POLL_SECONDS)
        except BaseException:
            # Whatever went wrong here (a closed pipe, say), the workers are not left unattended.
            self.on_event = lambda kind, folder, status: None
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
        """Start no more runs and pass the signal on: the workers save and exit.

        A second call kills them: the work since their last checkpoints is lost. Safe in a signal
        handler.
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

    def _refused(self, folder: RunFolder, error: Exception) -> None:
        if isinstance(error, OSError):
            error = files.storage_error(error, folder.path)
        self.on_event("ended", folder, Status(State.FAILED, message=str(error)))

    def _collect_ended(self) -> list[RunFolder]:
        """Pass a signal on, report the workers that have exited; the runs to start again."""
        if self.stop_signal is not None:
            self._pass_on(self.stop_signal)
        self._workers.update()
        ended = [active for active in self.active if active.worker.has_exited]
        self.active = [active for active in self.active if not active.worker.has_exited]
        return [active.folder for active in ended if self._report_end(active)]

    def _pass_on(self, number: int) -> None:
        self._workers.cancel_imports()
        for active in self.active:
            # Once each: a worker has its handlers from its first moment.
            if active.worker.pid is not None and active.passed_on != number:
                active.worker.send_signal(number)
                active.passed_on = number

    def _report_end(self, active: Active) -> bool:
        """Report the end of a worker; whether the run goes back into the queue."""
        if active.gpu is not None:
            self.free_gpus.append(active.gpu)
        folder = active.folder
        attempts = folder.attempts()
        was_attempted = len(attempts) > active.attempts_before
        if active.passed_on == signal.SIGKILL and was_attempted and attempts[-1].end is None:
            saved = folder.checkpoint_iteration()
            state = f"saved at iteration {saved}" if saved else "nothing was saved"
            message = f"killed by a second request to stop; {state}"
            folder.record_verdict(attempts[-1].number, Reason.CANCELLED, message, "sweep")
        status = folder.status()
        if not was_attempted and status.state in (State.NEW, State.INTERRUPTED):
            if self.stop_signal is not None:
                return False
            # It died before it could write anything; what it printed is all there is.
            printed = files.read_last_line(active.worker.log)
            message = printed or "the worker ended before it wrote anything"
            status = Status(State.FAILED, message=message, attempts=status.attempts)
        self.on_event("ended", folder, status)
        restarts = was_attempted and retry.is_automatic(status.state, status.reason)
        return restarts and self.stop_signal is None


def local_gpus() -> list[int]:
    """GPUs of this machine, without asking torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [part.strip() for part in visible.split(",") if part.strip()]
        if not all(name.isdigit() for name in names):
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES={visible}: a sweep on this machine shares out GPUs by "
                "number; name them 0,1,... instead."
            )
        return [int(name) for name in names]
    return sorted(
        int(path.name.removeprefix("nvidia"))
        for path in Path("/dev").glob("nvidia[0-9]*")
        if path.name.removeprefix("nvidia").isdigit()
    )


def cores() -> int:
    """Processor cores that this process may use; fewer than the machine has, inside a job."""
    return len(os.sched_getaffinity(0))


def default_jobs(available: int, gpus: Sequence[int]) -> int:
    """Runs at once where the user names no number: one a GPU, or one for every two cores."""
    return len(gpus) or max(1, available // 2)
