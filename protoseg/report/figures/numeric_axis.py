"""Which axis of a matrix is a numeric one, and on which scale its values are told apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from protoseg.config.fields import plain
from protoseg.report import wording
from protoseg.report.figures.data import FigureInput, Line, Point, Setting
from protoseg.report.tables.baseline import OneBaseline

MIN_VALUES = 3
"""Two values make two rows, not an axis."""

Named = tuple[str, tuple[Line, ...]]
"""The name of an axis, and the lines over it."""
Scale = Literal["linear", "log", "even"]
APART = {"linear": 0.1, "log": 0.08}
"""The smallest gap between neighbours, as a part of the whole axis, at which labels fit."""


def scale(values: Sequence[float]) -> Scale:
    """Linear where the values are told apart on it, else logarithmic, else evenly spaced."""
    values = sorted(set(values))
    if len(values) < 2 or _smallest_gap(values) >= APART["linear"]:
        return "linear"
    if values[0] > 0 and _smallest_gap([math.log(v) for v in values]) >= APART["log"]:
        return "log"
    return "even"


def _smallest_gap(values: Sequence[float]) -> float:
    return min(b - a for a, b in itertools.pairwise(values)) / (values[-1] - values[0])


def lines(reading: FigureInput) -> Named | None:
    """The name of the numeric axis and its lines; None where the rows are named things.

    An axis is numeric where all its values are, as given or as displayed, at least three of them,
    and each line has at least two. In this order: the axes of the matrix; the columns that name
    rows of the published table; single fields of the spec that rows change from their baseline.
    """
    found = [_along_axis(reading, axis) for axis in reading.matrix.axes if axis != "label"]
    if reading.literature is not None and reading.literature.spec.labels:
        columns = range(len(reading.settings[0].titled))
        found += [_along_column(reading, column) for column in columns]
    found.append(_around_baseline(reading))
    usable = [made for made in found if made is not None]
    # The axis with the most values; of equals the first.
    return max(usable, key=lambda made: _count(made[1])) if usable else None


def _count(made: Sequence[Line]) -> int:
    return len({point.x for line in made for point in line.points})


def _along_axis(reading: FigureInput, axis: str) -> Named | None:
    """Along an axis of the matrix."""
    names = reading.matrix.table.names
    others = [a for a in reading.matrix.axes if a != axis]

    def x(setting: Setting) -> float | None:
        return _value(setting.samples.axes.get(axis), axis, names)

    def other(setting: Setting) -> list[str]:
        return [wording.group_name(a, setting.samples.axes.get(a), names) for a in others]

    return _along(reading, wording.axis_name(axis, names), x, other)


def _along_column(reading: FigureInput, column: int) -> Named | None:
    """Along a column that names the rows of the published table."""

    def x(setting: Setting) -> float | None:
        return _number(setting.titled[column][1])

    def other(setting: Setting) -> list[str]:
        return [
            f"{title} = {value}" if _number(value) is not None else value
            for i, (title, value) in enumerate(setting.titled)
            if i != column
        ]

    return _along(reading, reading.settings[0].titled[column][0], x, other)


def _along(
    reading: FigureInput,
    name: str,
    x: Callable[[Setting], float | None],
    other: Callable[[Setting], list[str]],
) -> Named | None:
    """Lines along one axis, one for each combination of the others."""
    told = [other(setting) for setting in reading.settings]
    # What is the same everywhere tells nothing.
    varying = [i for i, values in enumerate(zip(*told, strict=True)) if len({*values}) > 1]
    made: dict[str, dict[float, Point]] = {}
    for setting, words in zip(reading.settings, told, strict=True):
        value = x(setting)
        line = made.setdefault(", ".join(words[i] for i in varying if words[i]), {})
        if value is None or value in line:
            return None
        line[value] = Point(value, setting.place(reading.metric.key))
    return _checked(name, made)


def _around_baseline(reading: FigureInput) -> Named | None:
    """One line a field, where each row changes a single number of the baseline's spec."""
    against = reading.baselines
    if not isinstance(against, OneBaseline) or reading.matrix.axes != ("label",):
        return None
    key, names = reading.metric.key, reading.matrix.table.names
    start = against.of(reading.settings[0].samples)
    if start is None:
        return None
    before = _flat(plain(start.spec))
    made: dict[str, dict[float, Point]] = {}
    base = next(s for s in reading.settings if s.samples is start)
    for setting in reading.settings:
        if setting is base:
            continue
        after = _flat(plain(setting.samples.spec))
        changed = [f for f in {**before, **after} if before.get(f) != after.get(f) and f != "seed"]
        field = changed[0] if len(changed) == 1 else ""
        here, there = _number(after.get(field)), _number(before.get(field))
        if here is None or there is None:
            return None
        line = made.setdefault(wording.axis_name(field, names), {})
        if here in line:
            return None
        line[here] = Point(here, setting.place(key))
        line.setdefault(there, Point(there, base.place(key)))
    # Fields of different ranges do not share an axis.
    if len({(min(line), max(line)) for line in made.values()}) != 1:
        return None
    return _checked(", ".join(made), made)


def _checked(name: str, made: dict[str, dict[float, Point]]) -> Named | None:
    found = tuple(Line(key, tuple(line[x] for x in sorted(line))) for key, line in made.items())
    if _count(found) < MIN_VALUES or any(len(line.points) < 2 for line in found):
        return None
    return name, found


def _value(value: Any, axis: str, names: dict[str, str]) -> float | None:
    """An axis value as a number: as it is, or as it is displayed ("ccp_10" as 10)."""
    number = _number(value)
    return _number(wording.value_name(axis, value, names)) if number is None else number


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: value}
    parts = [_flat(inner, f"{key}.{name}" if key else name) for name, inner in value.items()]
    return {k: v for part in parts for k, v in part.items()}
