"""Computes the metrics of levels of a tree again, with other code than the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protoseg.config.hierarchy.tree import Hierarchy
from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError
from protoseg.report.level_metrics import compute_record_levels, get_data_key
from protoseg.report.verify.check import Check
from protoseg.report.verify.record_sources import Sources
from protoseg.report.verify.recount import TOLERANCE, CountsError, read_counts, recount_levels
from protoseg.runs.record import locate_counts
from protoseg.runs.results.evaluation import EVALUATIONS, FILES
from protoseg.runs.results.evaluation_files import EvaluationFormat
from protoseg.runs.results.imported import FORMAT, IMPORTED


def check_levels(sources: Sources, matrices: Mapping[str, Matrix]) -> Check:
    """Compare the metrics of levels of records and evaluations with a second computation.

    Records have no such metrics: tables compute them from the confusion counts. Runs without a
    record, and counts that do not belong to their record, are reported by other checks.

    Args:
        sources: the records, and the folder that contains evaluations.
        matrices: name -> matrix; those without a metric of a level are left out.
    """
    check = Check("levels", "metrics on levels of a tree, computed by a second program")
    seen: set[tuple[Path, Hierarchy]] = set()
    for matrix in matrices.values():
        for record, counts in _list_counts(sources, matrix) if matrix.trees else ():
            tree = matrix.trees.get(get_data_key(record))
            if tree is not None and (counts, tree) not in seen:
                seen.add((counts, tree))
                _compare(record, counts, tree, check)
    return check


def _list_counts(sources: Sources, matrix: Matrix) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yield the records and evaluations that tables of a matrix may show, with their counts."""
    tuning = matrix.tuning
    trials = tuning.list_trial_runs() if tuning is not None else ()
    for run_id in dict.fromkeys(run.run_id for run in (*matrix.runs, *trials)):
        result = sources.committed.look_up(run_id)
        if result.record is None:
            result = sources.everywhere.look_up(run_id)
        if result.record is None or result.source is None:
            continue
        yield result.record, locate_counts(result.record, result.source)
        for path in sorted((sources.results / EVALUATIONS).glob(f"{run_id}.*.json")):
            evaluation = _read_evaluation(FILES, path)
            if evaluation is not None:
                yield {"spec": result.record["spec"], **evaluation}, path.with_suffix(".npz")
    for row in matrix.table.imported:
        path = sources.results / IMPORTED / f"{row.evaluation}.json"
        evaluation = _read_evaluation(FORMAT, path) if path.exists() else None
        if evaluation is not None:
            yield evaluation, path.with_suffix(".npz")


def _read_evaluation(files: EvaluationFormat, path: Path) -> dict[str, Any] | None:
    """Read an evaluation; None if it is damaged, which another check reports."""
    try:
        return files.read_evaluation(path)
    except (ProtosegError, OSError):
        return None


def _compare(record: Mapping[str, Any], counts: Path, tree: Hierarchy, check: Check) -> None:
    file = f"{counts.parent.name}/{counts.name}"
    try:
        shown = compute_record_levels(record, counts, tree)
        frame, _, _ = read_counts(counts)
    except (ProtosegError, CountsError, OSError):
        return
    recomputed = recount_levels(frame, tree.paths)
    check.count += len(recomputed)
    for name, value in recomputed.items():
        ours = shown.get(name)
        equal = ours == value
        if ours is not None and value is not None:
            equal = abs(ours - value) <= TOLERANCE
        if not equal:
            message = f"tables show {ours!r}, a second program computes {value!r}."
            check.problem(file, message, column=name)
