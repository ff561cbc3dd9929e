"""The record of an evaluation of a finished run on another split than that of its record.

    evaluations/RUN_ID.test.json    sealed JSON (`protoseg.runs.sealed`; `FORMAT` names the keys)
    evaluations/RUN_ID.test.npz     confusion counts of every image
    evaluations/RUN_ID.DATASET@test.json    the same on another data set with the same classes
    evaluations/RUN_ID.test.best_00000060.json    of another checkpoint than that of the record
    evaluations/RUN_ID.test.tta-DIGEST.json    with test-time augmentation: ten digits of the
        SHA-256 of its scales and flip

The name of an evaluation for a choice of settings has ``.CHOICE`` after the split, the first ten
digits of its digest, because runs may be shared by several searches. The folder is beside the run
folders, and in the folder of results where evaluations are published.
The record of the run is never changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from protoseg.runs.results.evaluation_files import EvaluationFormat
from protoseg.runs.sealed import RecordError, SealedFormat

EVALUATIONS = "evaluations"
"""Folder of evaluations, in the folder of runs and in that of results."""
TTA = "tta-"
"""Begins the part of a name for test-time augmentation."""

FORMAT = SealedFormat(
    "evaluation",
    1,
    {
        "run_id": str,
        "record": str,  # digest of the record of the run; empty if it has not finished
        "state_sha256": str,  # of the model, as in the record of the run
        "split": str,
        "choice": str,  # digest of the choice of settings; empty for a run without a search
        "metrics": dict,  # as in the record of a run
        "per_class": list,
        "confusion": dict,  # file, sha256
        "seconds": (int, float),
        # as in the record of a run, with the digest of the data
        "provenance": dict,
        "finished": str,  # UTC, ISO 8601
    },
    optional={
        "dataset": dict,  # spec of the data set, if the run was trained on another one
        # file (without suffix) and iteration, if it is not the model of the record
        "checkpoint": dict,
        # with test-time augmentation: mode, window, stride, scales, flip
        "prediction": dict,
    },
)


def name_variant(checkpoint: str = "", prediction: Mapping[str, Any] | None = None) -> str:
    """The part of a name for what differs from the model and the evaluation of a run.

    Args:
        checkpoint: name of the checkpoint's file without suffix, if it is another model.
        prediction: ``scales`` and ``flip`` of test-time augmentation; None for one pass.
    """
    augmentation = ""
    if prediction is not None:
        content = [list(map(float, prediction["scales"])), bool(prediction["flip"])]
        augmentation = f"{TTA}{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:10]}"
    return ".".join(filter(None, (checkpoint, augmentation)))


def name_evaluation(
    run_id: str, split: str, choice: str = "", dataset: str = "", variant: str = ""
) -> str:
    """The name of the files of an evaluation, without their suffix.

    Args:
        run_id: of the run.
        split: name of the split.
        choice: digest of the choice of its settings.
        dataset: name of the data set, if the run was trained on another one.
        variant: result of `name_variant`.
    """
    data = f"{dataset}@{split}" if dataset else split
    return ".".join(filter(None, (run_id, data, choice[:10], variant)))


def _name_content(evaluation: Mapping[str, Any]) -> str:
    return name_evaluation(
        evaluation["run_id"],
        evaluation["split"],
        evaluation["choice"],
        evaluation.get("dataset", {}).get("name", ""),
        name_variant(
            evaluation.get("checkpoint", {}).get("file", ""), evaluation.get("prediction")
        ),
    )


FILES = EvaluationFormat(FORMAT, _name_content)


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read and check an evaluation and the digest of its counts.

    Raises:
        FileNotFoundError: there is no file.
        RecordError: it is damaged, of another run or split than its name, or its counts differ.
    """
    return FILES.read_evaluation(path)


def find_evaluation(
    folders: Iterable[Path],
    run_id: str,
    split: str,
    choice: str = "",
    dataset: str = "",
    variant: str = "",
) -> tuple[Path, dict[str, Any]] | None:
    """Find an evaluation in some folders; None if no folder has one.

    Args:
        folders: folders of evaluations.
        run_id: of the run.
        split: name of the split.
        choice: digest of the choice of its settings.
        dataset: name of the data set, if the run was trained on another one.
        variant: result of `name_variant`.

    Raises:
        RecordError: an evaluation is damaged, or two folders have different ones.
    """
    return FILES.find_evaluation(folders, name_evaluation(run_id, split, choice, dataset, variant))


def write_evaluation(content: dict[str, Any], counts: bytes, folder: Path) -> Path:
    """Write the counts and then the sealed evaluation; an existing one is kept.

    Raises:
        RecordError: the folder has an evaluation of this run and split with other metrics.
        StorageError: no space or no permission.
    """
    return FILES.write_evaluation(content, counts, folder)


def publish_evaluation(path: Path, destination: Path) -> None:
    """Copy an evaluation and its counts; a different one is never overwritten.

    Raises:
        RecordError: ``destination`` holds another one, or a file is damaged.
    """
    FILES.publish_evaluation(path, destination)


def check_origin(evaluation: dict[str, Any], record: dict[str, Any] | None, path: Path) -> None:
    """Check that an evaluation is of the model of a record.

    An evaluation of another checkpoint than that of the record may be older than the record.

    Args:
        evaluation: content of the evaluation.
        record: of the run; None if it has not finished.
        path: of the evaluation, for the message.

    Raises:
        RecordError: it is of another record of the run.
    """
    digest = record["digest"] if record is not None else ""
    if "checkpoint" in evaluation and not (evaluation["record"] and digest):
        return
    if evaluation["record"] != digest:
        raise RecordError(
            f"{path}: is of another result of {evaluation['run_id']} (record "
            f"{evaluation['record'][:10] or 'none'}, here {digest[:10] or 'none'}). Move it away "
            "and evaluate again."
        )
