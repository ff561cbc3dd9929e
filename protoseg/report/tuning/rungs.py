"""Reads the results of the trials of a row, rung by rung, and decides which of them go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from protoseg.config.matrix import Matrix, Trial, TunedRow, Tuning
from protoseg.errors import ProtosegError
from protoseg.report import metrics, wording
from protoseg.report.level_metrics import with_levels
from protoseg.report.metrics import METRICS, Metric
from protoseg.runs.states import State
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

    def is_decided(self, excused: Collection[str]) -> bool:
        """Whether there are results, and no other trial is waited for.

        Args:
            excused: runs that are not waited for.
        """
        return bool(self.values) and all(self.runs[number] in excused for number in self.missing)


def read_rungs(
    row: TunedRow, tuning: Tuning, store: RecordStore, excused: Collection[str] = ()
) -> list[Rung]:
    """Read the rungs of a row up to the first one that is not decided.

    Without a successive halving there is one rung, the end of the schedule. Of trials with equal
    metrics the one with the lower number goes on.

    Args:
        row: the row.
        tuning: the search that it belongs to.
        store: records of the trials.
        excused: runs without a result that a rung does not wait for.

    Raises:
        ProtosegError: two places hold different results of a trial, or trials of a rung were
            trained or evaluated on different images.
    """
    metric, halving = METRICS[tuning.selection.metric], tuning.block.halving
    going_on = [trial.number for trial in row.trials]
    trials = {trial.number: trial for trial in row.trials}
    iterations = row.trials[0].run.spec.schedule.iterations
    rungs: list[Rung] = []
    for number, (_, end) in enumerate(halving.list_budget(len(row.trials), iterations)):
        rung = _read_rung([trials[trial] for trial in going_on], number, end, metric, store)
        rungs.append(rung)
        if number == len(halving.rungs) or not rung.is_decided(excused):
            break
        kept = halving.count_kept(len(row.trials), number + 1)
        going_on = sorted(rank_trials(rung.values, metric)[:kept])
        rungs[-1] = dataclasses.replace(rung, promoted=tuple(going_on))
    return rungs


def rank_trials(values: Mapping[int, float], metric: Metric) -> list[int]:
    """Rank trials by a metric, the best first; of equal ones the lowest number."""
    sign = -1 if metric.higher_is_better else 1
    return sorted(values, key=lambda number: (sign * values[number], number))


def promote_trials(matrix: Matrix, store: RecordStore, excused: Collection[str] = ()) -> Matrix:
    """Return the matrix with the trials that go on, as far as rungs are decided.

    A matrix without a successive halving, or whose settings are chosen, is returned as it is.

    Args:
        matrix: any matrix.
        store: records of the trials.
        excused: runs without a result that a rung does not wait for.
    """
    tuning = matrix.tuning
    if tuning is None or not tuning.block.halving.rungs or tuning.choice is not None:
        return matrix
    store = with_levels(matrix, store, [tuning.selection.metric])
    promoted = {
        row.name: tuple(
            rung.promoted for rung in read_rungs(row, tuning, store, excused) if rung.promoted
        )
        for row in tuning.rows
    }
    return dataclasses.replace(matrix, tuning=dataclasses.replace(tuning, promoted=promoted))


def promote_started(matrix: Matrix, store: RecordStore) -> Matrix:
    """Return the matrix with the trials that go on, for a caller that shows or cancels runs.

    A sweep that may miss failed trials has started runs of a later rung. They are seen only if
    failed trials are left out here too.
    """
    strict = promote_trials(matrix, store)
    if strict is matrix or strict.tuning is None:
        return strict
    first = {run.run_id for run in strict.tuning.list_trial_runs()}
    failed = {run_id for run_id in first if store.look_up(run_id).status.state is State.FAILED}
    if not failed:
        return strict
    wider = promote_trials(matrix, store, failed)
    assert wider.tuning is not None
    later = [run.run_id for run in wider.tuning.list_trial_runs() if run.run_id not in first]
    started = any(store.look_up(run_id).status.state is not State.NEW for run_id in later)
    return wider if started else strict


def _read_rung(
    trials: list[Trial], number: int, iterations: int, metric: Metric, store: RecordStore
) -> Rung:
    values, missing = {}, {}
    runs = {trial.number: trial.runs[number].run_id for trial in trials}
    images: dict[str, str] = {}
    for trial, run_id in runs.items():
        result = store.find(run_id)
        if result.record is not None:
            images.setdefault(_describe_images(result.record), run_id)
        value = None if result.record is None else metrics.read_metric(result.record, metric)
        if value is not None:
            values[trial] = value
        elif result.record is None:
            missing[trial] = wording.describe_state(result)
        else:
            missing[trial] = f"records no {metric.key}"
    if len(images) > 1:
        raise ProtosegError(
            f"{' and '.join([*images.values()][:2])}: were trained or evaluated on different "
            "images (data_digest, holdout), so they cannot be compared. Train one of them again "
            "with the data of the other."
        )
    return Rung(iterations, runs, values, missing)


def _describe_images(record: dict[str, Any]) -> str:
    """The digest of the data of a record, and that of the names of its held-out images."""
    provenance = record["provenance"]
    holdout = provenance.get("holdout") or {}
    return f"{provenance.get('data_digest')} {holdout.get('names_sha256')}"
