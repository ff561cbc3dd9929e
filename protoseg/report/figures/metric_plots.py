"""Drawing a metric: against a numeric axis, or row by row."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from protoseg.report import wording
from protoseg.report.figures.data import AxisPlot, DotPlot, SettingValues
from protoseg.report.figures.numeric_axis import scale
from protoseg.report.statistics.significance import MIN_SEEDS, mean, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLUMN = 3.3
"""Width in inches of one column of a paper."""
GREY = "0.45"
ROW_LABEL = 27
"""Characters of a row's label on one line."""


@dataclass(frozen=True)
class Look:
    """How one line or group is told from the others: by colour, marker and dash at once."""

    colour: str
    marker: str
    dash: Any


# Okabe and Ito's colours, those next to each other far apart in lightness, so that they stay apart
# in grey; yellow is too light for a line on paper.
_COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (7, 2)))


def look(index: int) -> Look:
    """The look of line number ``index``."""
    return Look(
        _COLOURS[index % len(_COLOURS)],
        _MARKERS[index % len(_MARKERS)],
        _DASHES[index % len(_DASHES)],
    )


def interval(place: SettingValues) -> tuple[float, float] | None:
    """The 95 % interval of a place; None with fewer seeds than say anything."""
    return t_interval(place.seeds.values()) if len(place.seeds) >= MIN_SEEDS else None


def draw_axis(canvas: Canvas, plot: AxisPlot) -> None:
    """Lines over a numeric axis; a place without a value is a cross at the bottom, and a gap."""
    values = sorted({point.x for line in plot.lines for point in line.points})
    kind = scale(values)
    at = {x: float(i) if kind == "even" else x for i, x in enumerate(values)}
    canvas.set_size_inches(COLUMN, 2.3)
    axes = canvas.add_subplot()
    if kind == "log":
        axes.set_xscale("log")
    handles: list[Any] = []
    for index, line in enumerate(plot.lines):
        style = look(index)
        # Shifted on paper and not in the data, so that intervals stand side by side.
        shift = (index - (len(plot.lines) - 1) / 2) * (7 if len(plot.lines) == 2 else 5) / 72
        aside = axes.transData + ScaledTranslation(shift, 0, canvas.dpi_scale_trans)
        places = [(at[point.x], point.place) for point in line.points]
        means = [mean(p.seeds.values()) if p.seeds else math.nan for _, p in places]
        (handle,) = axes.plot(
            [x for x, _ in places],
            means,
            color=style.colour,
            marker=style.marker,
            linestyle=style.dash,
            transform=aside,
            label=line.name,
            gid=f"mean-{index}",
            zorder=3,
        )
        # A line alone needs no name; matplotlib would give it one of its own.
        handles += [handle] if line.name else []
        _axis_seeds(axes, canvas, places, style, shift, index)
        for x, place in places:
            found = interval(place)
            if found is not None:
                axes.plot([x, x], found, color=style.colour, transform=aside, gid="interval")
            if not place.seeds:
                up = ScaledTranslation(shift, (5 + 7 * index) / 72, canvas.dpi_scale_trans)
                foot = blended_transform_factory(axes.transData, axes.transAxes) + up
                axes.plot(
                    [x], [0.0], marker="x", color=style.colour, linestyle="", transform=foot,
                    gid=f"missing-{index}", clip_on=False,
                )  # fmt: skip
        published = [math.nan if p.published is None else p.published for _, p in places]
        if not all(map(math.isnan, published)):
            axes.plot(
                [x for x, _ in places], published, color=style.colour, marker=style.marker,
                linestyle=":", markerfacecolor="white", linewidth=0.8, transform=aside,
                gid=f"published-{index}",
            )  # fmt: skip
    _axis_ticks(axes, plot, values, at, kind)
    every = [p.place for line in plot.lines for p in line.points]
    _limits(axes, every, "y")
    if any(place.published is not None for place in every):
        handles.append(_sign("published (hollow)", _MARKERS[0], GREY, ":"))
    if any(not place.seeds for place in every):
        handles.append(_sign("no result", "x", GREY))
    legend(canvas, handles)


def _axis_seeds(
    axes: Axes, canvas: Canvas, places: Sequence[Any], style: Look, shift: float, index: int
) -> None:
    points = [(x, value) for x, place in places for value in place.seeds.values()]
    if points:
        beside = axes.transData + ScaledTranslation(shift + 2.4 / 72, 0, canvas.dpi_scale_trans)
        axes.plot(
            *zip(*points, strict=True), color=style.colour, marker=".", linestyle="",
            markersize=2.2, transform=beside, gid=f"seeds-{index}",
        )  # fmt: skip


def _axis_ticks(
    axes: Axes, plot: AxisPlot, values: list[float], at: dict[float, float], kind: str
) -> None:
    shown = values
    if len(values) > 10:  # labels of all of them would not fit
        shown = values[:: math.ceil(len(values) / 8)]
    axes.set_xticks([at[x] for x in shown], [wording.plain_value(x) for x in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(plot.x_name + {"log": " (log scale)", "even": " (evenly spaced)"}.get(kind, ""))
    axes.set_ylabel(plot.y_name)
    ends = [at[values[0]], at[values[-1]]]
    if kind == "log":
        reach = (ends[1] / ends[0]) ** 0.07
        axes.set_xlim(ends[0] / reach, ends[1] * reach)
    else:
        reach = (ends[1] - ends[0]) * 0.07
        axes.set_xlim(ends[0] - reach, ends[1] + reach)
    axes.grid(axis="y")


def _limits(axes: Axes, places: Sequence[SettingValues], of: str) -> None:
    """Around everything drawn. Shifted artists do not count in matplotlib's own limits."""
    drawn = [v for place in places for v in (*place.seeds.values(), *(interval(place) or ()))]
    drawn += [place.published for place in places if place.published is not None]
    low, high = min(drawn), max(drawn)
    reach = (high - low) * 0.06 or max(abs(high) * 0.02, 0.5)
    # Room at the bottom for the crosses.
    lost = of == "y" and any(not place.seeds for place in places)
    limits = (low - reach * (3 if lost else 1), high + reach)
    if of == "y":
        axes.set_ylim(*limits)
    else:
        axes.set_xlim(*limits)


def draw_dots(canvas: Canvas, plot: DotPlot) -> None:
    """A row each, the interval as a line, the seeds below it; in words where there is no value."""
    labels = [wrapped(row, ROW_LABEL) for row, _ in plot.rows]
    groups = len(plot.groups)
    heights = [max(0.115 * len(lines), 0.15 * groups) + 0.09 for lines in labels]
    canvas.set_size_inches(COLUMN, sum(heights) + 0.42)
    axes = canvas.add_subplot()
    centres, top = [], 0.0
    for height in heights:
        centres.append(top + height / 2)
        top += height
    for index, (_, places) in enumerate(plot.rows):
        for group, place in enumerate(places):
            offset = (group - (groups - 1) / 2) * 0.15
            if place is not None:
                _dot(axes, place, centres[index] + offset, look(group))
        if index % 2 == 0:
            low = centres[index] - heights[index] / 2
            axes.axhspan(low, low + heights[index], color="0.96", zorder=0, linewidth=0)
    base = [p for _, places in plot.rows for p in places if p and plot.baseline == p.label]
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
    every = [place for _, places in plot.rows for place in places if place]
    _limits(axes, every, "x")
    names = plot.groups if groups > 1 else ()
    handles = [_sign(name, look(i).marker, look(i).colour) for i, name in enumerate(names)]
    if any(place.published is not None for place in every):
        handles.append(_sign("published (hollow)", "D", GREY, "none"))
    legend(canvas, handles)


def _dot(axes: Axes, place: SettingValues, y: float, style: Look) -> None:
    if place.published is not None:
        axes.plot(
            [place.published], [y], marker="D", linestyle="", color=style.colour,
            markerfacecolor="white", gid="published", zorder=2,
        )  # fmt: skip
    if not place.seeds:
        across = blended_transform_factory(axes.transAxes, axes.transData)
        axes.text(
            0.02, y, place.missing, transform=across, style="italic", color=GREY,
            fontsize=6, va="center", gid="missing",
        )  # fmt: skip
        return
    found = interval(place)
    if found is not None:
        axes.plot(found, [y, y], color=style.colour, gid="interval", zorder=2)
    axes.plot(
        [mean(place.seeds.values())], [y], marker=style.marker, linestyle="", color=style.colour,
        gid="mean", zorder=3,
    )  # fmt: skip
    values = list(place.seeds.values())
    below = axes.transData + ScaledTranslation(0, -3.5 / 72, axes.figure.dpi_scale_trans)
    axes.plot(
        values, [y] * len(values), marker=".", linestyle="", markersize=2.2, color=style.colour,
        transform=below, gid="seeds",
    )  # fmt: skip
    if len(values) < place.expected:
        axes.annotate(
            f"{len(values)} of {place.expected}", (1, y), xycoords=axes.get_yaxis_transform(),
            ha="right", va="center", fontsize=6, style="italic", color=GREY, gid="missing",
        )  # fmt: skip


def _sign(label: str, marker: str, colour: str, hollow: str = "") -> Line2D:
    """What stands in a legend; ``hollow``: the dash of the thin line that goes with it."""
    more: dict[str, Any] = {"markerfacecolor": "white", "linewidth": 0.8} if hollow else {}
    dash: Any = hollow or "none"
    return Line2D([], [], label=label, marker=marker, color=colour, linestyle=dash, **more)


def wrapped(label: str, width: int) -> list[str]:
    """The lines of a label; "K = 10" and "scores / 0.1" stay together."""
    for sign in ("=", "/"):
        label = label.replace(f" {sign} ", f"\N{NO-BREAK SPACE}{sign}\N{NO-BREAK SPACE}")
    return textwrap.wrap(label, width) or [""]


def legend(canvas: Canvas, handles: Sequence[Any]) -> None:
    """Above the axes, in as many columns as fit; none for nothing."""
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
