"""The sweep: do what a plan leaves to do, and say what came of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live

from protoseg.dispatch.local import LocalSweep, local_gpus
from protoseg.dispatch.plan import Plan, PlanEntry
from protoseg.dispatch.view import STYLES, sweep_view
from protoseg.runs.folder import Launch, RunFolder, Status
from protoseg.runs.states import Reason, State


@dataclass
class Outcome:
    """What a sweep did."""

    trained: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: list[str] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)
    """Runs not touched, and why: they failed before, or another worker has them."""

    def complete(self) -> bool:
        """Whether every run of the plan has its record now."""
        return not (self.failed or self.interrupted or self.left_alone)


def to_train(plan: Plan, retry_failed: bool) -> tuple[list[PlanEntry], dict[str, str]]:
    """The runs to train, and for each one left alone the reason."""
    chosen, left_alone = [], {}
    for entry in plan.entries:
        status = entry.status
        failed_before = status.state is State.FAILED and status.reason is not None
        if status.state in (State.NEW, State.INTERRUPTED) or (failed_before and retry_failed):
            chosen.append(entry)
        elif status.state is State.FAILED:
            again = " Run again with --retry-failed." if status.reason else ""
            left_alone[entry.run.run_id] = f"failed: {status.message}{again}"
        elif status.state in (State.RUNNING, State.QUEUED):
            where = f" on {status.host}" if status.state is State.RUNNING else f": {status.message}"
            left_alone[entry.run.run_id] = f"{status.state.value}{where}"
    # The first seed of every row before the second of any: a sweep cut short still compares.
    chosen.sort(key=lambda entry: entry.run.spec.seed)
    return chosen, left_alone


def sweep(
    plan: Plan,
    runs_folder: Path,
    launch: Launch,
    *,
    jobs: int,
    retry_failed: bool,
    console: Console,
    live: bool,
) -> Outcome:
    """Train what the plan leaves to do, here, with progress on the console.

    Ctrl-C stops the workers at their next iteration, with a checkpoint, and returns.
    """
    chosen, left_alone = to_train(plan, retry_failed)
    outcome = Outcome(left_alone=left_alone)
    if not chosen:
        return outcome
    total = len(plan.entries)
    finished = plan.counts()[State.DONE]

    def on_event(kind: str, folder: RunFolder, status: Status) -> None:
        nonlocal finished
        if kind == "started":
            if not live:
                console.print(f"started  {folder.run_id}", markup=False)
            return
        outcome.failed.pop(folder.run_id, None)
        if status.state is State.DONE:
            finished += 1
            outcome.trained.append(folder.run_id)
        elif status.state is State.INTERRUPTED:
            outcome.interrupted.append(folder.run_id)
        elif status.state is State.FAILED:
            outcome.failed[folder.run_id] = status.message
        console.print(_ending(folder, status), style=STYLES[status.state], markup=False)

    work = LocalSweep(runs_folder, launch, jobs, local_gpus(), on_event)
    with _interrupt(work.stop, console):
        folders = work.prepare(chosen)
        if not live:
            work.run(folders, lambda: None)
        else:
            with Live(console=console, refresh_per_second=4, transient=True) as display:
                work.run(folders, _Refresh(display, work, total, lambda: finished))
    outcome.interrupted = [
        run_id
        for run_id in dict.fromkeys([*outcome.interrupted, *(folder.run_id for folder in folders)])
        if run_id not in outcome.trained and run_id not in outcome.failed
    ]
    return outcome


def _ending(folder: RunFolder, status: Status) -> str:
    if status.state is State.DONE and status.record is not None:
        metrics, cost = status.record["metrics"], status.record["cost"]
        return f"done     {folder.run_id}  mIoU {metrics['miou']:.2f}  {cost['seconds']:.0f} s"
    reason = f"{status.reason.value}: " if status.reason else ""
    text = f"{status.state.value}  {folder.run_id}  {reason}{status.message}"
    if status.reason is Reason.CODE_ERROR:
        text += f"\n         log: {folder.newest_log()}"
    return text


class _Refresh:
    """Draws the state of the runs under way, reading their folders at most twice a second."""

    def __init__(
        self, display: Live, work: LocalSweep, total: int, finished: Callable[[], int]
    ) -> None:
        self.display = display
        self.work = work
        self.total = total
        self.finished = finished
        self._last = 0.0

    def __call__(self) -> None:
        if time.monotonic() - self._last < 0.5:
            return
        self._last = time.monotonic()
        active = [(a.folder.run_id, a.folder.status()) for a in self.work.active]
        self.display.update(sweep_view(self.total, self.finished(), active))


class _interrupt:  # noqa: N801  a context manager, used like a function
    """While inside, Ctrl-C and SIGTERM ask the sweep to stop instead of raising."""

    def __init__(self, stop: Callable[[], None], console: Console) -> None:
        self.stop = stop
        self.console = console
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.stop()
        self.console.print("Stopping: the runs under way save and end; nothing is lost.")

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._previous[number] = signal.signal(number, self._handle)

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def cores() -> int:
    """Processor cores that this process may use; fewer than the machine has, inside a job."""
    return len(os.sched_getaffinity(0))


def default_jobs(available: int, gpus: Sequence[int]) -> int:
    """Runs at once where the user names no number: one a GPU, or one for every two cores."""
    return len(gpus) or max(1, available // 2)
