"""A matrix with a search of four rows, and records of its trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from protoseg.config.matrix import Matrix, PlannedRun, TableSpec, Trial, TunedRow, Tuning
from protoseg.config.tuning.block import read_block
from protoseg.config.tuning.draw import draw_settings
from protoseg.config.tuning.expand import make_trial_matrix
from protoseg.report.tuning.choose import choose_settings
from report.lab import Lab, make_spec

LABELS = ("Linear", "Query", "Proto 1", "Proto 2")
BLOCK: dict[str, Any] = {
    "search": {"schedule.learning_rate": {"log_uniform": [1e-4, 1e-2]}},
    "rows": {"Proto*": {"method.score_temperature": [0.2, 0.05, 0.1]}},
    "trials": 4,
    "select": {"metric": "miou", "on": "val"},
}


def make_search(labels: Iterable[str] = LABELS, **changes: Any) -> Matrix:
    """Make a matrix without a choice; ``changes`` replace keys of the block."""
    block = read_block({**BLOCK, **changes}, "test: tune")
    rows = []
    for number, label in enumerate(labels, 1):
        spaces = block.list_spaces([label])
        axes = {"label": label}
        trials = [
            Trial(i, values, PlannedRun(make_trial_spec(number, values), {**axes, "trial": i}))
            for i, values in enumerate(draw_settings(spaces, block.trials, 0, "test"), 1)
        ]
        final = make_spec(method={"kind": "prototype", "num_prototypes": number})
        rows.append(TunedRow(label, axes, spaces, tuple(trials), lambda values, spec=final: spec))
    tuning = Tuning(block, tuple(rows), (0, 1, 2))
    return Matrix("test", "A test", (), TableSpec(), ("label",), tuning=tuning)


def make_trial_spec(number: int, values: Mapping[str, Any]) -> Any:
    """The run of a trial of the row with this number."""
    parts: dict[str, dict[str, Any]] = {
        "method": {"kind": "prototype", "num_prototypes": number},
    }
    for key, value in values.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return make_spec(100, **parts)


def get_rows(matrix: Matrix) -> tuple[TunedRow, ...]:
    """The rows of the search."""
    assert matrix.tuning is not None
    return matrix.tuning.rows


def finish_trials(
    lab: Lab, matrix: Matrix, without: Iterable[tuple[str, int]] = (), in_runs: bool = False
) -> dict[tuple[str, int], float]:
    """Record the trials; return (row, number of the trial) -> mIoU."""
    left_out, values = set(without), {}
    for r, row in enumerate(get_rows(matrix)):
        for trial in row.trials:
            if (row.name, trial.number) not in left_out:
                miou = 40.0 + 5 * r + (trial.number * 7 + r) % 5
                values[row.name, trial.number] = miou
                lab.finish(trial.run.spec, miou, in_runs)
    return values


def choose(lab: Lab, matrix: Matrix) -> Matrix:
    """The matrix with the choice that follows from the records."""
    trials = [run.run_id for run in make_trial_matrix(matrix).runs]
    choice = choose_settings(matrix, lab.store, trials).choice
    assert choice is not None
    assert matrix.tuning is not None
    return dataclasses.replace(matrix, tuning=dataclasses.replace(matrix.tuning, choice=choice))
