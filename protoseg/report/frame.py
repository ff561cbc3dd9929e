"""Planned runs and their records as one tidy pandas frame, one row a run."""

from __future__ import annotations

from typing import Any

import pandas as pd

from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.errors import UsageError
from protoseg.report import metrics, wording
from protoseg.runs.states import State
from protoseg.runs.store import LookupResult, RecordStore

HEAD = ("matrix", "seed", "run_id", "state", "reason", "message")
MEASURED: dict[str, str] = {
    **dict.fromkeys(("miou", "macc", "aacc"), "float64"),
    "images": "Int64",
    "parameters_learnable": "float64",
    "parameters_prototype": "float64",
    **dict.fromkeys(metrics.COSTS, "float64"),
    "attempts": "Int64",
    "commit": "string",
    "dirty": "boolean",
    "finished": "datetime64[ns, UTC]",
    "digest": "string",
}
"""Column -> dtype, the same whether anything has run or not."""


def tidy(matrix: Matrix, store: RecordStore) -> pd.DataFrame:
    """One row a planned run, in the order of the matrix: axes, state, metrics, cost, provenance.

    Accuracies in percent, parameters in millions, memory in MiB; what is not measured is missing
    (NaN, NaT or NA), never 0. ``state`` is a `State`, or "damaged" for a record not to be believed.

    Raises:
        UsageError: an axis has the name of one of the frame's own columns.
    """
    for axis in matrix.axes:
        if axis in HEAD or axis in MEASURED:
            raise UsageError(f"{matrix.name}: the axis '{axis}' has the name of a result column.")
    rows = [_row(matrix, planned, store.find(planned.run_id)) for planned in matrix.runs]
    extra = sorted({key for row in rows for key in row} - {*HEAD, *MEASURED, *matrix.axes})
    columns = ["matrix", *matrix.axes, *HEAD[1:], *MEASURED, *extra]
    frame = pd.DataFrame(rows, columns=pd.Index(columns, dtype="object"))
    kinds = {"seed": "int64", **MEASURED, **dict.fromkeys(extra, "float64")}
    kinds |= dict.fromkeys(("matrix", "run_id", "state", "reason", "message"), "string")
    finished = pd.to_datetime(frame.pop("finished"), utc=True, errors="coerce")
    frame = frame.astype({key: kind for key, kind in kinds.items() if key != "finished"})
    frame["finished"] = finished.astype("datetime64[ns, UTC]")
    for axis in matrix.axes:
        frame[axis] = frame[axis].infer_objects()
    return frame[columns]


def _row(matrix: Matrix, planned: PlannedRun, found: LookupResult) -> dict[str, Any]:
    status = found.status
    row: dict[str, Any] = {
        "matrix": matrix.name,
        **{axis: _scalar(planned.axes.get(axis)) for axis in matrix.axes},
        "seed": planned.spec.seed,
        "run_id": planned.run_id,
        "state": "damaged" if found.damaged else str(status.state),
        "reason": str(status.reason) if status.reason else None,
        "message": status.message or None,
        "attempts": status.attempts if status.state is not State.NEW else None,
    }
    record = found.record
    if record is None:
        return row
    row |= {key: metrics.number(record["metrics"], key) for key in record["metrics"]}
    row |= {key: metrics.number(record["cost"], key) for key in metrics.COSTS}
    for key in ("learnable", "prototype"):
        count = metrics.number(record["parameters"], key)
        row[f"parameters_{key}"] = None if count is None else count / 1e6
    provenance = record["provenance"]
    dirty = provenance.get("dirty")
    return row | {
        "commit": provenance.get("commit"),
        "dirty": dirty if isinstance(dirty, bool) else None,
        "finished": record["finished"],
        "digest": record["digest"],
    }


def _scalar(value: Any) -> Any:
    # Lists and mappings can not be grouped by; their text can.
    return wording.plain_value(value) if isinstance(value, list | tuple | dict) else value
