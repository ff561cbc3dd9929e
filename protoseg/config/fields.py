"""Declaring a field once: its default, its allowed values, and how it is read from plain data.

A spec is a tree of frozen dataclasses. ``build`` turns nested dictionaries (from Hydra, or from a
record) into such a tree and refuses what does not fit with one sentence that names the field, the
allowed values and the nearest known name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from protoseg.config import plugins
from protoseg.errors import UsageError, unknown


def number(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
) -> Any:
    """A dataclass field holding a number in ``[low, high]``, or ``(low, high]`` if ``open_low``."""
    bounds = {"low": low, "high": high, "open_low": open_low}
    return dataclasses.field(default=default, metadata=bounds)


def added(default: Any, *, low: float = -math.inf, high: float = math.inf) -> Any:
    """A dataclass field that came after specs had been recorded without it.

    While it equals ``default``, which is what those specs did and never changes, `canonical_json`
    leaves it out: their ids stay. The range is `number`'s.
    """
    metadata = {"low": low, "high": high, "added": True}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """The resolved type of each field of a dataclass."""
    return typing.get_type_hints(cls)


def items(*, distinct: bool = False) -> Any:
    """A dataclass field holding a list of at least one value, all different if ``distinct``."""
    return dataclasses.field(metadata={"nonempty": True, "distinct": distinct})


def size() -> Any:
    """A dataclass field holding two whole numbers from 1, or nothing."""
    return dataclasses.field(default=(), metadata={"low": 1, "lengths": (0, 2)})


def build(cls: Any, data: Any, where: str) -> Any:
    """Make a ``cls`` from nested plain data.

    Args:
        cls: a dataclass; a class with a ``variants`` mapping is resolved by the key ``kind``,
            which may be the full name of a class elsewhere (`protoseg.config.plugins`).
        data: a mapping with the fields of ``cls``; missing keys take the field's default.
        where: the place named in error messages, e.g. ``"run.yaml: method"``; the names of fields
            are joined to it by a dot, or directly where it ends in a colon and a space.

    Raises:
        UsageError: an unknown or missing key, a value of the wrong type or out of range.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{where.rstrip(': ')}: expected a mapping of settings, found {data!r}.")
    variants: Mapping[str, Any] = getattr(cls, "variants", {})
    if variants and cls not in variants.values():
        kind = str(data.get("kind"))
        if kind not in variants and plugins.is_full_name(kind):
            plugins.load_kind(kind, variants, where)
        if kind not in variants:
            raise UsageError(unknown("kind", kind, where, variants))
        cls = variants[kind]
    hints = field_types(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in known:
            others = [name for name, other in variants.items() if str(key) in field_types(other)]
            place = where.rstrip(": ") + (f" (of kind '{data['kind']}')" if others else "")
            raise UsageError(unknown("key", str(key), place, known))
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in data:
            values[name] = convert(hints[name], data[name], _join(where, name), field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{_join(where, name)}: a value is required and none is given.")
    return cls(**values)


def _join(where: str, name: str) -> str:
    return f"{where}{name}" if where.endswith(": ") else f"{where}.{name}"


NO_BOUNDS: Mapping[str, Any] = types.MappingProxyType({})


def convert(kind: Any, value: Any, where: str, bounds: Mapping[str, Any] = NO_BOUNDS) -> Any:
    """Convert one value to the annotated type ``kind``; see `build`."""
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # X | None is the one union in use
        return None if value is None else convert(arguments[0], value, where, bounds)
    if origin is typing.Literal:
        if value not in arguments:
            raise UsageError(unknown("value", str(value), where, map(str, arguments)))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where}: expected a list, found {value!r}.")
        if not value and bounds.get("nonempty"):
            raise UsageError(f"{where}: needs at least one value, found none.")
        if len(value) not in bounds.get("lengths", (len(value),)):
            allowed = " or ".join(map(str, bounds["lengths"]))
            raise UsageError(f"{where}: expected {allowed} values, found {len(value)}.")
        if bounds.get("distinct") and len(set(map(str, value))) < len(value):
            raise UsageError(f"{where}: all values need to be different, found {value!r}.")
        fixed = arguments[-1] is not Ellipsis
        if fixed and len(value) != len(arguments):
            raise UsageError(f"{where}: expected {len(arguments)} values, found {len(value)}.")
        each = arguments if fixed else arguments[:1] * len(value)
        return tuple(
            convert(k, v, f"{where}[{i}]", bounds)
            for i, (k, v) in enumerate(zip(each, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a mapping, found {value!r}.")
        return {str(k): convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is Any:
        return _open(value, where)
    return _scalar(kind, value, where, bounds)


def _open(value: Any, where: str) -> Any:
    """A value of a free-form mapping: whatever JSON can say, for a record must hold it."""
    if isinstance(value, Mapping):
        return {str(k): _open(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_open(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, bool | int | float | str | None):
        raise UsageError(f"{where}: expected text, a number, a list or a mapping, found {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value!r} is out of range; allowed: a finite number.")
    return value


def _scalar(kind: Any, value: Any, where: str, bounds: Mapping[str, Any]) -> Any:
    # A bool is an int to Python, and 1 is a fine float to a person: the first is refused where a
    # number is meant, the second accepted, so that 1 and 1.0 give one identity.
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads `1e-3` as a string.
        with contextlib.suppress(ValueError):
            value = float(value)
    if type(value) is not kind:
        noun = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
        raise UsageError(f"{where}: expected {noun}, found {value!r}.")
    if kind in (int, float):
        _check_range(value, where, bounds)
    # -0.0 equals 0.0 and is spelt otherwise in JSON; adding zero leaves every other number alone.
    return value + 0.0 if kind is float else value


def _check_range(value: float, where: str, bounds: Mapping[str, Any]) -> None:
    low, high = bounds.get("low", -math.inf), bounds.get("high", math.inf)
    too_low = value <= low if bounds.get("open_low") else value < low
    if too_low or value > high or not math.isfinite(value):
        left = "greater than" if bounds.get("open_low") else "at least"
        parts = [f"{left} {low:.10g}"] if low > -math.inf else []
        parts += [f"at most {high:.10g}"] if high < math.inf else []
        allowed = " and ".join(parts) or "a finite number"
        raise UsageError(f"{where}: {value!r} is out of range; allowed: {allowed}.")


def plain(value: Any, *, identity: bool = False) -> Any:
    """The nested dictionaries and lists behind a spec; the inverse of `build`.

    Args:
        identity: without the fields of `added` that have their default.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name), identity=identity)
            for f in dataclasses.fields(value)
            if not (identity and f.metadata.get("added") and getattr(value, f.name) == _default(f))
        }
    if isinstance(value, Mapping):
        return {str(k): plain(v, identity=identity) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, identity=identity) for v in value]
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()
