"""Writes the states of runs as a web page that reloads itself (``protoseg status --html``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protoseg import files
from protoseg.cli.views.cost import format_duration
from protoseg.cli.views.plan import describe_axes
from protoseg.cli.views.status import format_miou
from protoseg.config.matrix import Matrix
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.report import wording
from protoseg.report.page.live import LiveRun, render_live_page
from protoseg.report.page.site import write_page
from protoseg.runs.folder import RunFolder, now
from protoseg.runs.loss_history import read_loss_history
from protoseg.runs.states import State


def write_live_page(
    path: Path, plan: Plan, matrices: Sequence[Matrix], runs_folder: Path, *, is_watched: bool
) -> None:
    """Write the page of a plan; an earlier page is replaced.

    Args:
        path: the file.
        plan: the runs and their states.
        matrices: those of the plan.
        runs_folder: for the loss curves of runs without a record.
        is_watched: whether the page will be written again, so that it reloads.

    Raises:
        UsageError: another file is at the path.
        ProtosegError: the folder is not writable.
    """
    title = ", ".join(dict.fromkeys(matrix.name for matrix in matrices))
    runs = [_describe_run(entry, runs_folder) for entry in plan.entries]
    text = render_live_page(
        title, runs, now()[:19].replace("T", " ") + " UTC", plan.problems, is_watched
    )
    files.make_folder(path.parent)
    write_page(path, text)


def _describe_run(entry: PlanEntry, runs_folder: Path) -> LiveRun:
    status, spec = entry.status, entry.run.spec
    total, is_done = spec.schedule.last_iteration, entry.status.state is State.DONE
    is_queued = status.state is State.QUEUED  # its speed and host are of an earlier attempt
    rate = None if is_queued else status.iterations_per_second
    history = read_loss_history(RunFolder(runs_folder / entry.run.run_id), status)
    reason = f"{status.reason.value}: " if status.reason and not is_queued else ""
    return LiveRun(
        entry.run.run_id,
        wording.clean_text(f"{describe_axes(entry)}, seed {spec.seed}"),
        status.state.value,
        total if is_done else min(status.iteration, total),
        total,
        tuple(loss for _, loss in history.losses),
        "" if rate is None else f"{rate:.2f}",
        "" if is_done else format_duration(entry.seconds),
        "" if is_done or is_queued else status.host,
        status.attempts,
        format_miou(status),
        wording.clean_text(f"{reason}{status.message}") if status.message else "",
    )
