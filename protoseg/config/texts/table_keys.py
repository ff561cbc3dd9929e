"""What a table names: axes, values of them, and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from protoseg.config.matrix import LABEL, TableSpec
from protoseg.config.texts.value_text import format_value, is_value
from protoseg.errors import UsageError, describe_unknown_name


def resolve_names(
    names: Mapping[str, str], values: Mapping[str, Iterable[Any]], where: str
) -> dict[str, str]:
    """Replace the keys of ``table.names`` by the axes and values that they fit.

    Args:
        names: axis, value or ``axis=value``, as typed -> display name.
        values: axis -> its values.
        where: place named in error messages.

    Returns:
        The same names with the texts of `format_value` as keys.

    Raises:
        UsageError: a key is neither an axis nor a value of one, or two keys are the same value.
    """
    resolved: dict[str, str] = {}
    for typed, name in names.items():
        keys = list(dict.fromkeys(_find_keys(typed, values)))
        if not keys:
            known = "; ".join(
                f"{axis}: {', '.join(dict.fromkeys(map(format_value, members)))}"
                for axis, members in values.items()
            )
            raise UsageError(
                f"{where}: '{typed}' is neither an axis nor a value of one. Known: {known}. "
                "Correct it, or remove it."
            )
        for key in keys:
            if resolved.get(key, name) != name:
                raise UsageError(
                    f"{where}: '{typed}' and another key both name '{key}'. Keep one of them."
                )
            resolved[key] = name
    return resolved


def check_table(
    table: TableSpec, axes: tuple[str, ...], points: list[dict[str, Any]], where: str
) -> None:
    """Check that a table names axes, values and labels of its matrix.

    Args:
        table: the table.
        axes: the axes of the matrix.
        points: axis -> value of each run, and the keys that rows set.
        where: place named in error messages.

    Raises:
        UsageError: an axis, value or label that the matrix does not have.
    """
    for field in ("rows", "columns"):
        for axis in getattr(table, field):
            if axis not in axes:
                raise UsageError(
                    describe_unknown_name("axis", axis, f"{where}: table.{field}", axes)
                )
    for axis, value in table.baseline.items():
        if axis not in axes:
            raise UsageError(describe_unknown_name("axis", axis, f"{where}: table.baseline", axes))
        values = [point.get(axis) for point in points]
        if value not in values:
            known = dict.fromkeys(map(str, values))
            raise UsageError(
                describe_unknown_name("value", str(value), f"{where}: table.baseline.{axis}", known)
            )
    if table.imported and table.columns:
        raise UsageError(
            f"{where}: table.imported: a row of imported weights has one value, but table.columns "
            "makes several columns. Remove one of the two."
        )
    if table.pairs and table.baseline:
        raise UsageError(f"{where}: table: 'baseline' and 'pairs' are both set; keep one.")
    _check_comparisons(table, axes, where)
    labels = dict.fromkeys(str(point.get(LABEL, "")) for point in points)
    for label in [*table.pairs, *table.pairs.values()]:
        if label not in labels:
            raise UsageError(
                describe_unknown_name("label", label, f"{where}: table.pairs", filter(None, labels))
            )


def _check_comparisons(table: TableSpec, axes: tuple[str, ...], where: str) -> None:
    family, groups = table.comparisons, table.image_groups
    if family is not None and bool(family.axis) == bool(family.pairs):
        raise UsageError(f"{where}: table.comparisons: set one of axis and pairs.")
    if family is not None and family.axis and family.axis not in axes:
        raise UsageError(
            describe_unknown_name("axis", family.axis, f"{where}: table.comparisons.axis", axes)
        )
    pairs = family.pairs if family is not None else ()
    for index, pair in enumerate(pairs):
        if len(set(pair)) == 1 or set(pair) in map(set, pairs[:index]):
            problem = "is listed twice" if len(set(pair)) == 2 else "is one row twice"
            raise UsageError(
                f"{where}: table.comparisons.pairs: {' and '.join(map(repr, pair))} {problem}. "
                "Remove it."
            )
    if groups is not None and bool(groups.block) == bool(groups.pattern):
        raise UsageError(f"{where}: table.image_groups: set one of block and pattern.")


def _find_keys(typed: str, values: Mapping[str, Iterable[Any]]) -> Iterable[str]:
    if typed in values:
        yield typed
    for axis, members in values.items():
        for value in members:
            if is_value(typed, value):
                yield format_value(value)
            elif typed.startswith(f"{axis}=") and is_value(typed[len(axis) + 1 :], value):
                yield f"{axis}={format_value(value)}"
