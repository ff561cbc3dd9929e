"""Builds the figure of budgets: the difference to the baseline over the number of iterations.

A row is compared with the baseline of the same budget, seed by seed, as Δ of the tables. Each
budget needs a training to its end: under a polynomial schedule the learning rate reaches its
minimum at the last iteration, so an earlier iteration of a longer training is no smaller budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from protoseg.errors import ProtosegError, UsageError
from protoseg.report import wording
from protoseg.report.figures.contents import (
    AxisPlot,
    BudgetPlot,
    Figure,
    Line,
    Point,
    SettingValues,
    describe_missing_settings,
    make_figure,
)
from protoseg.report.figures.data import FigureInput, Setting
from protoseg.report.statistics.significance import MIN_SEEDS
from protoseg.report.tables.baseline import Baselines
from protoseg.report.tables.cells import OTHER_DATA
from protoseg.report.tables.pairing import pair_settings
from protoseg.report.tables.samples import Samples, make_key

AXIS = "schedule.iterations"
"""The axis that is named where a matrix has no axis of budgets."""


def build_budget_figure(figure_input: FigureInput) -> Figure:
    """Build the figure of differences to the baseline over the number of iterations.

    Raises:
        UsageError: no baseline, no row with two budgets, or a baseline of another budget.
        ProtosegError: no row shares a finished seed with its baseline.
    """
    matrix, metric, baselines = figure_input.matrix, figure_input.metric, figure_input.baselines
    where = f"{matrix.name}: budget"
    if baselines is None:
        raise UsageError(
            f"{where}: this figure shows differences to a baseline, but the table has none. Add "
            "table.baseline, e.g. {label: ...}."
        )
    # Each row has one line, with one setting for each budget.
    lines = _collect_lines(figure_input)
    if all(len(line) < 2 for line in lines.values()):
        raise UsageError(
            f"{where}: no row has two budgets. Add {AXIS} with at least two values to grid."
        )
    points: dict[str, list[Point]] = {}
    notes: list[str] = []
    for name, line in lines.items():
        for iterations, setting in sorted(line.items()):
            base = baselines.find(setting.samples)
            if base is setting.samples:
                continue
            if base is not None and count_iterations(base) != iterations:
                raise UsageError(
                    f"{where}: the baseline of {setting.label} has {count_iterations(base):,} "
                    f"iterations, not {iterations:,}. Leave {AXIS} out of table.baseline."
                )
            values, note = _compute_differences(setting, base, figure_input)
            points.setdefault(name, []).append(Point(float(iterations), values))
            notes += note
    settings = [point.place for line in points.values() for point in line]
    counts = {len(values.seeds) for values in settings if values.seeds}
    if not counts:
        raise ProtosegError(
            f"{where}: no row shares a finished seed with its baseline of the same budget. Train "
            f"with: protoseg sweep {matrix.name}"
        )
    unit = " (points)" if metric.unit == "%" else ""
    axis = AxisPlot(
        wording.name_axis(AXIS, matrix.table.names),
        f"Δ {metric.title}{unit}",
        tuple(Line(name, tuple(line)) for name, line in points.items()),
    )
    baseline = _name_baseline(baselines)
    number = f", n = {wording.format_seeds(*counts)}" if len(counts) == 1 else ""
    few = f" No interval is drawn with fewer than {MIN_SEEDS} seeds." * (min(counts) < MIN_SEEDS)
    texts = [
        f"Difference in {metric.title} to {baseline} of the same budget (dotted): mean, 95% "
        f"Student t interval over paired seeds and single seeds (small){number}. Intervals are not "
        f"corrected for their number.{few} Each budget is a training of its full schedule.",
        *dict.fromkeys(notes),
        *figure_input.describe_protocol(),
        *describe_missing_settings(_list_missing(axis.lines)),
    ]
    content = BudgetPlot(axis, baseline)
    return make_figure(matrix.name, "budget", figure_input.table.title, texts, content)


def has_budgets(figure_input: FigureInput) -> bool:
    """Whether the figure of budgets can be drawn: two budgets, a baseline, and differences."""
    try:
        build_budget_figure(figure_input)
    except ProtosegError:
        return False
    return True


def count_iterations(samples: Samples) -> int:
    """The budget of a setting: iterations of one training."""
    return samples.spec.schedule.iterations


def _collect_lines(figure_input: FigureInput) -> dict[str, dict[int, Setting]]:
    """Name of a line -> iterations -> setting.

    A line has the settings whose other axes are equal. An axis that follows from the iterations,
    such as a zipped warm-up, is none of them.
    """
    matrix, settings = figure_input.matrix, figure_input.settings
    others = [axis for axis in matrix.axes if not _follows_budget(axis, settings)]
    varying = [a for a in others if len({make_key(s.samples.axes, (a,)) for s in settings}) > 1]
    lines: dict[str, dict[int, Setting]] = {}
    for setting in settings:
        axes = setting.samples.axes
        names = [wording.name_group(a, axes.get(a), matrix.table.names) for a in varying]
        line = lines.setdefault(", ".join(filter(None, names)), {})
        line[count_iterations(setting.samples)] = setting
    return lines


def _follows_budget(axis: str, settings: Iterable[Setting]) -> bool:
    """Whether the number of iterations determines the value of an axis."""
    values: dict[int, tuple[str, ...]] = {}
    return all(
        values.setdefault(count_iterations(s.samples), key) == key
        for s in settings
        for key in [make_key(s.samples.axes, (axis,))]
    )


def _compute_differences(
    setting: Setting, base: Samples | None, figure_input: FigureInput
) -> tuple[SettingValues, list[str]]:
    """Pair a setting with its baseline; return the differences, and notes on the compared classes.

    Differences are those of Δ in the table, see `pair_settings`.
    """
    samples, metric = setting.samples, figure_input.metric
    differences: dict[int, float] = {}
    notes: list[str] = []
    missing = "no baseline"
    if base is not None and base.protocol != samples.protocol:
        missing = OTHER_DATA
    elif base is not None:
        pair = pair_settings(samples, base, metric)
        differences = dict(pair.pairs.differences)
        if pair.metric is not metric:
            notes = [*pair.notes[:1]]
        missing = setting.describe_missing(differences, "baseline without result")
    expected = len(samples.runs)
    return SettingValues(setting.label, differences, expected, missing), notes


def _list_missing(lines: Iterable[Line]) -> Iterator[tuple[str, str]]:
    """Yield (line and its budgets, reason) of missing values; budgets of one reason together."""
    for line in lines:
        reasons: dict[str, list[str]] = {}
        for point in line.points:
            reasons.setdefault(point.place.missing, []).append(f"{point.x:,.0f}")
        for reason, budgets in reasons.items():
            yield f"{line.name} at {' and '.join(budgets)} iterations", reason


def _name_baseline(baselines: Baselines) -> str:
    """The baseline in a sentence."""
    return "the baseline" if baselines.arrows else baselines.description
