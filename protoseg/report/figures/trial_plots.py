"""Draws the figures of a search: trials against searched values, and the best of n trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from protoseg.report import wording
from protoseg.report.figures.contents import (
    KeyPanel,
    TrialPlot,
    TrialRow,
    TuningCurve,
    TuningCurvePlot,
)
from protoseg.report.figures.metric_plots import COLUMN, LineStyle, draw_legend, line_style
from protoseg.report.figures.panel_plots import (
    OURS,
    WIDE,
    make_grid,
    name_axes,
    set_log_ticks,
    write_missing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MARKED = 20
"""Up to this number of trials, each number of a tuning curve has a marker."""
SHARED = 3
"""Up to this number, rows share one panel of tuning curves; more bands would hide each other."""
LABEL_POINTS = 3.9
"""Width of a character of a tick label."""


def draw_trials(canvas: Canvas, plot: TrialPlot) -> None:
    """Draw one panel for each searched key; rows differ in marker and colour."""
    count = len(plot.panels)
    is_wide = count > 2
    columns = max(1, min(count, 4 if is_wide else 2))
    lines = math.ceil(count / columns)
    width = WIDE if is_wide else COLUMN
    canvas.set_size_inches(width, 1.55 * lines + 0.1)
    panels: Any = canvas.subplots(lines, columns, sharey=True, squeeze=False)
    grid: list[Axes] = list(panels.flat)
    for axes in grid[count:]:
        axes.remove()
    for axes, panel in zip(grid, plot.panels, strict=False):
        of_key = [row for row in plot.rows if any(panel.key in t.values for t in row.trials)]
        for number, row in enumerate(of_key):
            shift = (number - (len(of_key) - 1) / 2) * min(0.12, 0.56 / len(of_key))
            index = plot.rows.index(row)
            _draw_row(axes, panel, row, line_style(index), index, shift)
        _set_value_axis(axes, panel, 72 * width / columns - 30)
        axes.grid(axis="y")
    for axes in grid[:count:columns]:
        axes.set_ylabel(plot.y_name)
        axes.margins(y=0.09)  # space for rings
    styles = [line_style(index) for index in range(len(plot.rows))]
    handles = [
        Line2D([], [], label=row.name, marker=style.marker, color=style.colour, linestyle="none")
        for row, style in zip(plot.rows, styles, strict=True)
    ]
    if any(row.chosen is not None for row in plot.rows):
        handles.append(Line2D([], [], label="chosen", linestyle="none", **_ring("black")))
    draw_legend(canvas, handles)


def _draw_row(
    axes: Axes, panel: KeyPanel, row: TrialRow, style: LineStyle, index: int, shift: float
) -> None:
    """Draw the trials of a row that searches the key; the chosen one has a ring."""
    trials = [trial for trial in row.trials if panel.key in trial.values]
    at = [_find_position(panel, trial.values[panel.key], shift) for trial in trials]
    results = [trial.result for trial in trials]
    axes.plot(
        at, results, marker=style.marker, color=style.colour, linestyle="", markersize=3.2,
        markeredgewidth=0.5, gid=f"trials-{index}", zorder=3,
    )  # fmt: skip
    chosen = [
        (x, trial.result) for x, trial in zip(at, trials, strict=True) if trial.number == row.chosen
    ]
    if chosen:
        axes.plot(
            *zip(*chosen, strict=True), linestyle="", gid=f"chosen-{index}", zorder=4,
            **_ring(style.colour),
        )  # fmt: skip


def _ring(colour: str) -> dict[str, Any]:
    """The marker around a chosen trial."""
    return {
        "marker": "o",
        "markersize": 7.5,
        "markerfacecolor": "none",
        "markeredgecolor": colour,
        "markeredgewidth": 1.1,
    }


def _find_position(panel: KeyPanel, value: Any, shift: float) -> float:
    """The position of a value; in lists, the rows of one value are beside each other."""
    if panel.scale == "even":
        return panel.values.index(wording.format_value(value)) + shift
    return float(value)


def _set_value_axis(axes: Axes, panel: KeyPanel, points: float) -> None:
    """Set scale, limits, ticks and name of the axis of a key.

    Args:
        axes: the panel.
        panel: the key.
        points: width of the panel in points.
    """
    scale = ""
    if panel.limits is None:
        width = LABEL_POINTS * max(map(len, panel.values)) + 6
        step = math.ceil(len(panel.values) * width / points)
        ticks = range(0, len(panel.values), step)
        axes.set_xticks(ticks, [panel.values[i] for i in ticks])
        axes.set_xlim(-0.6, len(panel.values) - 0.4)
        for i in range(0, len(panel.values), 2):
            axes.axvspan(i - 0.5, i + 0.5, color="0.96", zorder=0, linewidth=0)
    else:
        low, high = panel.limits
        if panel.scale == "log":
            scale = " (log scale)"
            axes.set_xscale("log")
            set_log_ticks(axes.xaxis, _choose_log_steps(high / low))
            reach = (high / low) ** 0.06
            axes.set_xlim(low / reach, high * reach)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
            reach = (high - low) * 0.06
            axes.set_xlim(low - reach, high + reach)
    axes.set_xlabel(panel.name + scale)


def _choose_log_steps(ratio: float) -> tuple[int, ...]:
    """Choose which multiples of powers of ten have ticks, from the ratio of both ends."""
    if ratio < 10:
        return (1, 2, 3, 5, 7) if ratio < 4 else (1, 2, 5)
    return (1, 3) if ratio < 100 else (1,)


def draw_tuning_curves(canvas: Canvas, plot: TuningCurvePlot) -> None:
    """Draw the expected best result and its band; in one panel for few rows, else in one each."""
    last = max(len(curve.mean) for curve in plot.curves)
    if len(plot.curves) <= SHARED:
        canvas.set_size_inches(COLUMN, 2.1)
        axes = canvas.add_subplot()
        grid = [axes]
        handles: list[Line2D] = []
        for index, curve in enumerate(plot.curves):
            if curve.mean:
                style = line_style(index)
                handles += _draw_curve(axes, curve, index, style.colour, style.colour, style)
        axes.set_xlabel("number of trials n")
        axes.set_ylabel(plot.y_name)
        draw_legend(canvas, handles)
    else:
        grid = make_grid(canvas, [curve.name for curve in plot.curves], 0.8, 0.4)
        for index, (axes, curve) in enumerate(zip(grid, plot.curves, strict=True)):
            for other in plot.curves:
                if other is not curve and curve.mean:
                    axes.plot(
                        _numbers(other), other.mean, color="0.75", linewidth=0.6, gid="other",
                        zorder=1,
                    )  # fmt: skip
            _draw_curve(axes, curve, index, OURS, "black", None)
            write_missing(axes, "" if curve.mean else curve.missing)
        name_axes(grid, "number of trials n", plot.y_name)
    for axes in grid:
        axes.grid(axis="y")
    grid[0].xaxis.set_major_locator(
        MaxNLocator(4, integer=True) if last > 1 else FixedLocator([1.0])
    )
    reach = max(0.04 * (last - 1), 0.1)
    grid[0].set_xlim(max(1 - reach, 0.4), last + reach)


def _draw_curve(
    axes: Axes,
    curve: TuningCurve,
    index: int,
    band: str,
    colour: str,
    style: LineStyle | None,
) -> Sequence[Line2D]:
    """Draw one curve and return its line.

    Args:
        axes: the panel.
        curve: the curve; without results, nothing is visible.
        index: number of its row.
        band: colour of the band.
        colour: colour of the line.
        style: marker and dash, where rows share a panel.
    """
    numbers = _numbers(curve)
    axes.fill_between(
        numbers, curve.low, curve.high, color=band, alpha=0.4 if style is None else 0.2,
        linewidth=0, gid=f"band-{index}",
    )  # fmt: skip
    marker = style.marker if style is not None and len(numbers) <= MARKED else ""
    return axes.plot(
        numbers, curve.mean, color=colour, linestyle="-" if style is None else style.dash,
        marker="." if len(numbers) == 1 else marker, markersize=3, linewidth=0.9,
        label=curve.name, gid=f"mean-{index}", zorder=3,
    )  # fmt: skip


def _numbers(curve: TuningCurve) -> range:
    """The numbers of trials of a curve."""
    return range(1, len(curve.mean) + 1)
