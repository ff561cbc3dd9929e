"""Chooses the settings of each row of a search from the records of its trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protoseg.config.matrix import Matrix, Trial
from protoseg.config.tuning.expand import finalise
from protoseg.errors import UnchosenError, UsageError
from protoseg.report.level_metrics import with_levels
from protoseg.report.metrics import METRICS, QUALITIES, describe_unknown_metric
from protoseg.report.tuning.rungs import Rung, rank_trials, read_rungs
from protoseg.runs.results.choice import read_choice, seal_choice
from protoseg.runs.sealed import RecordError
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
        raise UsageError(describe_unknown_metric(name, where, QUALITIES))


def choose_settings(matrix: Matrix, store: RecordStore, excused: Collection[str] = ()) -> Selected:
    """Select the best trial of each row.

    Args:
        matrix: a matrix with a search.
        store: records of the trials.
        excused: runs without a result that are not waited for.

    Raises:
        ProtosegError: as `read_rungs`.
    """
    tuning = matrix.tuning
    assert tuning is not None
    metric = METRICS[tuning.selection.metric]
    store = with_levels(matrix, store, [metric.key])
    rows: list[dict[str, Any]] = []
    to_be_chosen: dict[str, str] = {}
    for row in tuning.rows:
        rungs = read_rungs(row, tuning, store, excused)
        last = rungs[-1]
        is_last = len(rungs) > len(tuning.block.halving.rungs)
        if not is_last or not last.is_decided(excused):
            to_be_chosen[row.name] = _describe_missing(last)
            continue
        chosen = row.trials[rank_trials(last.values, metric)[0] - 1]
        rows.append(
            {
                "row": row.name,
                "axes": row.axes,
                "spaces": {key: space.describe() for key, space in row.spaces.items()},
                "trials": [_trial_to_dict(trial, rungs) for trial in row.trials],
                **({"rungs": [_rung_to_dict(rung) for rung in rungs[:-1]]} if rungs[1:] else {}),
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
        "overrides": sorted(matrix.changes),
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


def list_excused_runs(choice: Mapping[str, Any]) -> set[str]:
    """The runs without a result in a choice."""
    rungs = [rung for row in choice["rows"] for rung in row.get("rungs", ())]
    trials = [trial for part in (*choice["rows"], *rungs) for trial in part["trials"]]
    return {trial["run_id"] for trial in trials if trial["value"] is None}


def _trial_to_dict(trial: Trial, rungs: Sequence[Rung]) -> dict[str, Any]:
    """A trial with the result of the last rung that it was trained to."""
    last = [rung for rung in rungs if trial.number in rung.runs][-1]
    content = {
        "number": trial.number,
        "run_id": last.runs[trial.number],
        "values": trial.values,
        "value": last.values.get(trial.number),
    }
    return content if last is rungs[-1] else {**content, "stopped_after": last.iterations}


def _rung_to_dict(rung: Rung) -> dict[str, Any]:
    trials = [
        {"number": number, "run_id": run_id, "value": rung.values.get(number)}
        for number, run_id in rung.runs.items()
    ]
    return {"iterations": rung.iterations, "trials": trials, "promoted": list(rung.promoted)}


def _describe_missing(rung: Rung) -> str:
    """``2 of 12 trials have no result: trial 3 (failed: out_of_memory), trial 5 (not run)``."""
    missing = rung.missing
    named = [f"trial {number} ({state})" for number, state in [*missing.items()][:SHOWN]]
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    have = "has" if len(missing) == 1 else "have"
    return f"{len(missing)} of {len(rung.runs)} trials {have} no result: {', '.join(named)}{more}"


def name_choice(matrix: Matrix) -> str:
    """The file name of the choice of a matrix; with overrides it has a digest of them."""
    if not matrix.changes:
        return f"{matrix.name}.json"
    # In any order: the overrides of one search have one choice.
    digest = hashlib.sha256(json.dumps(sorted(matrix.changes)).encode()).hexdigest()
    return f"{matrix.name}-{digest[:10]}.json"


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
