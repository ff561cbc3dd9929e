"""The progress of a sweep on this machine: live rows on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from protoseg.cli.views.cost import format_duration
from protoseg.launch.local import Active, LocalSweep
from protoseg.runs.folder import RunFolder, Status

REFRESH_SECONDS = 0.5
SILENCE_SECONDS = 10.0
"""Longest time between two lines, if the output is not a terminal."""
BAR_WIDTH = 14
WIDE = 100
"""Characters from which on a terminal has room for bars beside the labels."""


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run.

    Attributes:
        phase: what the run does before or after training (``importing``, ``building``, ...); empty
            while it trains.
    """

    label: str
    iteration: int
    iterations: int
    loss: float | None = None
    iterations_per_second: float | None = None
    phase: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Remaining training time; None before the speed is known."""
        if not self.iterations_per_second:
            return None
        return (self.iterations - self.iteration) / self.iterations_per_second

    @property
    def text(self) -> str:
        """The phase, or loss and time left."""
        if self.phase:
            return self.phase
        loss = "" if self.loss is None else f"loss {self.loss:.4f}, "
        return f"{loss}{format_duration(self.seconds_left)} left"


def read_progress(
    label: str, folder: RunFolder, status: Status, attempts_before: int
) -> RunProgress:
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
    """Displays events and progress of a sweep.

    Args:
        labels: run id -> text that distinguishes the run from the others.
        total: number of runs, including those that were finished before.
        finished: number of finished runs.
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
        """Training and evaluation time of each run that finished during this sweep."""

    def show_event(self, text: str, style: str = "") -> None:
        """Print a line."""
        self.console.print(text, style=style, markup=False, highlight=False)

    def name(self, run_id: str) -> str:
        """The name of a run in a line."""
        return self.labels[run_id]

    def show_progress(self, local_sweep: LocalSweep) -> None:
        """Display the progress of the active runs."""
        raise NotImplementedError

    def _progress(self, local_sweep: LocalSweep) -> list[RunProgress]:
        return [
            self._read_progress(active, local_sweep.is_importing) for active in local_sweep.active
        ]

    def _read_progress(self, active: Active, is_importing: bool) -> RunProgress:
        label = self.labels.get(active.folder.run_id, active.folder.run_id)
        if active.worker.pid is None:
            phase = "importing torch and mmseg" if is_importing else "starting"
            return RunProgress(label, active.folder.checkpoint_iteration(), 0, phase=phase)
        return read_progress(label, active.folder, active.folder.status(), active.attempts_before)

    def _seconds_left(self, rows: Iterable[RunProgress], jobs: int) -> float | None:
        """Time until the sweep ends, estimated from the speed of its runs so far."""
        rows = list(rows)
        left = [row.seconds_left for row in rows if row.seconds_left is not None]
        speeds = [row.iterations_per_second for row in rows if row.iterations_per_second]
        if self.run_seconds:
            seconds_per_run = sum(self.run_seconds) / len(self.run_seconds)
        elif speeds:
            seconds_per_run = max(row.iterations for row in rows) * len(speeds) / sum(speeds)
        else:
            return None
        unknown = (len(rows) - len(left) + self.waiting) * seconds_per_run
        return (sum(left) + unknown) / max(1, min(jobs, len(rows) + self.waiting))

    def close(self) -> None:
        """Stop drawing."""


class TerminalDisplay(SweepDisplay):
    """A live row for each active run, and one for the whole sweep."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)
        self._live.start()
        self._last = 0.0

    def show_progress(self, local_sweep: LocalSweep) -> None:
        """Draw at most every `REFRESH_SECONDS`."""
        if time.monotonic() - self._last >= REFRESH_SECONDS:
            self._last = time.monotonic()
            rows = self._progress(local_sweep)
            left = self._seconds_left(rows, local_sweep.jobs)
            width = self.console.width
            self._live.update(render_rows(rows, self.finished, self.total, left, width))

    def close(self) -> None:
        """Remove the rows; events stay."""
        self._live.update(Text())
        self._live.stop()


class LineDisplay(SweepDisplay):
    """A line for each event, and the progress at least every `SILENCE_SECONDS`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._last = time.monotonic()
        self._trains: set[str] = set()

    def show_event(self, text: str, style: str = "") -> None:
        """Print a line without wrapping, and flush."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
        self.console.file.flush()
        self._last = time.monotonic()

    def name(self, run_id: str) -> str:
        """The run id, which other commands take, and the label."""
        label = self.labels[run_id]
        return run_id if label == run_id else f"{run_id}  {label}"

    def show_progress(self, local_sweep: LocalSweep) -> None:
        """Print the first loss of every run, and all runs if nothing was printed for a while."""
        is_due = time.monotonic() - self._last >= SILENCE_SECONDS
        for active in local_sweep.active:
            is_first = active.folder.run_id not in self._trains and active.folder.has_progress(
                active.attempts_before
            )
            if not (is_due or is_first):
                continue
            row = self._read_progress(active, local_sweep.is_importing)
            if not row.phase:
                self._trains.add(active.folder.run_id)
            done = f"iteration {row.iteration}/{row.iterations}, " if row.iterations else ""
            self.show_event(f"running  {active.folder.run_id}  {done}{row.text}")


def render_rows(
    rows: Iterable[RunProgress],
    finished: int,
    total: int,
    seconds_left: float | None = None,
    width: int = WIDE,
) -> Group:
    """A row for each active run, and one for all runs; with bars if the terminal is wide.

    Labels are folded, never cut: their ends differ.

    Args:
        width: of the terminal, in characters.
    """
    bar_width = BAR_WIDTH if width >= WIDE else 0
    table = Table(box=None, pad_edge=False, show_header=False, expand=True)
    table.add_column(ratio=1, overflow="fold")
    if bar_width:
        table.add_column(width=bar_width)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, min_width=25)
    for row in rows:
        bar = [ProgressBar(row.iterations or 1, row.iteration, width=bar_width)]
        table.add_row(
            Text(row.label),
            *(bar if bar_width else []),
            f"{row.iteration}/{row.iterations}" if row.iterations else "",
            Text(row.text, style="dim" if row.phase else ""),
        )
    left = "" if seconds_left is None else f"about {format_duration(seconds_left)} left"
    bar = [ProgressBar(total, finished, width=bar_width)]
    table.add_row(
        Text("all runs", style="bold"),
        *(bar if bar_width else []),
        f"{finished}/{total}",
        Text(left, style="bold"),
    )
    # The terminal echoes ^C behind the last character; a line of full width would then wrap.
    return Group(Padding(table, (0, 4, 0, 0)))


def make_row_renderer(
    label: str, folder: RunFolder, attempts_before: int
) -> Callable[[Status], Group]:
    """Returns a function that draws the progress of a single run."""
    return lambda status: render_rows(
        [read_progress(label, folder, status, attempts_before)], finished=0, total=1
    )
