"""Which values of a matrix file are text, so that they stay as typed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from protoseg.config.fields import field_types
from protoseg.config.matrix import LABEL, TableSpec
from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec

AXES = ("base", "grid", "zip", "rows", "exclude")
"""Keys of a matrix below which keys of a spec have values."""
TEXTS_OF_SELECT = ("metric", "on", "True", "pattern", "list", "list_sha256")
"""Keys of ``tune.select`` with text; YAML reads the key ``on`` as true."""


def type_of_key(key: str) -> Any:
    """The type of the value of a key of a matrix file, for `restore_texts`; None if unknown."""
    if key in AXES:
        return type_of_axis
    return {"title": str, "table": type_of_table_key, "tune": type_of_tune_key}.get(key)


def type_of_tune_key(key: str) -> Any:
    """The type of a key of the block ``tune``; its rows are patterns, each with keys of a spec."""
    types = {
        "base": type_of_axis,
        "search": type_of_axis,
        "rows": lambda pattern: type_of_axis,
        "select": lambda name: str if name in TEXTS_OF_SELECT else None,
    }
    return types.get(key)


def type_of_table_key(key: str) -> Any:
    """The type of a field of a table; the baseline has axes as keys."""
    return type_of_axis if key == "baseline" else field_types(TableSpec).get(key)


def type_of_axis(key: str) -> Any:
    """The type of ``label``, of a config group (the name of an option) or of a key of a spec."""
    if not key:  # an item of a list of rows
        return type_of_axis
    if key == LABEL:
        return str
    group, *fields = key.split(".")
    value_type: Any = field_types(RunSpec).get(group)
    if not fields:
        return str if dataclasses.is_dataclass(value_type) else value_type
    for name in fields:
        value_type = _type_of_field(value_type, name)
    return value_type


def _type_of_field(cls: Any, name: str) -> Any:
    if not dataclasses.is_dataclass(cls):
        return None
    variants: Iterable[Any] = MethodSpec.variants.values() if cls is MethodSpec else (cls,)
    return next((field_types(v)[name] for v in variants if name in field_types(v)), None)
