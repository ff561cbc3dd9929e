"""Draws panels of one size: loss curves, learning curves, and IoU per class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    MultipleLocator,
    NullLocator,
)
from matplotlib.transforms import ScaledTranslation

from protoseg.report.figures.contents import (
    ClassPanel,
    ClassPlot,
    CurvePanel,
    LossPlot,
    MetricCurvePlot,
)
from protoseg.report.figures.metric_plots import COLUMN, GREY, draw_legend, wrap_label
from protoseg.report.figures.types import NAMED_CLASSES
from protoseg.report.statistics.significance import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Canvas

WIDE = 6.9
"""Width in inches of both columns of a paper."""
OURS, THEIRS = "#0072B2", "#D55E00"


def draw_loss(canvas: Canvas, plot: LossPlot) -> None:
    """Draw one panel per setting: mean and range over seeds, and the baseline mean in grey."""
    axes = _draw_curves(canvas, plot.panels, "loss")
    drawn = [v for panel in plot.panels for values in panel.seeds.values() for v in values]
    if min(drawn) > 0 and max(drawn) / min(drawn) >= 5:
        axes.set_yscale("log")
        set_log_ticks(axes.yaxis, (1, 2, 5))


def draw_metric_curves(canvas: Canvas, plot: MetricCurvePlot) -> None:
    """Draw one panel per setting, as `draw_loss`."""
    _draw_curves(canvas, plot.panels, "mIoU (%)")


def _draw_curves(canvas: Canvas, panels: Sequence[CurvePanel], y_name: str) -> Axes:
    """Draw a panel for each setting and return one of their axes, which share both scales."""
    grid = make_grid(canvas, [panel.label for panel in panels], 0.8, 0.4)
    means = {
        panel.label: [mean(values) for values in zip(*panel.seeds.values(), strict=True)]
        for panel in panels
    }
    iterations = {panel.label: panel.iterations for panel in panels}
    for axes, panel in zip(grid, panels, strict=True):
        base = panel.baseline
        if base != panel.label:
            dot = "." if len(iterations[base]) == 1 else ""
            axes.plot(
                iterations[base], means[base], color="0.65", marker=dot, linewidth=0.8,
                gid="baseline",
            )  # fmt: skip
        if panel.seeds:
            every = [*zip(*panel.seeds.values(), strict=True)]
            low, high = [min(values) for values in every], [max(values) for values in every]
            axes.fill_between(
                panel.iterations, low, high, color=OURS, alpha=0.4, linewidth=0, gid="range"
            )
            dot = "." if len(every) == 1 else ""
            axes.plot(
                panel.iterations, means[panel.label], color="black", marker=dot,
                linewidth=0.8, gid="mean",
            )  # fmt: skip
        axes.grid(axis="y")
        write_missing(axes, "" if panel.seeds else panel.missing)
    last = max(i for panel in panels for i in panel.iterations)
    ticks = [i for i in MaxNLocator(3, integer=True).tick_values(0, last) if 0 <= i <= last]
    thousands = last >= 10_000
    names = [f"{i / 1000:g}k" if thousands and i else f"{i:g}" for i in ticks]
    grid[0].set_xlim(-0.03 * last, 1.04 * last)
    for axes in grid:  # fixed ticks: matplotlib would replace a label left out of the layout
        axes.set_xticks(ticks, names)
    name_axes(grid, "iteration", y_name)
    for axes in grid:  # a label left out of the layout would be cut off at the right edge
        for label in axes.get_xticklabels()[-1:]:
            label.set_horizontalalignment("center" if label.get_in_layout() else "right")
    return grid[0]


def draw_classes(canvas: Canvas, plot: ClassPlot) -> None:
    """Draw one panel per setting: IoU per class of its baseline (hollow) and its own (filled)."""
    shares = plot.shares
    names = list(shares)
    named = len(names) <= NAMED_CLASSES
    if not named:  # a class without pixels cannot be drawn on a logarithmic axis
        names = [name for name in names if shares[name] > 0]
    at = {name: float(i) if named else shares[name] for i, name in enumerate(names)}
    grid = make_grid(canvas, [panel.label for panel in plot.panels], 0.85, 1.0 if named else 0.45)
    for axes, panel in zip(grid, plot.panels, strict=False):
        _draw_class_panel(axes, panel, at, 1.0 if named else 0.6)
        if named:
            axes.set_xlim(-0.7, len(names) - 0.3)
            ticks = [f"{name} {_format_percent(shares[name])}" for name in names]
            axes.set_xticks(range(len(names)), ticks, rotation=90, fontsize=5.5)
            axes.tick_params(axis="x", length=2)
        else:
            axes.set_xscale("log")
            set_log_ticks(axes.xaxis, (1,))
            axes.set_xlim(max(at.values()) * 1.5, min(at.values()) / 1.5)
    grid[0].yaxis.set_major_locator(MultipleLocator(25))
    _set_class_limits(grid[0], plot)
    name_axes(grid, "" if named else "pixels (%), log scale", "IoU (%)")
    common = {panel.baseline for panel in plot.panels}
    ours = Line2D([], [], color=OURS, marker="o", linestyle="", label="setting of the panel")
    theirs = Line2D(
        [], [], color=THEIRS, marker="o", markerfacecolor="white", linestyle="",
        label=common.pop() if len(common) == 1 else "its baseline",
    )  # fmt: skip
    draw_legend(canvas, [theirs, ours])


def _draw_class_panel(axes: Axes, panel: ClassPanel, at: dict[str, float], size: float) -> None:
    ours = {name: mean(panel.ours[name].values()) for name in at if name in panel.ours}
    theirs = {name: mean(panel.theirs[name].values()) for name in at if name in panel.theirs}
    for name in [name for name in ours if name in theirs]:
        change = [theirs[name], ours[name]]
        axes.plot([at[name]] * 2, change, color="0.6", linewidth=0.8 * size, zorder=1)
    seeds = [(at[n], v) for n in ours for v in panel.ours[n].values()]
    if seeds and size == 1.0:
        aside = ScaledTranslation(2.8 / 72, 0, axes.figure.dpi_scale_trans)
        axes.plot(
            *zip(*seeds, strict=True), linestyle="", marker=".", markersize=1.8, color="black",
            transform=axes.transData + aside, gid="seeds",
        )  # fmt: skip
    for values, colour, fill, gid in (
        (theirs, THEIRS, "white", "theirs"),
        (ours, OURS, OURS, "ours"),
    ):
        axes.plot(
            [at[n] for n in values], list(values.values()), linestyle="", marker="o",
            markersize=3.2 * size, color=colour, markerfacecolor=fill, markeredgewidth=0.7,
            gid=gid, zorder=3,
        )  # fmt: skip
    axes.grid(axis="y")
    if not panel.ours:
        write_missing(axes, panel.missing)
    elif not panel.theirs:
        write_missing(axes, f"no result of {panel.baseline}")


def _set_class_limits(axes: Axes, plot: ClassPlot) -> None:
    sides = [side for panel in plot.panels for side in (panel.ours, panel.theirs)]
    drawn = [v for side in sides for seeds in side.values() for v in seeds.values()]
    axes.set_ylim(min(drawn) - 5, max(drawn) + 5)


def set_log_ticks(axis: Axis, steps: tuple[int, ...]) -> None:
    """Label a log axis with plain numbers; powers of ten would need math text, which is off."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _format_percent(share: float) -> str:
    if share == 0:
        return "(none)"
    return f"{share:.0f} %" if share >= 1 else f"{share:.1g} %"


def make_grid(canvas: Canvas, labels: list[str], height: float, foot: float) -> list[Axes]:
    """Make panels of one size that share both axes.

    Args:
        labels: panel titles.
        height: height of a panel, in inches.
        foot: space below the last row, in inches.
    """
    count = len(labels)
    wide = count > 4
    columns = min(count, 4 if wide else 2)
    rows = math.ceil(count / columns)
    titles = [wrap_label(label, 27 if count > 1 else 60) for label in labels]
    head = 0.1 * max(map(len, titles)) + 0.1
    canvas.set_size_inches(WIDE if wide else COLUMN, rows * (height + head) + foot)
    panels: Any = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    grid: list[Axes] = list(panels.flat)
    for axes, lines in zip(grid, titles, strict=False):
        axes.set_title("\n".join(lines), loc="left")
    for axes in grid[count:]:
        axes.remove()
    return grid[:count]


def name_axes(grid: list[Axes], x_name: str, y_name: str) -> None:
    """Name the y axis of each row, and the x axis below the last panel of each column."""
    positions = [axes.get_subplotspec() for axes in grid]
    last = {p.colspan.start: axes for axes, p in zip(grid, positions, strict=True) if p}
    for axes, position in zip(grid, positions, strict=True):
        assert position is not None
        if position.is_first_col():
            axes.set_ylabel(y_name)
        if last[position.colspan.start] is not axes:
            continue
        axes.tick_params(axis="x", labelbottom=True)
        if position.is_last_row():
            axes.set_xlabel(x_name)
            continue
        for label in axes.get_xticklabels():  # the empty position below has space for them
            label.set_in_layout(False)


def write_missing(axes: Axes, missing: str) -> None:
    """Write the reason for missing values into the corner of a panel."""
    if missing:
        axes.text(
            0.98, 0.95, missing, transform=axes.transAxes, ha="right", va="top",
            style="italic", color=GREY, fontsize=6, gid="missing", wrap=True,
        )  # fmt: skip
