"""Makes the charts of a page from the data of the figures of its matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from protoseg.errors import ProtosegError
from protoseg.report import wording
from protoseg.report.figures.builder import FigureBuilder
from protoseg.report.figures.contents import (
    AxisPlot,
    BudgetPlot,
    CurvePanel,
    DotPlot,
    Figure,
    KeyPanel,
    LossPlot,
    MetricCurvePlot,
    SettingValues,
    TrialPlot,
    TrialRow,
    TuningCurvePlot,
)
from protoseg.report.figures.numeric_axis import choose_log_scale, choose_scale
from protoseg.report.page.model import Chart, DotChart, DotRow, Series
from protoseg.report.statistics.significance import MIN_SEEDS, mean, t_interval

RESULT_TYPES = ("metric", "budget", "curves", "loss")
"""Figure types of the final runs, in the order of the page."""
TRIAL_TYPES = ("tuning_curves", "trials")
ITERATIONS = "Iteration"


def build_charts(builder: FigureBuilder, types: Sequence[str]) -> list[Chart | DotChart]:
    """Build the charts that the records have data for.

    Args:
        builder: of the figures of the matrix.
        types: figure types.
    """
    charts: list[Chart | DotChart] = []
    for name in types:
        try:
            figure = builder.build(name)
        except ProtosegError:
            continue  # this matrix has no such figure
        made = _make_charts(figure)
        charts += [each for each in made if isinstance(each, DotChart) or each.series]
    return charts


def _make_charts(figure: Figure) -> Iterator[Chart | DotChart]:
    content, notes = figure.content, figure.notes
    if isinstance(content, DotPlot):
        yield _make_dots(content, notes)
    elif isinstance(content, AxisPlot):
        yield _make_axis(content, f"{content.y_name} over {content.x_name}", notes)
    elif isinstance(content, BudgetPlot):
        title = f"Difference to {content.baseline} over {content.axis.x_name}"
        yield _make_axis(content.axis, title, notes, is_budget=True)
    elif isinstance(content, LossPlot):
        text = (
            "Training loss, each point the mean since the one before: mean over seeds and their "
            "range (band). What is summed up in the loss differs between methods."
        )
        yield _make_curves(content.panels, "Training loss", "Loss", [text, *notes[1:]])
    elif isinstance(content, MetricCurvePlot):
        text = "mIoU of the model during the training: mean over seeds and their range (band)."
        yield _make_curves(
            content.panels, "mIoU during the training", "mIoU (%)", [text, *notes[1:]]
        )
    elif isinstance(content, TuningCurvePlot):
        series = [
            Series(
                curve.name, tuple(range(1, len(curve.mean) + 1)), curve.mean, curve.low, curve.high
            )
            for curve in content.curves
        ]
        title = "Best result of n trials"
        yield Chart(title, "Trials (n)", content.y_name, _fill(series), notes)
    elif isinstance(content, TrialPlot):
        for panel in content.panels:
            yield _make_trials(content, panel, notes)


def _make_dots(plot: DotPlot, notes: Sequence[str]) -> DotChart:
    rows = []
    for label, settings in plot.rows:
        for group, setting in zip(plot.groups, settings, strict=True):
            if setting is None:
                continue
            values, interval = _summarise(setting)
            name = ", ".join(part for part in (label, group) if part)
            rows.append(
                DotRow(
                    name,
                    tuple(setting.seeds.values()),
                    values,
                    interval,
                    setting.missing,
                    setting.published,
                )
            )
    return DotChart(
        f"{plot.x_name} of each row", plot.x_name, tuple(rows), plot.baseline, (*notes,)
    )


def _summarise(setting: SettingValues) -> tuple[float, tuple[float, float] | None]:
    """The mean of a setting (nan without a value), and its 95% t interval from 3 seeds on."""
    values = list(setting.seeds.values())
    return mean(values), t_interval(values) if len(values) >= MIN_SEEDS else None


def _make_axis(plot: AxisPlot, title: str, notes: Sequence[str], is_budget: bool = False) -> Chart:
    values = sorted({point.x for line in plot.lines for point in line.points})
    scale = choose_log_scale(values) if is_budget else choose_scale(values)
    series = []
    for line in plot.lines:
        measured = [p for p in line.points if p.place.seeds]
        summaries = [_summarise(p.place) for p in measured]
        ends = [interval or (math.nan, math.nan) for _, interval in summaries]
        series.append(
            Series(
                line.name or plot.y_name,
                tuple(p.x for p in measured),
                tuple(centre for centre, _ in summaries),
                tuple(low for low, _ in ends),
                tuple(high for _, high in ends),
                tuple(tuple(p.place.seeds.values()) for p in measured),
            )
        )
        published = [p for p in line.points if p.place.published is not None]
        if published:
            series.append(
                Series(
                    f"{line.name or plot.y_name}, published",
                    tuple(p.x for p in published),
                    tuple(float(p.place.published or 0.0) for p in published),
                )
            )
    return Chart(
        title,
        plot.x_name,
        plot.y_name,
        _fill(series),
        (*notes,),
        "line",
        scale,
        (*values,),
        has_zero=is_budget,
    )


def _make_curves(
    panels: Sequence[CurvePanel], title: str, y_name: str, notes: Sequence[str]
) -> Chart:
    series = []
    for panel in panels:
        columns = list(zip(*panel.seeds.values(), strict=True))
        several = len(panel.seeds) > 1
        series.append(
            Series(
                panel.label,
                tuple(map(float, panel.iterations)),
                tuple(map(mean, columns)),
                tuple(map(min, columns)) if several else (),
                tuple(map(max, columns)) if several else (),
            )
        )
    return Chart(title, ITERATIONS, y_name, _fill(series), (*notes,))


def _make_trials(plot: TrialPlot, panel: KeyPanel, notes: Sequence[str]) -> Chart:
    def position(row: TrialRow, index: int) -> float:
        value = row.trials[index].values[panel.key]
        if panel.scale == "even":
            return float(panel.values.index(wording.format_value(value)))
        return float(value)

    series = []
    for row in plot.rows:
        indices = [i for i, trial in enumerate(row.trials) if panel.key in trial.values]
        xs = tuple(position(row, i) for i in indices)
        chosen = [n for n, i in enumerate(indices) if row.trials[i].number == row.chosen]
        results = tuple(row.trials[i].result for i in indices)
        series.append(Series(row.name, xs, results, ring=chosen[0] if chosen else None))
    is_even = panel.scale == "even"
    ticks = tuple(map(float, range(len(panel.values)))) if is_even else ()
    texts = panel.values if is_even else ()
    scale = "log" if panel.scale == "log" else "linear"
    title = f"{plot.y_name} of trials over {panel.name}"
    return Chart(title, panel.name, plot.y_name, _fill(series), (*notes,), "points", scale,
                 ticks, texts)  # fmt: skip


def _fill(series: Sequence[Series]) -> tuple[Series, ...]:
    """The series that have a point."""
    return tuple(each for each in series if each.x)
