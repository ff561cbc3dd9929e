"""Reads the results of the trials of a row, rung by rung, and decides which of them go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from protoseg.config.matrix import Matrix, Trial, TunedRow, Tuning
from protoseg.report import metrics, wording
from protoseg.report.metrics import METRICS, Metric
from protoseg.runs.store import RecordStore


@dataclass(frozen=True)
class Rung:
    """The trials of a row that are compared after the same number of iterations."""

    iterations: int
    runs: Mapping[int, str]
    """Number of a trial -> its run."""
    values: Mapping[int, float]
    """Number of a finished trial -> its metric."""
    missing: Mapping[int, str] = field(default_factory=dict)
    """Number of any other trial -> its state."""
    promoted: tuple[int, ...] = ()
    """Trials that go on, ascending; empty at the last rung, and before it is decided."""


def read_rungs(
    row: TunedRow, tuning: Tuning, store: RecordStore, *, allow_missing: bool
) -> list[Rung]:
    """Read the rungs of a row up to the first one that is not decided.

    Without a successive halving there is one rung, the end of the schedule. Of trials with equal
    metrics the one with the lower number goes on.

    Args:
        row: the row.
        tuning: the search that it belongs to.
        store: records of the trials.
        allow_missing: decide a rung among its finished trials.

    Raises:
        ProtosegError: two places hold different results of a trial.
    """
    metric, halving = METRICS[tuning.selection.metric], tuning.block.halving
    going_on = [trial.number for trial in row.trials]
    trials = {trial.number: trial for trial in row.trials}
    iterations = row.trials[0].run.spec.schedule.iterations
    rungs: list[Rung] = []
    for number, (_, end) in enumerate(halving.list_budget(len(row.trials), iterations)):
        rung = _read_rung([trials[trial] for trial in going_on], number, end, metric, store)
        rungs.append(rung)
        is_decided = bool(rung.values) and (allow_missing or not rung.missing)
        if number == len(halving.rungs) or not is_decided:
            break
        kept = halving.count_kept(len(row.trials), number + 1)
        going_on = sorted(rank_trials(rung.values, metric)[:kept])
        rungs[-1] = dataclasses.replace(rung, promoted=tuple(going_on))
    return rungs


def rank_trials(values: Mapping[int, float], metric: Metric) -> list[int]:
    """Rank trials by a metric, the best first; of equal ones the lowest number."""
    sign = -1 if metric.higher_is_better else 1
    return sorted(values, key=lambda number: (sign * values[number], number))


def promote_trials(matrix: Matrix, store: RecordStore, *, allow_missing: bool = False) -> Matrix:
    """Return the matrix with the trials that go on, as far as rungs are decided.

    A matrix without a successive halving, or whose settings are chosen, is returned as it is.
    """
    tuning = matrix.tuning
    if tuning is None or not tuning.block.halving.rungs or tuning.choice is not None:
        return matrix
    promoted = {
        row.name: tuple(
            rung.promoted
            for rung in read_rungs(row, tuning, store, allow_missing=allow_missing)
            if rung.promoted
        )
        for row in tuning.rows
    }
    return dataclasses.replace(matrix, tuning=dataclasses.replace(tuning, promoted=promoted))


def _read_rung(
    trials: list[Trial], number: int, iterations: int, metric: Metric, store: RecordStore
) -> Rung:
    values, missing = {}, {}
    runs = {trial.number: trial.runs[number].run_id for trial in trials}
    for trial, run_id in runs.items():
        result = store.find(run_id)
        value = None if result.record is None else metrics.read_metric(result.record, metric)
        if value is not None:
            values[trial] = value
        elif result.record is None:
            missing[trial] = wording.describe_state(result)
        else:
            missing[trial] = f"records no {metric.key}"
    return Rung(iterations, runs, values, missing)
