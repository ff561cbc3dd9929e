"""What a sweep on this machine shows while it works: live rows on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from protoseg.cli.views.plan import duration
from protoseg.launch.local import Active, LocalSweep
from protoseg.runs.folder import RunFolder, Status

REFRESH_SECONDS = 0.5
SILENCE_SECONDS = 10.0
"""Where the output is not a terminal: the longest time between two lines."""
BAR_WIDTH = 14


@dataclass(frozen=True)
class RunProgress:
    """How far a run under way is.

    Attributes:
        phase: what it does where it does not train (``importing``, ``building``, ...), else empty.
    """

    label: str
    iteration: int
    iterations: int
    loss: float | None = None
    iterations_per_second: float | None = None
    phase: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Of its training; None before its speed is known."""
        if not self.iterations_per_second:
            return None
        return (self.iterations - self.iteration) / self.iterations_per_second

    @property
    def text(self) -> str:
        """The phase, or loss and time left."""
        if self.phase:
            return self.phase
        loss = "" if self.loss is None else f"loss {self.loss:.4f}, "
        return f"{loss}{duration(self.seconds_left)} left"


def progress_of(label: str, folder: RunFolder, status: Status, attempts_before: int) -> RunProgress:
    """The progress of a run whose worker was requested.

    Args:
        attempts_before: attempts of the run before this worker.
    """
    phase = folder.phase(attempts_before)
    if phase is not None:
        return RunProgress(label, folder.checkpoint_iteration(), status.iterations, phase=phase)
    has_trained = bool(status.iterations) and status.iteration >= status.iterations
    return RunProgress(
        label,
        status.iteration,
        status.iterations,
        status.loss,
        status.iterations_per_second,
        "evaluating" if has_trained else "",
    )


class SweepDisplay:
    """Shows events and progress of a sweep.

    Args:
        console: where to.
        labels: run id -> what tells the run from its siblings.
        total: runs of the sweep, those finished before included.
        finished: of these.
    """

    def __init__(
        self,
        console: Console,
        labels: Mapping[str, str],
        total: int,
        finished: int,
    ) -> None:
        self.console = console
        self.labels = labels
        self.total = total
        self.finished = finished
        self.waiting = 0
        self.run_seconds: list[float] = []
        """Training and evaluation of the runs that finished here."""

    def show_event(self, text: str, style: str = "") -> None:
        """Print a line."""
        self.console.print(text, style=style, markup=False, highlight=False)

    def name(self, run_id: str) -> str:
        """The name of a run in an event."""
        return self.labels[run_id]

    def show_progress(self, work: LocalSweep) -> None:
        """Show how far the runs under way are."""
        raise NotImplementedError

    def _progress(self, work: LocalSweep) -> list[RunProgress]:
        return [self._progress_of(active, work.is_importing) for active in work.active]

    def _progress_of(self, active: Active, is_importing: bool) -> RunProgress:
        label = self.labels.get(active.folder.run_id, active.folder.run_id)
        if active.worker.pid is None:
            phase = "importing torch and mmseg" if is_importing else "starting"
            return RunProgress(label, active.folder.checkpoint_iteration(), 0, phase=phase)
        return progress_of(label, active.folder, active.folder.status(), active.attempts_before)

    def _seconds_left(self, rows: Iterable[RunProgress], jobs: int) -> float | None:
        """Time until the whole sweep ends, by the speed of the runs seen so far."""
        rows = list(rows)
        left = [row.seconds_left for row in rows if row.seconds_left is not None]
        speeds = [row.iterations_per_second for row in rows if row.iterations_per_second]
        if self.run_seconds:
            whole = sum(self.run_seconds) / len(self.run_seconds)
        elif speeds:
            whole = max(row.iterations for row in rows) * len(speeds) / sum(speeds)
        else:
            return None
        unknown = (len(rows) - len(left) + self.waiting) * whole
        return (sum(left) + unknown) / max(1, min(jobs, len(rows) + self.waiting))

    def close(self) -> None:
        """Stop drawing."""


class TerminalDisplay(SweepDisplay):
    """A row for each run under way, drawn again and again, and the whole sweep below them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)
        self._live.start()
        self._last = 0.0

    def show_progress(self, work: LocalSweep) -> None:
        """Draw at most every `REFRESH_SECONDS`."""
        if time.monotonic() - self._last >= REFRESH_SECONDS:
            self._last = time.monotonic()
            rows = self._progress(work)
            left = self._seconds_left(rows, work.jobs)
            self._live.update(sweep_rows(rows, self.finished, self.total, left))

    def close(self) -> None:
        """Remove the rows; events stay."""
        self._live.update(Text())
        self._live.stop()


class LineDisplay(SweepDisplay):
    """A line for each event, and how far the runs are at least every `SILENCE_SECONDS`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._last = time.monotonic()
        self._trains: set[str] = set()

    def show_event(self, text: str, style: str = "") -> None:
        """Print a line as it is, however long, and at once."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
        self.console.file.flush()
        self._last = time.monotonic()

    def name(self, run_id: str) -> str:
        """The id, by which other commands find the run, and what it is."""
        return f"{run_id}  {self.labels[run_id]}"

    def show_progress(self, work: LocalSweep) -> None:
        """Print the first loss of every run, and all runs after a silence."""
        is_due = time.monotonic() - self._last >= SILENCE_SECONDS
        for active in work.active:
            is_first = active.folder.run_id not in self._trains and active.folder.has_progress(
                active.attempts_before
            )
            if not (is_due or is_first):
                continue
            row = self._progress_of(active, work.is_importing)
            if not row.phase:
                self._trains.add(active.folder.run_id)
            done = f"iteration {row.iteration}/{row.iterations}, " if row.iterations else ""
            self.show_event(f"running  {active.folder.run_id}  {done}{row.text}")


def sweep_rows(
    rows: Iterable[RunProgress], finished: int, total: int, seconds_left: float | None = None
) -> Group:
    """A bar for each run under way, and one for all runs."""
    table = Table(box=None, pad_edge=False, show_header=False, expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(width=BAR_WIDTH)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, min_width=25)
    for row in rows:
        table.add_row(
            Text(row.label),
            ProgressBar(row.iterations or 1, row.iteration, width=BAR_WIDTH),
            f"{row.iteration}/{row.iterations}" if row.iterations else "",
            Text(row.text, style="dim" if row.phase else ""),
        )
    left = "" if seconds_left is None else f"about {duration(seconds_left)} left"
    table.add_row(
        Text("all runs", style="bold"),
        ProgressBar(total, finished, width=BAR_WIDTH),
        f"{finished}/{total}",
        Text(left, style="bold"),
    )
    return Group(table)


def status_row(label: str, folder: RunFolder, attempts_before: int) -> Callable[[Status], Group]:
    """Draws the one run of a verb that trains a single one."""
    return lambda status: sweep_rows(
        [progress_of(label, folder, status, attempts_before)], finished=0, total=1
    )
