"""Trains the unfinished runs of a plan on this machine and displays the progress."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console

from protoseg.cli.interrupts import INTERRUPTS
from protoseg.cli.views.plan import STYLES, describe_values
from protoseg.cli.views.sweep import LineDisplay, TerminalDisplay
from protoseg.launch.local import LocalSweep, list_local_gpus
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.planning.selection import select_runs
from protoseg.runs.folder import Launch, RunFolder, Status
from protoseg.runs.states import Reason, State


@dataclass
class Outcome:
    """The result of a sweep."""

    trained: list[str] = field(default_factory=list)
    finished_elsewhere: list[str] = field(default_factory=list)
    """Runs that another worker finished during the sweep, e.g. one of a killed sweep."""
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: list[str] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)
    """Run -> why it was not started: it failed before, or another worker trains it."""

    def is_complete(self) -> bool:
        """Whether every run of the plan has a record."""
        return not (self.failed or self.interrupted or self.left_alone)

    def has_news(self) -> bool:
        """Whether a run finished during the sweep."""
        return bool(self.trained or self.finished_elsewhere)

    def add(self, other: Outcome) -> Outcome:
        """Return the outcome of this sweep and a later one."""
        return Outcome(
            [*self.trained, *other.trained],
            [*self.finished_elsewhere, *other.finished_elsewhere],
            {**self.failed, **other.failed},
            [*self.interrupted, *other.interrupted],
            {**self.left_alone, **other.left_alone},
        )


def run_sweep(
    plan: Plan,
    runs_folder: Path,
    launch: Launch,
    *,
    jobs: int,
    retry_failed: bool,
    console: Console,
    live: bool,
) -> Outcome:
    """Train the unfinished runs of a plan, with progress on the console.

    After Ctrl-C the workers save a checkpoint at their next iteration, and the function returns.
    A second Ctrl-C kills them.
    """
    selected, left_alone = select_runs(plan, retry_failed)
    outcome = Outcome(left_alone=left_alone)
    if selected:
        _train_runs(plan, selected, outcome, runs_folder, launch, jobs, console, live)
    running = [e for e in plan.entries if e.status.state is State.RUNNING]
    for run_id in (e.run.run_id for e in running if e.run.run_id in left_alone):
        status = RunFolder(runs_folder / run_id).status()
        if status.state is State.DONE and status.record is not None:
            del left_alone[run_id]
            outcome.finished_elsewhere.append(run_id)
            miou = status.record["metrics"]["miou"]
            text = f"done     {run_id}  mIoU {miou:.2f}  (by a worker of an earlier sweep)"
            console.print(text, style=STYLES[State.DONE], markup=False, soft_wrap=True)
        elif status.state is not State.RUNNING:
            left_alone[run_id] = f"{status.state.value}: {status.message}. Run the sweep again."
    return outcome


def _train_runs(
    plan: Plan,
    selected: Sequence[PlanEntry],
    outcome: Outcome,
    runs_folder: Path,
    launch: Launch,
    jobs: int,
    console: Console,
    live: bool,
) -> None:
    """Train the selected runs, and add how each ended to the outcome."""
    labels, shared = label_runs(selected, full=not live)
    if shared:
        console.print(f"All: {shared}.", style="dim", markup=False)
    display_type = TerminalDisplay if live else LineDisplay
    display = display_type(console, labels, len(plan.entries), plan.counts()[State.DONE])

    def on_event(event: str, folder: RunFolder, status: Status) -> None:
        if event == "started":
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
            _describe_end(folder, status, display.name(folder.run_id)), STYLES[status.state]
        )

    local_sweep = LocalSweep(runs_folder, launch, jobs, list_local_gpus(), on_event)
    requests: list[int | None] = [None]

    def each_poll() -> None:
        # Not in the signal handler, which may interrupt the drawing of the display.
        if local_sweep.stop_signal != requests[-1]:
            display.show_event(STOPPING if requests == [None] else KILLING)
            requests.append(local_sweep.stop_signal)
        display.show_progress(local_sweep)

    try:
        with _stop_on_signals(local_sweep):
            INTERRUPTS.raise_if_interrupted()
            folders = local_sweep.prepare(selected)
            display.waiting = len(folders)
            local_sweep.run(folders, each_poll)
    finally:
        display.close()
    outcome.interrupted = [
        run_id
        for run_id in dict.fromkeys([*outcome.interrupted, *(folder.run_id for folder in folders)])
        if run_id not in outcome.trained and run_id not in outcome.failed
    ]


def label_runs(entries: Sequence[PlanEntry], *, full: bool) -> tuple[dict[str, str], str]:
    """Label runs by the values in which they differ, so that a narrow terminal shows them.

    Args:
        full: label them by all values.

    Returns:
        Run id -> label, and the values that all runs share.
    """
    if len(entries) == 1 and not entries[0].run.axes:
        return {entries[0].run.run_id: entries[0].run.run_id}, ""
    values = {
        entry.run.run_id: {**describe_values(entry), "seed": f"seed {entry.run.spec.seed}"}
        for entry in entries
    }
    first = next(iter(values.values()), {})
    shared = [key for key in first if all(each.get(key) == first[key] for each in values.values())]
    if len(values) < 2 or full:
        shared = []
    short = {key: key.rpartition(".")[2] for key in first}
    if full or len(set(short.values())) < len(short):
        short = {key: key for key in first}
    labels = {
        run_id: ", ".join(
            text.replace(f"{key}=", f"{short.get(key, key)}=", 1)
            for key, text in each.items()
            if key not in shared
        )
        for run_id, each in values.items()
    }
    return labels, ", ".join(first[key] for key in shared)


def _describe_end(folder: RunFolder, status: Status, name: str) -> str:
    if status.state is State.DONE and status.record is not None:
        metrics, cost = status.record["metrics"], status.record["cost"]
        return f"done     {name}  mIoU {metrics['miou']:.2f}  {cost['seconds']:.0f} s"
    reason = f"{status.reason.value}: " if status.reason else ""
    text = f"{status.state.value}  {name}  {reason}{status.message}"
    if status.reason is Reason.CODE_ERROR:
        text += f"\n         log: {folder.newest_log()}"
    return text


STOPPING = (
    "Stopping: the running trainings save a checkpoint and exit; nothing is lost. "
    "Press Ctrl-C again to kill them; that loses the work since their last checkpoints."
)
KILLING = "Killing the running trainings."


@contextlib.contextmanager
def _stop_on_signals(local_sweep: LocalSweep) -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and SIGHUP stop the sweep instead of raising."""

    def handle(number: int, frame: FrameType | None) -> None:
        local_sweep.stop(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
