"""Finds the run that a user names by its id or by a part of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from itertools import chain

from protoseg.cli.context import Context, split_overrides
from protoseg.config.identity import read_spec, run_id_pattern
from protoseg.config.matrix import Matrix, PlannedRun, TableSpec
from protoseg.errors import UsageError, describe_unknown_name
from protoseg.runs.folder import RunFolder
from protoseg.runs.store import RecordStore

SHOWN = 5
"""Candidates that a message lists."""
RUN_METRICS = ("miou", "macc", "aacc", "parameters")
"""Columns of a single run."""


def find_run(name: str, run_ids: Collection[str], where: str) -> str:
    """The run that a name identifies: a run id, or a part of exactly one.

    Args:
        run_ids: the ids to choose from.
        where: where these ids come from, for the message.

    Raises:
        UsageError: no run matches, or several.
    """
    if name in run_ids:
        return name
    matching = sorted(run_id for run_id in run_ids if name in run_id)
    if len(matching) == 1:
        return matching[0]
    if matching:
        listed = ", ".join(matching[:SHOWN])
        others = len(matching) - SHOWN
        more = f" and {others} more" if others > 0 else ""
        raise UsageError(
            f"'{name}' is a part of {len(matching)} run ids: {listed}{more}. Give a longer part."
        )
    known = sorted(run_ids)
    if len(known) > 4 * SHOWN:  # there may be thousands of runs
        where = f"{where} ({len(known)} runs)"
        known = get_close_matches(name, known, n=SHOWN, cutoff=0.3) or known[:SHOWN]
    raise UsageError(describe_unknown_name("run", name, where, known))


def started_or_submitted_runs(context: Context) -> set[str]:
    """Ids of the runs that have a run folder or were submitted to SLURM."""
    from protoseg.launch.submission import open_submissions

    runs = context.paths.runs
    submitted = {run_id for each in open_submissions(runs) for run_id in each.run_ids}
    return submitted | _run_ids(path.name for path in runs.glob("*"))


def started_or_recorded_runs(context: Context) -> set[str]:
    """Ids of the runs that have a run folder or a committed record."""
    started = {path.parent.name for path in context.paths.runs.glob("*/spec.json")}
    return started | recorded_runs(context)


def finished_runs(context: Context) -> set[str]:
    """Ids of the runs whose folder has a record."""
    return {path.parent.name for path in context.paths.runs.glob("*/record.json")}


def recorded_runs(context: Context) -> set[str]:
    """Ids of the runs that have a committed record."""
    return {path.stem for folder in context.record_folders for path in folder.glob("*.json")}


def _run_ids(names: Iterable[str]) -> set[str]:
    pattern = run_id_pattern()
    return {name for name in names if pattern.fullmatch(name)}


def load_matrices_and_runs(context: Context) -> list[Matrix]:
    """The matrices that the operands name; a run named by a part of its id is a matrix of one run.

    Raises:
        UsageError: as `Context.matrices`; a name is neither a matrix nor a part of one run id; or
            overrides without a matrix.
    """
    from protoseg.config.matrix_bundles import list_matrices_and_bundles

    overrides, names = split_overrides(context.operands)
    known = [*chain(*list_matrices_and_bundles(context.paths.experiments))]
    of_matrices = [name for name in names if name in known or name.endswith((".yaml", ".yml"))]
    of_runs = [name for name in names if name not in of_matrices]
    if not of_runs:
        return context.matrices()[0]
    if overrides and not of_matrices:
        raise UsageError(
            f"'{overrides[0]}' changes a matrix, but only a run is named. Remove it, or name a "
            "matrix."
        )
    started, recorded = started_or_submitted_runs(context), recorded_runs(context)
    runs = []
    for name in of_runs:
        # The runs of the run folders come first: the program comes with hundreds of records.
        candidates = next(
            (ids for ids in (started, recorded) if any(name in run_id for run_id in ids)), None
        )
        if candidates is None:
            raise UsageError(describe_unknown_name("matrix or run", name, context.verb, known))
        runs.append(_load_run(context, find_run(name, candidates, context.verb)))
    context.arguments.operands = [*of_matrices, *overrides]
    return [*(context.matrices()[0] if of_matrices else []), *runs]


def _load_run(context: Context, run_id: str) -> Matrix:
    """A matrix of one run, from its run folder or its committed record."""
    folder = RunFolder(context.paths.runs / run_id)
    data, where = folder.read_spec(), str(folder.spec)
    if data is None:
        result = RecordStore(context.record_folders, context.paths.runs).find(run_id)
        data, where = (result.record or {}).get("spec"), str(result.source or folder.spec)
    if data is None:
        raise UsageError(
            f"{where}: cannot be read, so the settings of {run_id} are unknown. Sweep it again."
        )
    run = PlannedRun(read_spec(data, where), {"label": run_id})
    return Matrix(run_id, "one run", (run,), TableSpec(metrics=RUN_METRICS), ("label",))


def is_single_run(matrix: Matrix) -> bool:
    """Whether a matrix of `load_matrices_and_runs` is a single run."""
    return bool(matrix.runs) and matrix.name == matrix.runs[0].run_id
