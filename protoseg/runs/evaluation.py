"""The record of an evaluation of a finished run on another split than that of its record.

    evaluations/RUN_ID.test.json    sealed JSON (`protoseg.runs.sealed`; `FORMAT` names the keys)
    evaluations/RUN_ID.test.npz     confusion counts of every image

The name of an evaluation for a choice of settings ends with ``.CHOICE``, the first ten digits of
its digest, because runs may be shared by several searches. The folder is beside the run folders,
and in the folder of results where evaluations are published.
The record of the run is never changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.runs.record import verify_confusion
from protoseg.runs.sealed import RecordError, SealedFormat

EVALUATIONS = "evaluations"
"""Folder of evaluations, in the folder of runs and in that of results."""

FORMAT = SealedFormat(
    "evaluation",
    1,
    {
        "run_id": str,
        "record": str,  # digest of the record of the run
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
)


def name_evaluation(run_id: str, split: str, choice: str = "") -> str:
    """The name of the files of an evaluation, without their suffix.

    Args:
        run_id: of the run.
        split: name of the split.
        choice: digest of the choice of its settings.
    """
    return ".".join(filter(None, (run_id, split, choice[:10])))


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read and check an evaluation and the digest of its counts.

    Raises:
        FileNotFoundError: there is no file.
        RecordError: it is damaged, of another run or split than its name, or its counts differ.
    """
    evaluation = FORMAT.read_file(path)
    name = _name_content(evaluation)
    if path.stem != name:
        raise RecordError(f"{path}: is the evaluation {name}. Give the file this name.")
    verify_confusion(evaluation, path.with_name(f"{name}.npz"))
    return evaluation


def _name_content(evaluation: dict[str, Any]) -> str:
    return name_evaluation(evaluation["run_id"], evaluation["split"], evaluation["choice"])


def find_evaluation(
    folders: Iterable[Path], run_id: str, split: str, choice: str = ""
) -> tuple[Path, dict[str, Any]] | None:
    """Find an evaluation in some folders; None if no folder has one.

    Args:
        folders: folders of evaluations.
        run_id: of the run.
        split: name of the split.
        choice: digest of the choice of its settings.

    Raises:
        RecordError: an evaluation is damaged, or two folders have different ones.
    """
    results: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in folders:
        path = folder / f"{name_evaluation(run_id, split, choice)}.json"
        if path.exists():
            evaluation = read_evaluation(path)
            results.setdefault(evaluation["digest"], (path, evaluation))
    if len(results) > 1:
        places = " and ".join(str(path) for path, _ in results.values())
        raise RecordError(f"{places}: two different evaluations. Move one of the two away.")
    return next(iter(results.values()), None)


def write_evaluation(content: dict[str, Any], counts: bytes, folder: Path) -> Path:
    """Write the counts and then the sealed evaluation; an existing one is kept.

    Raises:
        RecordError: the folder has an evaluation of this run and split with other metrics.
        StorageError: no space or no permission.
    """
    name = _name_content(content)
    path = folder / f"{name}.json"
    files.make_folder(folder)
    with files.locked(folder / f".{name}.lock"):
        if path.exists():  # another call was faster
            if read_evaluation(path)["confusion"] != content["confusion"]:
                raise RecordError(f"{path}: another evaluation has other counts; it is kept.")
            return path
        files.write_bytes(path.with_suffix(".npz"), counts)
        FORMAT.write_once(FORMAT.seal(content), path)
    return path


def publish_evaluation(path: Path, destination: Path) -> None:
    """Copy an evaluation and its counts; a different one is never overwritten.

    Raises:
        RecordError: ``destination`` holds another one, or a file is damaged.
    """
    evaluation = read_evaluation(path)
    counts = path.with_suffix(".npz").read_bytes()
    target = destination / path.name
    if not target.exists():
        files.make_folder(destination)
        files.write_bytes(target.with_suffix(".npz"), counts)
    FORMAT.write_once(evaluation, target)


def check_origin(evaluation: dict[str, Any], record: dict[str, Any], path: Path) -> None:
    """Check that an evaluation is of the model of a record.

    Raises:
        RecordError: it is of another record of the run.
    """
    if evaluation["record"] != record["digest"]:
        raise RecordError(
            f"{path}: is of another result of {record['run_id']} (record "
            f"{evaluation['record'][:10]}, here {record['digest'][:10]}). Move it away and "
            "evaluate again."
        )
