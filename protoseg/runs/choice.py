"""The record of a choice: which trial of each row of a search gives the settings of its final runs.

A choice is plain JSON (`SCHEMA` names the keys), sealed with a digest as the record of a run is. It
has no time and no machine: the same records of trials give the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.runs.record import RESTORE, RecordError, digest

SCHEMA_VERSION = 1
CHOICES = "choices"
"""Folder of choices, in the folder of runs and in that of results."""

SCHEMA: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "matrix": str,
    "overrides": list,
    "block": dict,  # the block `tune` of the matrix
    "block_digest": str,  # SHA-256 of the block, the names of the rows and the ids of all trials
    "metric": str,
    "on": str,  # the split, or holdout
    "rule": str,
    "tie_rule": str,
    "allow_missing": bool,
    # {row, axes, spaces, trials: [{number, run_id, values, value}], chosen, at_edge}; with a
    # successive halving rungs: [{iterations, trials: [{number, run_id, value}], promoted}], and
    # stopped_after of the trials that were not trained to the end
    "rows": list,
    "digest": str,
}


def seal_choice(choice: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a choice with its digest.

    Raises:
        ValueError: a key is missing, unknown, or of the wrong type.
    """
    # Tuples become lists, so that the digest of what is read is the one of what is written.
    sealed: dict[str, Any] = json.loads(json.dumps({**choice, "schema_version": SCHEMA_VERSION}))
    sealed["digest"] = digest(sealed)
    problems = _find_shape_problems(sealed)
    if problems:
        raise ValueError(f"not a choice: {'; '.join(problems)}")
    return sealed


def read_choice(path: Path) -> dict[str, Any]:
    """Read and check a choice.

    Raises:
        FileNotFoundError: there is no file.
        RecordError: torn, edited, incomplete, or of a newer schema.
    """
    try:
        choice = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: torn choice, not valid JSON ({error}). {RESTORE}") from error
    if not isinstance(choice, dict) or not isinstance(choice.get("schema_version"), int):
        raise RecordError(f"{path}: not a choice of protoseg (no schema_version). {RESTORE}")
    if choice["schema_version"] > SCHEMA_VERSION:
        raise RecordError(
            f"{path}: choice of schema {choice['schema_version']}; this protoseg reads up to "
            f"{SCHEMA_VERSION}. Update protoseg; the choice is kept."
        )
    problems = _find_shape_problems(choice)
    if problems:
        raise RecordError(f"{path}: incomplete choice: {'; '.join(problems)}. {RESTORE}")
    try:
        is_unchanged = digest(choice) == choice["digest"]
    except ValueError:  # 1e999 is valid JSON but reads as infinity, which is not
        is_unchanged = False
    if not is_unchanged:
        raise RecordError(
            f"{path}: edited or damaged choice, its content does not match its digest. {RESTORE}"
        )
    return choice


def write_choice(choice: dict[str, Any], path: Path) -> bool:
    """Write a sealed choice; a different one is never overwritten.

    Returns:
        Whether the file is new.

    Raises:
        RecordError: the file has another choice.
    """
    files.make_folder(path.parent)
    if files.create_json(path, choice):
        return True
    existing = read_choice(path)
    if existing["digest"] != choice["digest"]:
        raise RecordError(
            f"{path}: holds another choice (digest {existing['digest'][:10]}, new "
            f"{choice['digest'][:10]}); it is kept. Move it away to use the new one."
        )
    return False


def _find_shape_problems(choice: dict[str, Any]) -> list[str]:
    problems = [f"'{key}' is missing" for key in SCHEMA if key not in choice]
    problems += [f"'{key}' is unknown" for key in choice if key not in SCHEMA]
    problems += [
        f"'{key}' is not of type {expected}"
        for key, expected in SCHEMA.items()
        if key in choice and not isinstance(choice[key], expected)
    ]
    return problems
