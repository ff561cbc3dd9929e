"""Draws the charts of a page as inline SVG; style and colours come from the style sheet.

Numbers are printed with one decimal, so that equal data gives equal bytes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from markupsafe import Markup

from protoseg.report import wording
from protoseg.report.page.model import Chart, DotChart, Series

COLOURS, DASHES = 8, 5
"""Numbers of colours and dashes of the style sheet; a line has one of each."""
WIDTH, HEIGHT = 720.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 46.0
ROW_HEIGHT, LABEL_WIDTH, LABEL_LETTERS = 26.0, 250.0, 38
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
TICKS = 6
SHIFT = 4.0
"""Distance of the points of two lines at one value of x."""

Position = Callable[[float], float]


def style_of(index: int) -> str:
    """CSS classes of the line with this index."""
    return f"s{index % COLOURS} d{index % DASHES}"


def choose_ticks(low: float, high: float, number: int = TICKS) -> list[float]:
    """Choose round numbers from ``low`` to ``high``, about ``number`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in STEPS if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def draw_chart(chart: Chart, key: str) -> Markup:
    """Draw lines or points over a numeric axis.

    Args:
        key: identifies the chart in the page.
    """
    xs = [x for series in chart.series for x in series.x]
    ys = [
        value
        for series in chart.series
        for value in (*series.y, *series.low, *series.high, *itertools.chain(*series.seeds))
        if math.isfinite(value)
    ]
    ys += [0.0] * chart.has_zero
    margin = (max(ys) - min(ys)) * 0.05 or abs(max(ys)) * 0.05 or 1.0
    bottom, top = min(ys) - margin, max(ys) + margin
    place_y = _scale(bottom, top, HEIGHT - BOTTOM, TOP)
    place_x, ticks = _make_x_axis(chart, xs)
    parts = [*_draw_y_axis(choose_ticks(bottom, top), place_y, chart.y_name)]
    for x, text in ticks:
        at = _number(place_x(x))
        parts.append(_tag("line", "grid", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM))
        parts.append(_text(text, "tick middle", place_x(x), HEIGHT - BOTTOM + 16))
    if chart.has_zero:
        at = _number(place_y(0.0))
        parts.append(_tag("line", "baseline", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_text(chart.x_name, "axis middle", middle, HEIGHT - 8))
    for index, series in enumerate(chart.series):
        # Points of several lines at one value are side by side, so that all are seen.
        shift = SHIFT * (index - (len(chart.series) - 1) / 2) * (chart.form == "line")
        beside = functools.partial(_shift, place_x, shift)
        shapes = Markup("").join(_draw_series(chart.form, series, beside, place_y))
        parts.append(
            Markup('<g class="series {}" data-series="{}"><title>{}</title>{}</g>').format(
                style_of(index), index, series.name, shapes
            )
        )
    return _wrap(key, chart.title, " ".join(chart.notes), HEIGHT, parts)


def draw_dots(chart: DotChart, key: str) -> Markup:
    """Draw the mean, interval and seeds of each row.

    Args:
        key: identifies the chart in the page.
    """
    values = [
        value
        for row in chart.rows
        for value in (*row.values, *(row.interval or ()), row.published)
        if value is not None and math.isfinite(value)
    ]
    margin = (max(values) - min(values)) * 0.04 or 1.0
    low, high = min(values) - margin, max(values) + margin
    place_x = _scale(low, high, LABEL_WIDTH + 10, WIDTH - RIGHT)
    bottom = TOP + ROW_HEIGHT * len(chart.rows)
    parts = []
    for tick in choose_ticks(low, high):
        at = _number(place_x(tick))
        parts.append(_tag("line", "grid", x1=at, x2=at, y1=TOP, y2=bottom))
        parts.append(_text(f"{tick:g}", "tick middle", place_x(tick), bottom + 16))
    middle = (LABEL_WIDTH + WIDTH) / 2
    parts.append(_text(chart.x_name, "axis middle", middle, bottom + 36))
    base = next((row.mean for row in chart.rows if row.label == chart.baseline), math.nan)
    if math.isfinite(base):
        at = _number(place_x(base))
        parts.append(_tag("line", "baseline", x1=at, x2=at, y1=TOP, y2=bottom))
    for index, row in enumerate(chart.rows):
        y = TOP + ROW_HEIGHT * (index + 0.5)
        shapes = [_text(_shorten(row.label), "label", LABEL_WIDTH, y + 4)]
        if row.interval is not None:
            a, b = (_number(place_x(end)) for end in row.interval)
            shapes.append(_tag("line", "interval", x1=a, x2=b, y1=y, y2=y))
        shapes += [_tag("circle", "seed", cx=_number(place_x(v)), cy=y, r=2) for v in row.values]
        if row.published is not None:
            at = _number(place_x(row.published))
            shapes.append(_tag("circle", "published", cx=at, cy=y, r=5))
        if row.values:
            shapes.append(_tag("circle", "mean", cx=_number(place_x(row.mean)), cy=y, r=4))
        else:
            shapes.append(_text(row.missing, "tick", LABEL_WIDTH + 14, y + 4))
        parts.append(
            Markup('<g class="series s0" data-series="{}"><title>{}</title>{}</g>').format(
                index, row.label, Markup("").join(shapes)
            )
        )
    return _wrap(key, chart.title, " ".join(chart.notes), bottom + 46, parts)


def draw_sparkline(values: Sequence[float], name: str) -> Markup:
    """Draw a small line of values over their index, 120 × 24 units.

    Args:
        values: at least one finite value.
        name: read out in place of the picture.
    """
    finite = [value for value in values if math.isfinite(value)]
    place_x = _scale(0, max(1, len(finite) - 1), 2, 118)
    place_y = _scale(min(finite), max(finite), 21, 3)
    points = " ".join(f"{place_x(i):.1f},{place_y(v):.1f}" for i, v in enumerate(finite))
    return Markup(
        '<svg class="spark s0" viewBox="0 0 120 24" role="img" aria-label="{}">'
        '<polyline points="{}"/></svg>'
    ).format(name, points)


def draw_swatch(index: int) -> Markup:
    """Draw the line of a legend."""
    return Markup(
        '<svg class="swatch {}" viewBox="0 0 28 10" aria-hidden="true">'
        '<line x1="1" x2="27" y1="5" y2="5"/></svg>'
    ).format(style_of(index))


def _make_x_axis(chart: Chart, xs: Sequence[float]) -> tuple[Position, list[tuple[float, str]]]:
    """The position of a value on the x axis, and its ticks with their texts."""
    left, right = LEFT + 10, WIDTH - RIGHT - 10
    named = list(zip(chart.ticks, chart.tick_texts or map(_format_tick, chart.ticks), strict=True))
    xs = [*xs, *chart.ticks]
    if chart.scale == "even":
        order = sorted(set(xs))
        even = _scale(0, max(1, len(order) - 1), left, right)
        return (lambda x: even(order.index(x))), named
    if chart.scale == "log":
        logarithmic = _scale(math.log(min(xs)), math.log(max(xs)), left, right)
        return (lambda x: logarithmic(math.log(x))), named or _choose_log_ticks(min(xs), max(xs))
    linear = _scale(min(xs), max(xs), left, right)
    round_numbers = [(x, _format_tick(x)) for x in choose_ticks(min(xs), max(xs))]
    return linear, named or round_numbers


def _choose_log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # With few powers of ten inside, 2 and 5 times a power are labelled too.
    factors = (1,) if math.log10(high / low) >= 3 else (1, 2, 5)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [
        (value, _format_tick(value)) for value in values if low <= value * 1.0001 <= high * 1.001
    ]


def _shift(place_x: Position, shift: float, value: float) -> float:
    return place_x(value) + shift


def _scale(low: float, high: float, start: float, end: float) -> Position:
    """A linear map of ``low`` to ``start`` and ``high`` to ``end``; if equal, the middle."""
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _draw_y_axis(ticks: Iterable[float], place_y: Position, name: str) -> Iterator[Markup]:
    for tick in ticks:
        at = _number(place_y(tick))
        yield _tag("line", "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at)
        yield _text(_format_tick(tick), "tick end", LEFT - 6, place_y(tick) + 4)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turn = Markup(' transform="rotate(-90 14 {})"').format(_number(middle))
    yield _text(name, "axis middle", 14, middle, turn)


def _draw_series(
    form: str, series: Series, place_x: Position, place_y: Position
) -> Iterator[Markup]:
    points = [(place_x(x), place_y(y)) for x, y in zip(series.x, series.y, strict=True)]
    ends = [
        (place_x(x), place_y(low), place_y(high))
        for x, low, high in zip(series.x, series.low, series.high, strict=bool(series.low))
        if math.isfinite(low) and math.isfinite(high)
    ]
    if form == "curve" and ends:
        border = [*((x, high) for x, _, high in ends), *((x, low) for x, low, _ in reversed(ends))]
        yield _tag("polygon", "band", points=_join_points(border))
    if form != "points":
        yield _tag("polyline", "path", points=_join_points(points))
    if form == "line":
        for x, low, high in ends:
            at = _number(x)
            yield _tag("line", "interval", x1=at, x2=at, y1=_number(low), y2=_number(high))
    if form != "curve" or len(points) == 1:
        for x, y in points:
            yield _tag("circle", "mean", cx=_number(x), cy=_number(y), r=3.5)
    for (x, _), values in zip(points, series.seeds, strict=bool(series.seeds)):
        for value in values:
            yield _tag("circle", "seed", cx=_number(x), cy=_number(place_y(value)), r=1.8)
    if series.ring is not None:
        x, y = points[series.ring]
        yield _tag("circle", "ring", cx=_number(x), cy=_number(y), r=7)


def _join_points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _format_tick(value: float) -> str:
    # -0.0 of a computed tick is 0.
    text = f"{value + 0.0:,.10g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"
    return text.replace("-", wording.MINUS)


def _number(value: float) -> str:
    return f"{value:.1f}"


def _tag(name: str, css_class: str, **attributes: object) -> Markup:
    pairs = Markup("").join(Markup(' {}="{}"').format(k, v) for k, v in attributes.items())
    return Markup('<{} class="{}"{}/>').format(Markup(name), css_class, pairs)


def _text(text: str, css_class: str, x: float, y: float, turn: Markup | str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}"{}>{}</text>').format(
        css_class, _number(x), _number(y), turn, text
    )


def _shorten(label: str) -> str:
    return label if len(label) <= LABEL_LETTERS else f"{label[: LABEL_LETTERS - 1]}…"


def _wrap(key: str, title: str, description: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-text">'
        '<title id="{}-title">{}</title><desc id="{}-text">{}</desc>{}</svg>'
    ).format(
        *(_number(WIDTH), _number(height), key, key),
        *(key, title, key, description, Markup("").join(parts)),
    )
