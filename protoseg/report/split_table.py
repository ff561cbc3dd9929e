"""Tables of a matrix on another split, from evaluations of its finished runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.errors import ProtosegError
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.model import Footnote, Table
from protoseg.runs.evaluation import check_origin, find_evaluation
from protoseg.runs.store import ChangedRecords, LookupResult, RecordStore

ON = "_on_"
"""Between the names of matrix and split in the name of such a table."""


def name_split_table(matrix: str, split: str) -> str:
    """The name of the table of a matrix on a split."""
    return f"{matrix}{ON}{split}"


@dataclasses.dataclass(frozen=True)
class EvaluatedRun(PlannedRun):
    """A run, with the spec of its evaluation on another split."""

    trained_id: str = ""

    @property
    def run_id(self) -> str:
        """The id of the run that was trained."""
        return self.trained_id


def build_split_table(
    matrix: Matrix,
    store: RecordStore,
    published_folders: Sequence[Path],
    *,
    split: str,
    folders: Sequence[Path],
) -> Table:
    """Build the table of a matrix on another split of its data set.

    Args:
        matrix: with final runs.
        store: records of its runs.
        published_folders: folders of published numbers.
        split: name of the split.
        folders: folders of evaluations.

    Raises:
        UsageError: as `build_table`.
        ProtosegError: as `build_table`; a finished run has no evaluation on the split for the
            choice of the matrix, or one of another result.
    """
    runs = tuple(_move_run(run, split) for run in matrix.runs)
    digest = matrix.choice_digest

    def select_evaluation(result: LookupResult) -> LookupResult:
        assert result.record is not None
        run_id = result.record["run_id"]
        existing = find_evaluation(folders, run_id, split, digest)
        if existing is None:
            of_choice = f" for the choice {digest[:10]}" if digest else ""
            raise ProtosegError(
                f"{run_id}: has no evaluation on {split}{of_choice}. Run protoseg evaluate "
                f"{matrix.name} --split {split}."
            )
        path, evaluation = existing
        check_origin(evaluation, result.record, path)
        record = merge_evaluation(result.record, evaluation)
        return dataclasses.replace(result, record=record, source=path)

    records = ChangedRecords(store, select_evaluation)
    tuning = matrix.tuning and dataclasses.replace(matrix.tuning, reported=split)
    moved = dataclasses.replace(matrix, runs=runs, tuning=tuning)
    table = build_table(moved, records, published_folders)
    reported = " and ".join(dict.fromkeys(run.spec.evaluation.split for run in matrix.runs))
    after = f" after the settings of all rows were chosen (choice {digest[:10]})" if digest else ""
    note = (
        f"The models of the table {matrix.name} ({reported}), evaluated on {split}{after}, each "
        "once."
    )
    return dataclasses.replace(
        table,
        name=name_split_table(matrix.name, split),
        footnotes=(*table.footnotes, Footnote(note)),
    )


def merge_evaluation(record: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    """The record of a run with the metrics and the split of an evaluation."""
    # What was evaluated on the way is of the other split.
    settings = {
        **{k: v for k, v in record["spec"]["evaluation"].items() if k not in ("holdout", "every")},
        "split": evaluation["split"],
    }
    keys = ("metrics", "per_class", "confusion")
    return {
        **{key: value for key, value in record.items() if key != "curve"},
        **{key: evaluation[key] for key in keys},
        "spec": {**record["spec"], "evaluation": settings},
    }


def _move_run(run: PlannedRun, split: str) -> EvaluatedRun:
    spec = dataclasses.replace(run.spec, evaluation=run.spec.evaluation.select_split(split))
    return EvaluatedRun(spec, run.axes, trained_id=run.run_id)
