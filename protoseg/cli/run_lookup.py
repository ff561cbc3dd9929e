"""Finds the runs, rows and overrides that a user names by a part of an id, or by a label."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from itertools import chain

from protoseg.cli.arguments import split_overrides
from protoseg.cli.context import Context
from protoseg.config.identity import read_spec, run_id_pattern
from protoseg.config.matrix import Matrix, PlannedRun, TableSpec
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, describe_unknown_name
from protoseg.runs.folder import RunFolder
from protoseg.runs.run_names import find_run
from protoseg.runs.store import RecordStore

RUN_METRICS = ("miou", "macc", "aacc", "parameters")
"""Columns of a single run."""


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
    known = [*chain(*list_matrices_and_bundles(context.experiments))]
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


def split_row_overrides(operands: list[str]) -> tuple[list[str], list[str]]:
    """The overrides among operands that may be labels of rows, such as "ProtoSeg, K=4"; the others.

    An override begins with a field of a run, ``dataset=camvid`` or ``schedule.iterations=100``, and
    has no space before its value.
    """
    known = "|".join(field.name for field in dataclasses.fields(RunSpec))
    pattern = re.compile(rf"(\+{{0,2}}({known})(\.[\w.]+)?=\S.*)|(~({known})\.[\w.]+)")
    overrides = [operand for operand in operands if pattern.fullmatch(operand)]
    return overrides, [operand for operand in operands if operand not in overrides]
