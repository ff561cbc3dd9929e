"""Lists what a matrix lacks: runs without a record, and attempts that ended without a result."""

from __future__ import annotations

from collections.abc import Iterator

from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.errors import ProtosegError
from protoseg.report import wording
from protoseg.report.page.model import FailedAttempt, MissingRuns
from protoseg.report.tables.samples import make_key
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import State
from protoseg.runs.store import RecordStore


def list_missing(matrix: Matrix, store: RecordStore) -> tuple[MissingRuns, ...]:
    """List the runs without a record: final runs by row, then trials by row of the search."""
    groups: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for row, run in _list_runs(matrix):
        result = store.find(run.run_id)
        if result.record is None:
            message = wording.clean_text(result.status.message)
            groups.setdefault((row, wording.describe_state(result), message), []).append(run)
    return tuple(
        MissingRuns(
            row,
            tuple(run.run_id for run in runs),
            ", ".join(dict.fromkeys(str(run.spec.seed) for run in runs)),
            state,
            message,
        )
        for (row, state, message), runs in groups.items()
    )


def _list_runs(matrix: Matrix) -> Iterator[tuple[str, PlannedRun]]:
    """Name of the row and run: the final runs, then the trials of the search; each run once."""
    seen: set[str] = set()
    names = matrix.table.names
    for run in matrix.runs:
        row = ", ".join(wording.name_group(axis, value, names) for axis, value in run.axes.items())
        if run.run_id not in seen:
            seen.add(run.run_id)
            yield row or matrix.name, run
    if matrix.tuning is None:
        return
    labels = {make_key(row.axes, tuple(row.axes)): row.name for row in matrix.tuning.rows}
    for run in matrix.tuning.list_trial_runs():
        axes = {axis: value for axis, value in run.axes.items() if axis != "trial"}
        name = labels.get(make_key(axes, tuple(axes)), "")
        if run.run_id not in seen:
            seen.add(run.run_id)
            yield f"Trials of {wording.clean_text(name or matrix.name)}", run


def list_failures(matrix: Matrix, store: RecordStore) -> tuple[FailedAttempt, ...]:
    """List the attempts of run folders that ended without a result, also of finished runs."""
    if store.runs_folder is None:
        return ()
    failures = []
    for _, run in _list_runs(matrix):
        folder = store.runs_folder / run.run_id
        try:
            is_running = store.find(run.run_id).status.state is State.RUNNING
            attempts = RunFolder(folder).attempts() if folder.is_dir() else []
        except (OSError, ProtosegError):
            continue
        last = attempts[-1:] if is_running else []
        failures += [
            FailedAttempt(
                run.run_id,
                attempt.number,
                wording.clean_text(str(attempt.start.get("time", "")))[:16].replace("T", " "),
                attempt.reason.value,
                wording.clean_text(attempt.message),
            )
            for attempt in attempts
            if attempt.reason is not None and attempt not in last
        ]
    return tuple(failures)
