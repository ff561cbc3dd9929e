"""Runs on this machine, a set number at once, through submitit's local executor."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from protoseg.dispatch.job import become_worker
from protoseg.dispatch.plan import PlanEntry
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs import atomic, claim
from protoseg.runs.folder import Launch, RunFolder, Status
from protoseg.runs.states import Reason, State
from protoseg.spec.fields import plain

POLL_SECONDS = 0.3
NO_LIMIT_MINUTES = 10 * 365 * 24 * 60
"""submitit's local jobs want a time limit; a run on one's own machine has none."""


@dataclass
class Active:
    """A run under way: its folder, its submitit job, the GPU it was given."""

    folder: RunFolder
    job: Any
    gpu: int | None
    attempts_before: int
    log: Path


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
        self.stopping = False
        # Apart from other sweeps: submitit names its files after process ids, which come back.
        self._submitit = (
            runs_folder / ".submitit" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        )

    def prepare(self, entries: Sequence[PlanEntry]) -> list[RunFolder]:
        """Write the run folders, before anything starts."""
        launch = vars(self.launch)
        folders = []
        atomic.make_folder(self.runs_folder)
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
        """Train until every run has ended, or `stop` was called and all workers are gone."""
        waiting = list(folders)
        try:
            while self.active or (waiting and not self.stopping):
                while waiting and len(self.active) < self.jobs and not self.stopping:
                    folder = waiting.pop(0)
                    try:
                        self._start(folder)
                    except (OSError, ProtosegError) as error:
                        # Its siblings under way go on; a full disk may have room again by then.
                        self._refused(folder, error)
                for active in [a for a in self.active if a.job.done()]:
                    self.active.remove(active)
                    if self._ended(active):
                        waiting.append(active.folder)
                if self.stopping:
                    self._ask_to_stop()
                each_poll()
                time.sleep(POLL_SECONDS)
        except BaseException:
            # Whatever went wrong here (a closed pipe, say), the workers are not left unattended.
            self.stop()
            while self.active:
                self.active = [a for a in self.active if not a.job.done()]
                self._ask_to_stop()
                time.sleep(POLL_SECONDS)
            raise
        finally:
            if not self.active:
                shutil.rmtree(self._submitit, ignore_errors=True)

    def stop(self) -> None:
        """Start no more runs, and ask the workers to save and end."""
        self.stopping = True

    def _start(self, folder: RunFolder) -> None:
        atomic.make_folder(self._submitit)
        executor = submitit.LocalExecutor(folder=self._submitit)
        gpu = self.free_gpus[0] if self.free_gpus else None
        executor.update_parameters(
            timeout_min=NO_LIMIT_MINUTES,
            gpus_per_node=0 if gpu is None else 1,
            visible_gpus=() if gpu is None else (gpu,),
            stderr_to_stdout=True,
        )
        before = len(folder.attempts())
        with _ignoring_interrupts():
            job = executor.submit(become_worker, str(folder.path))
        if gpu is not None:
            self.free_gpus.remove(gpu)
        self.active.append(Active(folder, job, gpu, before, Path(job.paths.stdout)))
        self.on_event("started", folder, folder.status())

    def _refused(self, folder: RunFolder, error: Exception) -> None:
        if isinstance(error, OSError):
            error = atomic.storage_error(error, folder.path)
        self.on_event("ended", folder, Status(State.FAILED, message=str(error)))

    def _ended(self, active: Active) -> bool:
        """Report the end of a worker; whether the run goes back into the queue."""
        if active.gpu is not None:
            self.free_gpus.append(active.gpu)
        status = active.folder.status()
        attempted = len(active.folder.attempts()) > active.attempts_before
        if not attempted and status.state in (State.NEW, State.INTERRUPTED):
            # It died before it could write anything; what it printed is all there is.
            status = Status(State.FAILED, message=_last_line(active.log), attempts=status.attempts)
        self.on_event("ended", active.folder, status)
        # A full disk or a person's wish does not pass within seconds; the next sweep goes on.
        passing = status.reason not in (Reason.STORAGE, Reason.CANCELLED)
        return attempted and status.state is State.INTERRUPTED and passing and not self.stopping

    def _ask_to_stop(self) -> None:
        """Send SIGTERM to the workers; again and again, since one that starts may not hear it."""
        for active in self.active:
            found = claim.read(active.folder.claim)
            if found is None or found[0].host != claim.host_identity():
                continue
            # The claim may be another sweep's by now; ours is a child of our controller.
            if _parent(found[0].pid) == int(active.job.job_id):
                with contextlib.suppress(OSError):
                    os.kill(found[0].pid, signal.SIGTERM)


def _parent(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return lines[-1] if lines else "the worker ended before it wrote anything"


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Children started inside do not see the terminal's Ctrl-C; the sweep tells them itself."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


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
