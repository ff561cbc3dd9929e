"""Finds the numeric axis of a matrix, and the scale on which its values are far enough apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from protoseg.config.fields import to_plain
from protoseg.report import wording
from protoseg.report.figures.contents import Line, Point
from protoseg.report.figures.data import FigureInput, Setting
from protoseg.report.tables.baseline import OneBaseline

MIN_VALUES = 3
"""With fewer values, a figure has rows instead of a numeric axis."""

NamedLines = tuple[str, tuple[Line, ...]]
"""The name of an axis, and the lines over it."""
Scale = Literal["linear", "log", "even"]
MIN_GAP = {"linear": 0.1, "log": 0.08}
"""Smallest gap between neighbouring values at which labels fit, relative to the axis length."""


def choose_scale(values: Sequence[float]) -> Scale:
    """Choose linear if the values are far enough apart, else logarithmic, else evenly spaced."""
    values = sorted(set(values))
    if len(values) < 2 or _smallest_gap(values) >= MIN_GAP["linear"]:
        return "linear"
    if values[0] > 0 and _smallest_gap([math.log(v) for v in values]) >= MIN_GAP["log"]:
        return "log"
    return "even"


def choose_log_scale(values: Sequence[float]) -> Scale:
    """Choose logarithmic if the values are far enough apart, else evenly spaced."""
    logarithms = [math.log(value) for value in sorted(set(values))]
    is_apart = len(logarithms) < 2 or _smallest_gap(logarithms) >= MIN_GAP["log"]
    return "log" if is_apart else "even"


def _smallest_gap(values: Sequence[float]) -> float:
    return min(b - a for a, b in itertools.pairwise(values)) / (values[-1] - values[0])


def find_lines(figure_input: FigureInput) -> NamedLines | None:
    """Find the numeric axis with the most values, and its lines; None if no axis is numeric.

    A numeric axis has at least three values, all numbers (or displayed as numbers), and at least
    two per line. Candidates, in this order: axes of the matrix; label columns of the published
    table; a field of the spec that each row changes from the baseline.
    """
    names = [axis for axis in figure_input.matrix.axes if axis != "label"]
    axes = [_along_axis(figure_input, axis) for axis in names]
    if figure_input.literature is not None and figure_input.literature.spec.labels:
        columns = range(len(figure_input.settings[0].titled))
        axes += [_along_column(figure_input, column) for column in columns]
    axes.append(_around_baseline(figure_input))
    candidates = [candidate for candidate in axes if candidate is not None]
    if not candidates:
        return None
    # Of equal candidates, max gives the first.
    return max(candidates, key=lambda candidate: _count_values(candidate[1]))


def _count_values(lines: Sequence[Line]) -> int:
    return len({point.x for line in lines for point in line.points})


def _along_axis(figure_input: FigureInput, axis: str) -> NamedLines | None:
    """Make the lines along an axis of the matrix."""
    names = figure_input.matrix.table.names
    others = [a for a in figure_input.matrix.axes if a != axis]

    def x(setting: Setting) -> float | None:
        return _axis_number(setting.samples.axes.get(axis), axis, names)

    def other(setting: Setting) -> list[str]:
        return [wording.name_group(a, setting.samples.axes.get(a), names) for a in others]

    return _along(figure_input, wording.name_axis(axis, names), x, other)


def _along_column(figure_input: FigureInput, column: int) -> NamedLines | None:
    """Make the lines along a label column of the published table."""

    def x(setting: Setting) -> float | None:
        return _to_number(setting.titled[column][1])

    def other(setting: Setting) -> list[str]:
        return [
            f"{title} = {value}" if _to_number(value) is not None else value
            for i, (title, value) in enumerate(setting.titled)
            if i != column
        ]

    return _along(figure_input, figure_input.settings[0].titled[column][0], x, other)


def _along(
    figure_input: FigureInput,
    name: str,
    x: Callable[[Setting], float | None],
    other: Callable[[Setting], list[str]],
) -> NamedLines | None:
    """Make the lines along one axis, one per combination of the other axes.

    Args:
        name: the name of the axis.
        x: gives the value of a setting on the axis; None if it is not a number.
        other: gives the values of a setting on the other axes, as text.
    """
    others = [other(setting) for setting in figure_input.settings]
    # The name of a line has only the values that vary.
    varying = [i for i, values in enumerate(zip(*others, strict=True)) if len({*values}) > 1]
    lines: dict[str, dict[float, Point]] = {}
    for setting, texts in zip(figure_input.settings, others, strict=True):
        value = x(setting)
        line = lines.setdefault(", ".join(texts[i] for i in varying if texts[i]), {})
        if value is None or value in line:
            return None
        line[value] = Point(value, setting.values_of(figure_input.metric.key))
    return _make_lines(name, lines)


def _around_baseline(figure_input: FigureInput) -> NamedLines | None:
    """Make one line per field, if each row changes a single number of the baseline's spec."""
    against = figure_input.baselines
    if not isinstance(against, OneBaseline) or figure_input.matrix.axes != ("label",):
        return None
    key, names = figure_input.metric.key, figure_input.matrix.table.names
    start = against.find(figure_input.settings[0].samples)
    if start is None:
        return None
    before = _flatten(to_plain(start.spec))
    lines: dict[str, dict[float, Point]] = {}
    base = next(s for s in figure_input.settings if s.samples is start)
    for setting in figure_input.settings:
        if setting is base:
            continue
        after = _flatten(to_plain(setting.samples.spec))
        changed = [f for f in {**before, **after} if before.get(f) != after.get(f) and f != "seed"]
        field = changed[0] if len(changed) == 1 else ""
        value, base_value = _to_number(after.get(field)), _to_number(before.get(field))
        if value is None or base_value is None:
            return None
        line = lines.setdefault(wording.name_axis(field, names), {})
        if value in line:
            return None
        line[value] = Point(value, setting.values_of(key))
        line.setdefault(base_value, Point(base_value, base.values_of(key)))
    # Fields with different ranges cannot share an axis.
    if len({(min(line), max(line)) for line in lines.values()}) != 1:
        return None
    return _make_lines(", ".join(lines), lines)


def _make_lines(name: str, points: dict[str, dict[float, Point]]) -> NamedLines | None:
    """Sort the points of each line; None if there are too few values or points."""
    lines = tuple(Line(key, tuple(line[x] for x in sorted(line))) for key, line in points.items())
    if _count_values(lines) < MIN_VALUES or any(len(line.points) < 2 for line in lines):
        return None
    return name, lines


def _axis_number(value: Any, axis: str, names: dict[str, str]) -> float | None:
    """Convert an axis value to a number: as given, or as displayed ("ccp_10" as 10)."""
    number = _to_number(value)
    return _to_number(wording.name_value(axis, value, names)) if number is None else number


def _to_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Flatten nested mappings: dotted key -> value."""
    if not isinstance(value, dict):
        return {key: value}
    parts = [_flatten(inner, f"{key}.{name}" if key else name) for name, inner in value.items()]
    return {k: v for part in parts for k, v in part.items()}
