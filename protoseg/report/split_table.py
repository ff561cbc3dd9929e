"""Tables of a matrix on another split or with augmentation, from evaluations of its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.errors import ProtosegError
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.model import Footnote, Table
from protoseg.report.tables.samples import SINGLE_PASS, describe_augmentation
from protoseg.runs.results.evaluation import TTA, check_origin, find_evaluation
from protoseg.runs.store import ChangedRecords, LookupResult, RecordStore

ON = "_on_"
"""Between the names of matrix and split in the name of such a table."""


def name_split_table(matrix: str, split: str, variant: str = "") -> str:
    """The name of the table of a matrix on a split.

    Args:
        matrix: name of the matrix.
        split: name of the split.
        variant: of test-time augmentation, a result of `name_variant`; empty for one pass.
    """
    return f"{matrix}{ON}{'_'.join(filter(None, (split, variant)))}"


def split_table_name(name: str, matrix: str) -> tuple[str, str]:
    """The split and the variant in the name of such a table; see `name_split_table`."""
    split, _, digest = name.removeprefix(matrix + ON).partition(f"_{TTA}")
    return split, TTA + digest if digest else ""


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
    variant: str = "",
) -> Table:
    """Build the table of a matrix on another split of its data set.

    Args:
        matrix: with final runs.
        store: records of its runs.
        published_folders: folders of published numbers.
        split: name of the split.
        folders: folders of evaluations.
        variant: of test-time augmentation, a result of `name_variant`. Its table shows no published
            values, which are of other evaluations.

    Raises:
        UsageError: as `build_table`.
        ProtosegError: as `build_table`; a finished run has no evaluation on the split for the
            choice of the matrix, or one of another result.
    """
    runs = tuple(_move_run(run, split) for run in matrix.runs)
    digest = matrix.choice_digest
    augmentations: list[dict[str, Any]] = []

    def select_evaluation(result: LookupResult) -> LookupResult:
        assert result.record is not None
        run_id = result.record["run_id"]
        existing = find_evaluation(folders, run_id, split, digest, variant=variant)
        if existing is None:
            of_choice = f" for the choice {digest[:10]}" if digest else ""
            augmented = f" with these scales ({variant})" if variant else ""
            options = " --tta, with the same --scales" if variant else ""
            raise ProtosegError(
                f"{run_id}: has no evaluation on {split}{augmented}{of_choice}. Run protoseg "
                f"evaluate {matrix.name} --split {split}{options}."
            )
        path, evaluation = existing
        augmentations.extend(filter(None, [evaluation.get("prediction")]))
        check_origin(evaluation, result.record, path)
        record = merge_evaluation(result.record, evaluation)
        return dataclasses.replace(result, record=record, source=path)

    records = ChangedRecords(store, select_evaluation)
    tuning = matrix.tuning and dataclasses.replace(matrix.tuning, reported=split)
    table_spec = dataclasses.replace(matrix.table, published=None) if variant else matrix.table
    moved = dataclasses.replace(matrix, runs=runs, tuning=tuning, table=table_spec)
    table = build_table(moved, records, published_folders)
    footnotes = table.footnotes
    if augmentations:
        passes = describe_augmentation(augmentations[0])
        footnotes = tuple(
            dataclasses.replace(note, text=note.text.replace(SINGLE_PASS, passes))
            for note in footnotes
        )
    reported = " and ".join(dict.fromkeys(run.spec.evaluation.split for run in matrix.runs))
    after = f" after the settings of all rows were chosen (choice {digest[:10]})" if digest else ""
    note = (
        f"The models of the table {matrix.name} ({reported}), evaluated on {split}{after}, each "
        "once."
    )
    return dataclasses.replace(
        table,
        name=name_split_table(matrix.name, split, variant),
        footnotes=(*footnotes, Footnote(note)),
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
