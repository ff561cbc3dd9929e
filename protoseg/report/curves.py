"""The metrics on the way of records, and the table of the best evaluation of each run.

The best of several evaluations is chosen on the images it is evaluated on, so its mIoU is too high:
an oracle. A table of it names this in its first footnote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.level_metrics import refuse_levels
from protoseg.report.metrics import read_number
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.model import Footnote, Table
from protoseg.runs.store import ChangedRecords, LookupResult, RecordStore

BEST = "_best"
"""Ending of the name of a table of best evaluations."""


def read_curve(record: dict[str, Any], key: str) -> dict[int, float | None]:
    """Read one metric of a record's evaluations on the way and of the last one.

    Args:
        key: ``miou``, ``miou_present``, ``macc``, ``aacc`` or ``loss``.

    Returns:
        Iteration -> value; empty for a record without evaluations on the way.
    """
    return {int(point["iteration"]): read_number(point, key) for point in record.get("curve", ())}


def count_evaluations(spec: RunSpec) -> int:
    """Count the evaluations of a run, the last one included."""
    every = spec.evaluation.every
    return 1 + ((spec.schedule.last_iteration - 1) // every if every else 0)


def build_best_table(
    matrix: Matrix, store: RecordStore, published_folders: Sequence[Path]
) -> Table:
    """Build the table of a matrix from the best evaluation of each run, by mIoU.

    Args:
        published_folders: folders of published numbers.

    Raises:
        UsageError: as `build_table`; or a run has no evaluations on the way, or the table has
            metrics on levels of a tree.
        ProtosegError: as `build_table`; or a record lacks its curve.
    """
    refuse_levels(matrix, "--best")
    lacking = [run.run_id for run in matrix.runs if not run.spec.evaluation.every]
    if lacking:
        raise UsageError(
            f"{matrix.name}: --best: {len(lacking)} of {len(matrix.runs)} runs are evaluated at "
            f"the end alone, for example {lacking[0]}. Add evaluation.every to base, or leave out "
            "--best."
        )
    table = build_table(matrix, ChangedRecords(store, _choose_best), published_folders)
    counts = sorted({count_evaluations(run.spec) for run in matrix.runs})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    note = (
        f"The best of {number} evaluations on the way, chosen on the evaluated split: an oracle. "
        "mIoU chooses; the other metrics are those of the same evaluation."
    )
    footnotes = (Footnote(note), *table.footnotes)
    return dataclasses.replace(table, name=matrix.name + BEST, footnotes=footnotes)


def _choose_best(result: LookupResult) -> LookupResult:
    """Replace the metrics of a record by those of the first evaluation with the highest mIoU."""
    assert result.record is not None
    record = result.record
    points = record.get("curve")
    if not points:
        raise ProtosegError(
            f"{record['run_id']}: its record has no metrics on the way (curve). Train it again."
        )
    best = max(points, key=lambda point: point["miou"])
    metrics = {name: best[name] for name in ("miou", "macc", "aacc")}
    entries = zip(record["per_class"], best["iou"], strict=True)
    changed = {
        **record,
        "metrics": {**metrics, "images": record["metrics"]["images"]},
        "per_class": [{**entry, "iou": iou, "acc": None} for entry, iou in entries],
    }
    return dataclasses.replace(result, record=changed)
