"""Builds the figure types of a search: its trials, and the best of n trials.

They need the records of trials only, so they can be drawn before settings are chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from protoseg.config.matrix import Matrix, Tuning
from protoseg.config.tuning.search_space import Choice, Space
from protoseg.errors import ProtosegError, UsageError
from protoseg.report import wording
from protoseg.report.figures.contents import (
    Figure,
    KeyPanel,
    TrialPlot,
    TrialPoint,
    TrialRow,
    TuningCurve,
    TuningCurvePlot,
    make_figure,
)
from protoseg.report.level_metrics import with_levels
from protoseg.report.metrics import METRICS, Metric
from protoseg.report.statistics.tuning_curve import compute_best_of_trials
from protoseg.report.tuning.choose import list_excused_runs
from protoseg.report.tuning.notes import describe_inequality, describe_split
from protoseg.report.tuning.rungs import read_rungs
from protoseg.runs.store import RecordStore


@dataclass(frozen=True)
class TrialInput:
    """A search with the results of its finished trials."""

    matrix: Matrix
    tuning: Tuning
    metric: Metric
    """The metric that selects."""
    rows: tuple[TrialRow, ...]
    missing: tuple[str, ...]
    """State of each trial without a result, over all rows."""

    @property
    def title(self) -> str:
        """Title of the figures."""
        return f"Trials of {wording.clean_text(self.matrix.title)}"

    @property
    def y_name(self) -> str:
        """The metric that selects, with its unit."""
        return f"{self.metric.title} (%)" if self.metric.unit == "%" else self.metric.title

    def list_notes(self) -> list[str]:
        """Sentences on the trials: those left out, the selection, and unequal tuning."""
        planned = sum(row.planned for row in self.rows)
        notes = []
        if self.missing:
            states = wording.summarise_states(self.missing)
            notes.append(f"Left out: {len(self.missing)} of {planned} trials ({states}).")
        if self.tuning.is_oracle:
            notes.append("This is an oracle: settings are selected on images that a table reports.")
        inequality = describe_inequality(self.matrix)
        return [*notes, inequality] if inequality else notes


def read_trial_input(matrix: Matrix, store: RecordStore, figure_type: str) -> TrialInput:
    """Read the results of the trials of a matrix.

    Args:
        store: records of the trials.
        figure_type: named in messages.

    Raises:
        UsageError: the matrix has no search; or tuning curves of trials that end early.
        ProtosegError: no trial has finished, or two places hold different results of a trial.
    """
    tuning = matrix.tuning
    if tuning is None:
        raise UsageError(
            f"{matrix.name}: {figure_type}: it has no search. Name a matrix with a block tune."
        )
    if tuning.block.halving.rungs and figure_type == "tuning_curves":
        raise UsageError(
            f"{matrix.name}: {figure_type}: its trials end early (tune.halving), so the best of n "
            "of them is unknown. Draw trials."
        )
    metric = METRICS[tuning.selection.metric]
    store = with_levels(matrix, store, [metric.key])
    excused = list_excused_runs(tuning.choice) if tuning.choice else set()
    chosen = {row["row"]: row["chosen"] for row in (tuning.choice or {}).get("rows", ())}
    rows: list[TrialRow] = []
    states: list[str] = []
    for row in tuning.rows:
        # With a successive halving: the trials that were compared last.
        rung = read_rungs(row, tuning, store, excused)[-1]
        values = rung.values
        missing = [*rung.missing.values()]
        missing += ["ended early"] * (len(row.trials) - len(rung.runs))
        points = [TrialPoint(t.number, t.values, values[t.number]) for t in row.trials
                  if t.number in values]  # fmt: skip
        lost = f"{len(missing)} of {len(row.trials)} trials" if values else ""
        summary = wording.summarise_states(missing) if missing else ""
        name, number = wording.clean_text(row.name), chosen.get(row.name)
        text = ": ".join(filter(None, (lost, summary))) if missing else ""
        rows.append(TrialRow(name, tuple(points), len(row.trials), number, text))
        states += missing
    if not any(row.trials for row in rows):
        raise ProtosegError(
            f"{matrix.name}: {figure_type}: no trial has finished, so there is nothing to draw. "
            f"Train with: protoseg sweep {matrix.name}"
        )
    return TrialInput(matrix, tuning, metric, tuple(rows), tuple(states))


def build_trial_figure(trials: TrialInput) -> Figure:
    """Build the figure of results against searched values, one panel for each key."""
    chosen = "Ring: the chosen trial of a row." if trials.tuning.choice else "Not chosen yet."
    notes = [
        f"{trials.metric.title} of each trial on {describe_split(trials.tuning)}, against the "
        f"values of the searched keys. {chosen}",
        *trials.list_notes(),
    ]
    content = TrialPlot(trials.y_name, tuple(_list_panels(trials)), trials.rows)
    return make_figure(trials.matrix.name, "trials", trials.title, notes, content)


def build_tuning_curve_figure(trials: TrialInput) -> Figure:
    """Build the figure of the best of n trials against n, one line for each row."""
    curves = []
    for row in trials.rows:
        results = tuple(trial.result for trial in row.trials)
        best = compute_best_of_trials(results, higher_is_better=trials.metric.higher_is_better)
        curves.append(TuningCurve(row.name, results, best.mean, best.low, best.high, row.missing))
    notes = [
        f"Best {trials.metric.title} on {describe_split(trials.tuning)} of n trials: mean (line) "
        "and 95% range (band) over all resamples of n of the finished trials of a row, with "
        "replacement.",
        *trials.list_notes(),
    ]
    content = TuningCurvePlot(f"best {trials.y_name}", tuple(curves))
    return make_figure(trials.matrix.name, "tuning_curves", trials.title, notes, content)


def _list_panels(trials: TrialInput) -> Iterator[KeyPanel]:
    """Yield the axis of each key, in the order in which rows search them."""
    spaces: dict[str, list[Space]] = {}
    for row in trials.tuning.rows:
        for key, space in row.spaces.items():
            spaces.setdefault(key, []).append(space)
    names = {key: wording.name_axis(key, trials.matrix.table.names) for key in spaces}
    shared = {name for name, number in Counter(names.values()).items() if number > 1}
    for key, of_key in spaces.items():
        name = key if names[key] in shared else names[key]
        lists = [space for space in of_key if isinstance(space, Choice)]
        ranges = [space for space in of_key if not isinstance(space, Choice)]
        listed = [value for space in lists for value in space.values]
        if not ranges or not all(map(_is_number, listed)):
            tried = [t.values[key] for row in trials.rows for t in row.trials if key in t.values]
            yield KeyPanel(key, name, "even", None, _sort_values([*listed, *tried]))
            continue
        ends = [*(e for space in ranges for e in (space.low, space.high)), *map(float, listed)]
        is_log = min(ends) > 0 and any(space.scale == "log_uniform" for space in ranges)
        yield KeyPanel(key, name, "log" if is_log else "linear", (min(ends), max(ends)), ())


def _sort_values(values: list[Any]) -> tuple[str, ...]:
    """The different values as text: numbers by size, others in their order."""
    if all(map(_is_number, values)):
        values = sorted(values)
    return tuple(dict.fromkeys(map(wording.format_value, values)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TRIAL_TYPES: dict[str, Callable[[TrialInput], Figure]] = {
    "trials": build_trial_figure,
    "tuning_curves": build_tuning_curve_figure,
}
"""Type of a figure of trials -> the function that builds it."""
