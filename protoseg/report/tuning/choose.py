"""Chooses the settings of each row of a search from the records of its trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix, TunedRow
from protoseg.config.tuning.expand import finalise
from protoseg.errors import UnchosenError, UsageError, describe_unknown_name
from protoseg.report import metrics, wording
from protoseg.report.metrics import METRICS, QUALITIES, Metric
from protoseg.runs.choice import CHOICES, read_choice, seal_choice
from protoseg.runs.record import RecordError
from protoseg.runs.store import RecordStore

TIE_RULE = "equal values: the lowest number of a trial"
SHOWN = 3
"""Unfinished trials that a message names."""


@dataclass(frozen=True)
class Selected:
    """The result of a selection among trials."""

    choice: dict[str, Any] | None
    """The sealed choice; None while a row cannot be chosen."""
    to_be_chosen: dict[str, str] = field(default_factory=dict)
    """Row -> why it cannot be chosen."""


def check_selection(matrix: Matrix) -> None:
    """Check that runs record the metric by which settings are selected.

    Raises:
        UsageError: an unknown metric, or one that is not a quality of the result.
    """
    if matrix.tuning is None:
        return
    name, where = matrix.tuning.selection.metric, f"{matrix.name}: tune.select.metric"
    if name not in QUALITIES:
        raise UsageError(describe_unknown_name("metric", name, where, QUALITIES))


def choose_settings(matrix: Matrix, store: RecordStore, *, allow_missing: bool) -> Selected:
    """Select the best trial of each row.

    Args:
        matrix: a matrix with a search.
        store: records of the trials.
        allow_missing: select among the finished trials, if a row has any.

    Raises:
        ProtosegError: two places hold different results of a trial.
    """
    tuning = matrix.tuning
    assert tuning is not None
    metric = METRICS[tuning.selection.metric]
    rows: list[dict[str, Any]] = []
    to_be_chosen: dict[str, str] = {}
    for row in tuning.rows:
        values, missing = read_trial_values(row, metric, store)
        if not values or (missing and not allow_missing):
            to_be_chosen[row.name] = _describe_missing(row, missing)
            continue
        best = (max if metric.higher_is_better else min)(values.values())
        chosen = next(t for t in row.trials if values.get(t.number) == best)
        rows.append(
            {
                "row": row.name,
                "axes": row.axes,
                "spaces": {key: space.describe() for key, space in row.spaces.items()},
                "trials": [
                    {
                        "number": trial.number,
                        "run_id": trial.run.run_id,
                        "values": trial.values,
                        "value": values.get(trial.number),
                    }
                    for trial in row.trials
                ],
                "chosen": chosen.number,
                "at_edge": [
                    key for key, space in row.spaces.items() if space.is_at_edge(chosen.values[key])
                ],
            }
        )
    if to_be_chosen:
        return Selected(None, to_be_chosen)
    some_missing = any(trial["value"] is None for row in rows for trial in row["trials"])
    choice = {
        "matrix": matrix.name,
        "overrides": list(matrix.changes),
        "block": tuning.block.content,
        "block_digest": tuning.digest,
        "metric": metric.key,
        "on": tuning.selection.on,
        "rule": f"{'highest' if metric.higher_is_better else 'lowest'} {metric.key} of a row",
        "tie_rule": TIE_RULE,
        "allow_missing": some_missing,
        "rows": rows,
    }
    return Selected(seal_choice(choice))


def read_trial_values(
    row: TunedRow, metric: Metric, store: RecordStore
) -> tuple[dict[int, float], dict[int, str]]:
    """Read the results of the trials of a row.

    Returns:
        Number of a trial -> value of the metric, of the finished ones; and number -> state, of the
        others.

    Raises:
        ProtosegError: two places hold different results of a trial.
    """
    values, missing = {}, {}
    for trial in row.trials:
        result = store.find(trial.run.run_id)
        value = None if result.record is None else metrics.read_metric(result.record, metric)
        if value is not None:
            values[trial.number] = value
        elif result.record is None:
            missing[trial.number] = wording.describe_state(result)
        else:
            missing[trial.number] = f"records no {metric.key}"
    return values, missing


def _describe_missing(row: TunedRow, missing: Mapping[int, str]) -> str:
    """``2 of 12 trials have no result: trial 3 (failed: out_of_memory), trial 5 (not run)``."""
    named = [f"trial {number} ({state})" for number, state in [*missing.items()][:SHOWN]]
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    have = "has" if len(missing) == 1 else "have"
    return f"{len(missing)} of {len(row.trials)} trials {have} no result: {', '.join(named)}{more}"


def name_choice(matrix: Matrix) -> str:
    """The file name of the choice of a matrix; with overrides it has a digest of them."""
    if not matrix.changes:
        return f"{matrix.name}.json"
    digest = hashlib.sha256(json.dumps(matrix.changes).encode()).hexdigest()
    return f"{matrix.name}-{digest[:10]}.json"


def list_choice_folders(runs: Path, record_folders: Iterable[Path]) -> list[Path]:
    """List the folders of choices: of the runs, and beside each folder of records."""
    return [runs / CHOICES, *(folder.parent / CHOICES for folder in record_folders)]


def apply_choice(matrix: Matrix, folders: Iterable[Path]) -> tuple[Matrix, list[str]]:
    """Return the matrix with its final runs, if its settings are chosen.

    Args:
        matrix: any matrix.
        folders: folders of choices.

    Returns:
        The matrix, and one sentence for each choice that was made for another search.

    Raises:
        ProtosegError: a damaged choice, or two different ones.
    """
    tuning = matrix.tuning
    if tuning is None:
        return matrix, []
    choices: dict[str, tuple[Path, dict[str, Any]]] = {}
    notes = []
    for path in (folder / name_choice(matrix) for folder in folders):
        try:
            choice = read_choice(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if choice["block_digest"] == tuning.digest:
            choices.setdefault(choice["digest"], (path, choice))
        else:
            notes.append(
                f"{path}: is the choice of another search (digest {choice['block_digest'][:10]}; "
                f"{matrix.name} has {tuning.digest[:10]}), because the matrix was changed. It is "
                "not used; move it away before the next sweep."
            )
    if len(choices) > 1:
        places = " and ".join(f"{path} ({key[:10]})" for key, (path, _) in choices.items())
        raise RecordError(
            f"{matrix.name}: two different choices: {places}. Move one of the two away."
        )
    for _, choice in choices.values():
        return finalise(matrix, choice), notes
    return matrix, notes


def require_choice(matrix: Matrix, notes: Iterable[str] = ()) -> None:
    """Check that the settings of a matrix are chosen, if it has a search.

    Raises:
        UnchosenError: they are not chosen yet.
    """
    if matrix.tuning is not None and matrix.tuning.choice is None:
        trials = sum(len(row.trials) for row in matrix.tuning.rows)
        raise UnchosenError(
            " ".join(
                [
                    f"{matrix.name}: its settings are not chosen yet, so it has no final runs. Run "
                    f"protoseg sweep {matrix.name}, which trains {trials} trials and chooses; to "
                    f"list them: protoseg tables {matrix.name} --trials.",
                    *notes,
                ]
            )
        )
