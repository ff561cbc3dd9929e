"""The sweep: do what a plan leaves to do, and say what came of it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console

from protoseg.cli.views.plan import STYLES, axes_text
from protoseg.cli.views.sweep import LineDisplay, TerminalDisplay
from protoseg.launch.local import LocalSweep, local_gpus
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.planning.selection import select_runs
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

    Ctrl-C stops the workers at their next iteration, with a checkpoint, and returns. A second one
    kills them.
    """
    chosen, left_alone = select_runs(plan, retry_failed)
    outcome = Outcome(left_alone=left_alone)
    if not chosen:
        return outcome
    labels = {entry.run.run_id: run_label(entry) for entry in chosen}
    kind = TerminalDisplay if live else LineDisplay
    display = kind(console, labels, len(plan.entries), plan.counts()[State.DONE])

    def on_event(kind: str, folder: RunFolder, status: Status) -> None:
        if kind == "started":
            display.waiting -= 1
            if not live:
                display.show_event(f"started  {display.name(folder.run_id)}")
            return
        outcome.failed.pop(folder.run_id, None)
        if status.state is State.DONE and status.record is not None:
            display.finished += 1
            cost = status.record["cost"]
            display.run_seconds.append(cost["seconds"] + cost["evaluation_seconds"])
            outcome.trained.append(folder.run_id)
        elif status.state is State.INTERRUPTED:
            outcome.interrupted.append(folder.run_id)
        elif status.state is State.FAILED:
            outcome.failed[folder.run_id] = status.message
        display.show_event(
            _ending(folder, status, display.name(folder.run_id)), STYLES[status.state]
        )

    work = LocalSweep(runs_folder, launch, jobs, local_gpus(), on_event)
    requests: list[int | None] = [None]

    def each_poll() -> None:
        # Not in the signal handler, which may interrupt a display that is just drawn.
        if work.stop_signal != requests[-1]:
            display.show_event(STOPPING if requests == [None] else KILLING)
            requests.append(work.stop_signal)
        display.show_progress(work)

    try:
        with _stop_on_signals(work):
            folders = work.prepare(chosen)
            display.waiting = len(folders)
            work.run(folders, each_poll)
    finally:
        display.close()
    outcome.interrupted = [
        run_id
        for run_id in dict.fromkeys([*outcome.interrupted, *(folder.run_id for folder in folders)])
        if run_id not in outcome.trained and run_id not in outcome.failed
    ]
    return outcome


def run_label(entry: PlanEntry) -> str:
    """What tells a run from its siblings, with the seed."""
    return f"{axes_text(entry)}, seed {entry.run.spec.seed}"


def _ending(folder: RunFolder, status: Status, name: str) -> str:
    if status.state is State.DONE and status.record is not None:
        metrics, cost = status.record["metrics"], status.record["cost"]
        return f"done     {name}  mIoU {metrics['miou']:.2f}  {cost['seconds']:.0f} s"
    reason = f"{status.reason.value}: " if status.reason else ""
    text = f"{status.state.value}  {name}  {reason}{status.message}"
    if status.reason is Reason.CODE_ERROR:
        text += f"\n         log: {folder.newest_log()}"
    return text


STOPPING = (
    "Stopping: the runs under way save and exit; nothing is lost. "
    "Press Ctrl-C again to kill them: the work since their last checkpoints is lost."
)
KILLING = "Killing the runs under way."


@contextlib.contextmanager
def _stop_on_signals(work: LocalSweep) -> Iterator[None]:
    """While inside, Ctrl-C, SIGTERM and SIGHUP ask the sweep to stop instead of raising."""

    def handle(number: int, frame: FrameType | None) -> None:
        work.stop(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
