"""Draws a metric over a numeric axis or by row."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from protoseg.report import wording
from protoseg.report.figures.contents import AxisPlot, BudgetPlot, DotPlot, SettingValues
from protoseg.report.figures.numeric_axis import Scale, choose_log_scale, choose_scale
from protoseg.report.statistics.significance import MIN_SEEDS, mean, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLUMN = 3.3
"""Width in inches of one column of a paper."""
GREY = "0.45"
ROW_LABEL = 27
"""Characters per line of a row label."""


@dataclass(frozen=True)
class LineStyle:
    """Colour, marker and dash of a line or group; each alone distinguishes it."""

    colour: str
    marker: str
    dash: Any


# Colours of Okabe and Ito, with grey in place of yellow, which is too light on paper. Neighbours in
# this order differ in lightness, so that they differ in a grey print.
_COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C8C8C")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (7, 2)))


def line_style(index: int) -> LineStyle:
    """Return the style of the line with this index."""
    return LineStyle(
        _COLOURS[index % len(_COLOURS)],
        _MARKERS[index % len(_MARKERS)],
        _DASHES[index % len(_DASHES)],
    )


def seed_interval(setting: SettingValues) -> tuple[float, float] | None:
    """Compute the 95% t interval of a setting; None with fewer than `MIN_SEEDS` seeds."""
    return t_interval(setting.seeds.values()) if len(setting.seeds) >= MIN_SEEDS else None


def draw_axis(
    canvas: Canvas, plot: AxisPlot, choose: Callable[[Sequence[float]], Scale] = choose_scale
) -> Axes:
    """Draw lines over a numeric axis; a missing value is a cross at the bottom and a gap.

    Args:
        canvas: the empty figure.
        plot: the lines.
        choose: chooses the scale of the axis from its values.
    """
    values = sorted({point.x for line in plot.lines for point in line.points})
    scale = choose(values)
    at = {x: float(i) if scale == "even" else x for i, x in enumerate(values)}
    canvas.set_size_inches(COLUMN, 2.3)
    axes = canvas.add_subplot()
    if scale == "log":
        axes.set_xscale("log")
    handles: list[Any] = []
    for index, line in enumerate(plot.lines):
        style = line_style(index)
        shift = _shift_line(index, len(plot.lines))
        aside = axes.transData + ScaledTranslation(shift, 0, canvas.dpi_scale_trans)
        settings = [(at[point.x], point.place) for point in line.points]
        means = [mean(p.seeds.values()) if p.seeds else math.nan for _, p in settings]
        (handle,) = axes.plot(
            [x for x, _ in settings],
            means,
            color=style.colour,
            marker=style.marker,
            linestyle=style.dash,
            transform=aside,
            label=line.name,
            gid=f"mean-{index}",
            zorder=3,
        )
        # A single line has no name; without this check matplotlib would invent one.
        handles += [handle] if line.name else []
        _draw_seeds(axes, canvas, settings, style, shift, index)
        for x, setting in settings:
            interval = seed_interval(setting)
            if interval is not None:
                axes.plot([x, x], interval, color=style.colour, transform=aside, gid="interval")
            if not setting.seeds:
                up = ScaledTranslation(shift, 5 / 72, canvas.dpi_scale_trans)
                foot = blended_transform_factory(axes.transData, axes.transAxes) + up
                axes.plot(
                    [x], [0.0], marker="x", color=style.colour, linestyle="", transform=foot,
                    gid=f"missing-{index}", clip_on=False,
                )  # fmt: skip
        published = [math.nan if p.published is None else p.published for _, p in settings]
        if not all(map(math.isnan, published)):
            axes.plot(
                [x for x, _ in settings], published, color=style.colour, marker=style.marker,
                linestyle=":", markerfacecolor="white", linewidth=0.8, transform=aside,
                gid=f"published-{index}",
            )  # fmt: skip
    _draw_ticks(axes, plot, values, at, scale)
    drawn_settings = [p.place for line in plot.lines for p in line.points]
    _set_limits(axes, drawn_settings, "y")
    if any(setting.published is not None for setting in drawn_settings):
        handles.append(_legend_entry("published (hollow)", _MARKERS[0], GREY, ":"))
    if any(not setting.seeds for setting in drawn_settings):
        handles.append(_legend_entry("no result", "x", GREY))
    draw_legend(canvas, handles)
    return axes


def draw_budget(canvas: Canvas, plot: BudgetPlot) -> None:
    """Draw differences over the number of iterations as `draw_axis`, and the baseline at 0."""
    axes = draw_axis(canvas, plot.axis, choose_log_scale)
    axes.axhline(0.0, color=GREY, linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=1, gid="baseline")
    low, high = axes.get_ylim()
    reach = 0.06 * (max(high, 0.0) - min(low, 0.0))
    axes.set_ylim(min(low, -reach), max(high, reach))


def _shift_line(index: int, count: int) -> float:
    """Shift of a line to the right on paper, in inches, so that intervals do not overlap."""
    return (index - (count - 1) / 2) * (7 if count == 2 else 5) / 72


def _draw_seeds(
    axes: Axes, canvas: Canvas, settings: Sequence[Any], style: LineStyle, shift: float, index: int
) -> None:
    points = [(x, value) for x, setting in settings for value in setting.seeds.values()]
    if points:
        beside = axes.transData + ScaledTranslation(shift + 2.4 / 72, 0, canvas.dpi_scale_trans)
        axes.plot(
            *zip(*points, strict=True), color=style.colour, marker=".", linestyle="",
            markersize=2.2, transform=beside, gid=f"seeds-{index}",
        )  # fmt: skip


def _draw_ticks(
    axes: Axes, plot: AxisPlot, values: list[float], at: dict[float, float], scale: str
) -> None:
    shown = values
    if len(values) > 10:  # not all labels fit
        shown = values[:: math.ceil(len(values) / 8)]
    axes.set_xticks([at[x] for x in shown], [wording.format_value(x) for x in shown])
    axes.set_xticks([], minor=True)
    suffix = {"log": " (log scale)", "even": " (evenly spaced)"}.get(scale, "")
    axes.set_xlabel(plot.x_name + suffix)
    axes.set_ylabel(plot.y_name)
    ends = [at[values[0]], at[values[-1]]]
    # About 2.6 inches of the width are those of the axis; its ends are beside the shifted lines.
    margin = _shift_line(len(plot.lines) - 1, len(plot.lines)) + 0.05
    share = max(0.07, margin / (2.6 - 2 * margin))
    if scale == "log":
        reach = (ends[1] / ends[0]) ** share
        axes.set_xlim(ends[0] / reach, ends[1] * reach)
    else:
        reach = (ends[1] - ends[0]) * share
        axes.set_xlim(ends[0] - reach, ends[1] + reach)
    axes.grid(axis="y")


def _set_limits(axes: Axes, settings: Sequence[SettingValues], axis: str) -> None:
    """Set the limits around all values; matplotlib's limits ignore shifted artists."""
    drawn = [
        v
        for setting in settings
        for v in (*setting.seeds.values(), *(seed_interval(setting) or ()))
    ]
    drawn += [setting.published for setting in settings if setting.published is not None]
    low, high = min(drawn), max(drawn)
    reach = (high - low) * 0.06 or max(abs(high) * 0.02, 0.5)
    # The crosses of missing values need space at the bottom.
    has_crosses = axis == "y" and any(not setting.seeds for setting in settings)
    limits = (low - reach * (3 if has_crosses else 1), high + reach)
    if axis == "y":
        axes.set_ylim(*limits)
    else:
        axes.set_xlim(*limits)


def draw_dots(canvas: Canvas, plot: DotPlot) -> None:
    """Draw one row per setting: mean, interval and seeds, or the reason why there is no value."""
    labels = [wrap_label(row, ROW_LABEL) for row, _ in plot.rows]
    groups = len(plot.groups)
    heights = [max(0.115 * len(lines), 0.15 * groups) + 0.09 for lines in labels]
    canvas.set_size_inches(COLUMN, sum(heights) + 0.42)
    axes = canvas.add_subplot()
    centres, top = [], 0.0
    for height in heights:
        centres.append(top + height / 2)
        top += height
    for index, (_, settings) in enumerate(plot.rows):
        for group, setting in enumerate(settings):
            offset = (group - (groups - 1) / 2) * 0.15
            if setting is not None:
                _draw_dot(axes, setting, centres[index] + offset, line_style(group))
        if index % 2 == 0:
            low = centres[index] - heights[index] / 2
            axes.axhspan(low, low + heights[index], color="0.96", zorder=0, linewidth=0)
    base = [p for _, settings in plot.rows for p in settings if p and plot.baseline == p.label]
    if base:
        axes.axvline(
            mean(base[0].seeds.values()), color=GREY, linewidth=0.6, linestyle=(0, (1, 1.5)),
            zorder=1, gid="baseline",
        )  # fmt: skip
    axes.set_yticks(centres, ["\n".join(lines) for lines in labels])
    axes.set_ylim(top, 0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(plot.x_name)
    axes.grid(axis="x")
    drawn_settings = [setting for _, settings in plot.rows for setting in settings if setting]
    _set_limits(axes, drawn_settings, "x")
    names = plot.groups if groups > 1 else ()
    styles = [line_style(index) for index in range(len(names))]
    handles = [
        _legend_entry(name, style.marker, style.colour)
        for name, style in zip(names, styles, strict=True)
    ]
    if any(setting.published is not None for setting in drawn_settings):
        handles.append(_legend_entry("published (hollow)", "D", GREY, "none"))
    draw_legend(canvas, handles)


def _draw_dot(axes: Axes, setting: SettingValues, y: float, style: LineStyle) -> None:
    if setting.published is not None:
        axes.plot(
            [setting.published], [y], marker="D", linestyle="", color=style.colour,
            markerfacecolor="white", gid="published", zorder=2,
        )  # fmt: skip
    if not setting.seeds:
        across = blended_transform_factory(axes.transAxes, axes.transData)
        axes.text(
            0.02, y, setting.missing, transform=across, style="italic", color=GREY,
            fontsize=6, va="center", gid="missing",
        )  # fmt: skip
        return
    interval = seed_interval(setting)
    if interval is not None:
        axes.plot(interval, [y, y], color=style.colour, gid="interval", zorder=2)
    axes.plot(
        [mean(setting.seeds.values())], [y], marker=style.marker, linestyle="", color=style.colour,
        gid="mean", zorder=3,
    )  # fmt: skip
    values = list(setting.seeds.values())
    below = axes.transData + ScaledTranslation(0, -3.5 / 72, axes.figure.dpi_scale_trans)
    axes.plot(
        values, [y] * len(values), marker=".", linestyle="", markersize=2.2, color=style.colour,
        transform=below, gid="seeds",
    )  # fmt: skip
    if len(values) < setting.expected:
        axes.annotate(
            f"{len(values)} of {setting.expected}", (1, y), xycoords=axes.get_yaxis_transform(),
            ha="right", va="center", fontsize=6, style="italic", color=GREY, gid="missing",
        )  # fmt: skip


def _legend_entry(label: str, marker: str, colour: str, hollow: str = "") -> Line2D:
    """Make a legend entry; ``hollow`` is the dash of a thin line with a hollow marker."""
    more: dict[str, Any] = {"markerfacecolor": "white", "linewidth": 0.8} if hollow else {}
    dash: Any = hollow or "none"
    return Line2D([], [], label=label, marker=marker, color=colour, linestyle=dash, **more)


def wrap_label(label: str, width: int) -> list[str]:
    """Wrap a label into lines, but not within "K = 10" or "scores / 0.1"."""
    for sign in ("=", "/"):
        label = label.replace(f" {sign} ", f"\N{NO-BREAK SPACE}{sign}\N{NO-BREAK SPACE}")
    return textwrap.wrap(label, width) or [""]


def draw_legend(canvas: Canvas, handles: Sequence[Any]) -> None:
    """Draw the legend above the axes in as many columns as fit; nothing without handles."""
    if not handles:
        return
    longest = max(len(str(handle.get_label())) for handle in handles)
    inches = canvas.get_size_inches()[0]
    columns = max(1, min(len(handles), int(inches / (0.055 * longest + 0.38))))
    rows = math.ceil(len(handles) / columns)
    canvas.set_size_inches(inches, canvas.get_size_inches()[1] + 0.13 * rows)
    lines = any(handle.get_linestyle() != "None" for handle in handles)
    canvas.legend(
        handles=list(handles), loc="outside upper left", ncols=columns,
        handlelength=2.2 if lines else 1.0,
    )  # fmt: skip
