"""Declares the fields of a spec and builds a spec from plain data.

A spec is a tree of frozen dataclasses. Each field is declared once, with its default and its
allowed values. `build` turns nested dictionaries (from Hydra or from a record) into such a tree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from protoseg.errors import UsageError, describe_unknown_name

Resolver = Callable[[str, str], Any]
"""(``kind``, where) -> the class with that name in another package, or None if it names none."""


def number(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
) -> Any:
    """A dataclass field with a number in ``[low, high]``, or in ``(low, high]`` if ``open_low``."""
    bounds = {"low": low, "high": high, "open_low": open_low}
    return dataclasses.field(default=default, metadata=bounds)


def added(
    default: Any, *, low: float = -math.inf, high: float = math.inf, in_yaml: Any = None
) -> Any:
    """A dataclass field that was added after specs had been recorded without it.

    `canonical_json` omits the field while it equals ``default``, so the ids of those specs do not
    change. The default must describe what those specs did, and must never change.

    Args:
        default: the value that is omitted.
        low: smallest number, as in `number`.
        high: largest number.
        in_yaml: type of the value in config files, if the composer converts it.
    """
    metadata = {"low": low, "high": high, "added": True, "in_yaml": in_yaml}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """Return the resolved type of each field of a dataclass."""
    return typing.get_type_hints(cls)


def types_in_yaml(cls: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass in config files."""
    types = field_types(cls)
    return {f.name: f.metadata.get("in_yaml") or types[f.name] for f in dataclasses.fields(cls)}


def items(*, distinct: bool = False) -> Any:
    """A dataclass field with a list of at least one value; all differ if ``distinct``."""
    return dataclasses.field(metadata={"nonempty": True, "distinct": distinct})


def size() -> Any:
    """A dataclass field with two whole numbers from 1, or an empty list."""
    return dataclasses.field(default=(), metadata={"low": 1, "lengths": (0, 2)})


NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
"""Type -> its name in error messages."""


def build(
    cls: Any,
    data: Any,
    where: str,
    resolve: Resolver | None = None,
    nouns: Mapping[type, str] = NOUNS,
) -> Any:
    """Build a ``cls`` from nested plain data.

    Args:
        cls: a dataclass. If it has a mapping ``variants``, the key ``kind`` selects one of them.
        data: a mapping with the fields of ``cls``; a missing key takes the field's default.
        where: place named in error messages, e.g. ``"run.yaml: method"``. A dot joins field names
            to it, unless it ends in a colon and a space.
        resolve: finds the class for a ``kind`` that is not in ``variants``.
        nouns: type -> its name in error messages.

    Returns:
        An instance of ``cls`` or of the selected variant.

    Raises:
        UsageError: an unknown or missing key, a value of the wrong type or out of range.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{where.rstrip(': ')}: expected a mapping of settings, found {data!r}.")
    variants: Mapping[str, Any] = getattr(cls, "variants", {})
    if variants and cls not in variants.values():
        cls = _select_variant(variants, str(data.get("kind")), where, resolve)
    hints = field_types(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            is_of_other = any(str(key) in field_types(other) for other in variants.values())
            suffix = f" (of kind '{data['kind']}')" if is_of_other else ""
            raise UsageError(
                describe_unknown_name("key", str(key), where.rstrip(": ") + suffix, fields)
            )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        full_key = _join_key(where, name)
        if name in data:
            values[name] = convert(
                hints[name], data[name], full_key, field.metadata, resolve, nouns
            )
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{full_key}: a value is required, but none is set.")
    return cls(**values)


def _select_variant(
    variants: Mapping[str, Any], name: str, where: str, resolve: Resolver | None
) -> Any:
    cls = variants.get(name)
    if cls is None and resolve is not None:
        cls = resolve(name, where)
    if cls is None:
        raise UsageError(describe_unknown_name("kind", name, where, variants))
    return cls


def _join_key(where: str, name: str) -> str:
    return f"{where}{name}" if where.endswith(": ") else f"{where}.{name}"


NO_BOUNDS: Mapping[str, Any] = types.MappingProxyType({})


def convert(
    field_type: Any,
    value: Any,
    where: str,
    bounds: Mapping[str, Any] = NO_BOUNDS,
    resolve: Resolver | None = None,
    nouns: Mapping[type, str] = NOUNS,
) -> Any:
    """Convert one value to the annotated type ``field_type``.

    Args:
        field_type: type of the field.
        value: plain data.
        where: place named in error messages.
        bounds: metadata of the field: range, length, uniqueness.
        resolve: as in `build`.
        nouns: as in `build`.

    Raises:
        UsageError: a value of the wrong type or out of range.
    """
    if dataclasses.is_dataclass(field_type):
        return build(field_type, value, where, resolve, nouns)
    origin, arguments = typing.get_origin(field_type), typing.get_args(field_type)
    if origin in (types.UnionType, typing.Union):  # `X | None` is the only union in the specs
        if value is None:
            return None
        return convert(arguments[0], value, where, bounds, resolve, nouns)
    if origin is typing.Literal:
        # 0 == False in Python, but the two have different identities.
        if not any(value == known and type(value) is type(known) for known in arguments):
            names = [str(known).lower() if known in (True, False) else known for known in arguments]
            raise UsageError(describe_unknown_name("value", str(value), where, names))
        return value
    if origin is tuple:
        return _convert_list(arguments, value, where, bounds, nouns)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: expected a mapping, found {value!r}.")
        return {
            str(k): convert(arguments[1], v, f"{where}.{k}", nouns=nouns) for k, v in value.items()
        }
    if field_type is Any:
        return _convert_free_form(value, where)
    return _convert_scalar(field_type, value, where, bounds, nouns)


def _convert_list(
    types_of_items: tuple[Any, ...],
    value: Any,
    where: str,
    bounds: Mapping[str, Any],
    nouns: Mapping[type, str],
) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UsageError(f"{where}: expected a list, found {value!r}.")
    if not value and bounds.get("nonempty"):
        raise UsageError(f"{where}: needs at least one value, found none.")
    if len(value) not in bounds.get("lengths", (len(value),)):
        allowed = " or ".join(map(str, bounds["lengths"]))
        raise UsageError(f"{where}: expected {allowed} values, found {len(value)}.")
    if bounds.get("distinct") and len(set(map(str, value))) < len(value):
        raise UsageError(f"{where}: all values must be different, found {value!r}.")
    is_fixed = types_of_items[-1] is not Ellipsis
    if is_fixed and len(value) != len(types_of_items):
        raise UsageError(f"{where}: expected {len(types_of_items)} values, found {len(value)}.")
    item_types = types_of_items if is_fixed else types_of_items[:1] * len(value)
    return tuple(
        convert(item_type, item, f"{where}[{index}]", bounds, nouns=nouns)
        for index, (item_type, item) in enumerate(zip(item_types, value, strict=True))
    )


def _convert_free_form(value: Any, where: str) -> Any:
    """Convert a value of a free-form mapping. Only JSON types are allowed, as records are JSON."""
    if isinstance(value, Mapping):
        return {str(k): _convert_free_form(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_convert_free_form(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, bool | int | float | str | None):
        raise UsageError(f"{where}: expected text, a number, a list or a mapping, found {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value!r} is out of range; allowed: a finite number.")
    return value


def _convert_scalar(
    field_type: Any, value: Any, where: str, bounds: Mapping[str, Any], nouns: Mapping[type, str]
) -> Any:
    # An int is accepted for a float, so that 1 and 1.0 give the same identity. A bool is not,
    # although it is an int in Python.
    if field_type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if field_type is float and isinstance(value, str):
        # YAML 1.1 reads `1e-3` as a string.
        with contextlib.suppress(ValueError):
            value = float(value)
    if type(value) is not field_type:
        # The typed text is lost: 1.10 has become 1.1.
        hint = " Put the text in quotes." if field_type is str and not _is_nested(value) else ""
        raise UsageError(f"{where}: expected {nouns[field_type]}, found {value!r}.{hint}")
    if field_type in (int, float):
        _check_range(value, where, bounds)
    # JSON writes -0.0 and 0.0 differently. Adding 0.0 makes them equal and changes nothing else.
    return value + 0.0 if field_type is float else value


def _is_nested(value: Any) -> bool:
    return value is None or isinstance(value, list | tuple | Mapping)


def _check_range(value: float, where: str, bounds: Mapping[str, Any]) -> None:
    low, high = bounds.get("low", -math.inf), bounds.get("high", math.inf)
    is_too_low = value <= low if bounds.get("open_low") else value < low
    if is_too_low or value > high or not math.isfinite(value):
        relation = "greater than" if bounds.get("open_low") else "at least"
        limits = [f"{relation} {low:.10g}"] if low > -math.inf else []
        limits += [f"at most {high:.10g}"] if high < math.inf else []
        allowed = " and ".join(limits) or "a finite number"
        raise UsageError(f"{where}: {value!r} is out of range; allowed: {allowed}.")


def to_plain(value: Any, *, identity: bool = False) -> Any:
    """Convert a spec to nested dictionaries and lists; the inverse of `build`.

    Args:
        value: a spec or a part of one.
        identity: omit the fields declared with `added` that have their default.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_plain(getattr(value, f.name), identity=identity)
            for f in dataclasses.fields(value)
            if not (identity and f.metadata.get("added") and _has_default(value, f))
        }
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, identity=identity) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v, identity=identity) for v in value]
    return value


def _has_default(spec: Any, field: dataclasses.Field[Any]) -> bool:
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    return bool(getattr(spec, field.name) == default)
