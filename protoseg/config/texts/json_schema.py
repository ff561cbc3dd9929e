"""JSON Schemas of the config files, with which editors check and complete them.

They are made from the dataclasses that also check the files. What a schema cannot express (names of
rows, files that exist) is checked by `plan`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from protoseg.config.fields import types_in_yaml
from protoseg.config.hydra.hydra_schemas import config_groups
from protoseg.config.load_matrix import KEYS
from protoseg.config.matrix import LABEL, TableSpec
from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec
from protoseg.config.tuning import block

DIALECT = "http://json-schema.org/draft-07/schema#"
ANY_NUMBER = r"^[-+]?[0-9.]+([eE][-+]?[0-9]+)?$"
"""YAML reads 1e-3 as text; protoseg takes it as a number."""
INTERPOLATION = {"type": "string", "pattern": r"\$\{"}
SCALARS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"anyOf": [{"type": "number"}, {"type": "string", "pattern": ANY_NUMBER}]},
    str: {"type": "string"},
}


def make_group_schema(group: str) -> dict[str, Any]:
    """Make the schema of the files of a config group, e.g. ``dataset``."""
    cls = config_groups()[group]
    variants = list(MethodSpec.variants.values()) if cls is MethodSpec else [cls]
    properties: dict[str, Any] = {}
    for variant in variants:
        for name, schema in _list_properties(variant).items():
            if schema not in properties.setdefault(name, []):
                properties[name].append(schema)
    merged = {name: _join(schemas) for name, schemas in properties.items()}
    defaults = {"type": "array", "description": "Files that are merged before and after this one."}
    return {
        "$schema": DIALECT,
        "title": f"protoseg: a file of experiments/{group}",
        "type": "object",
        "properties": {"defaults": defaults, **merged},
        # A method of another package has fields that are not known here.
        "additionalProperties": cls is MethodSpec,
    }


def make_matrix_schema(options: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Make the schema of matrices and bundles.

    Args:
        options: config group -> names of its options, which an editor offers.
    """
    keys = _list_spec_keys(options)
    settings = _make_object(keys, {r"^(method|[a-z]+\.[a-z_]+)\.": {}})
    row = _make_object({LABEL: {"type": "string"}, **keys}, {r"^(method|[a-z]+\.[a-z_]+)\.": {}})
    several = {"type": ["array", "string", "number", "boolean"]}
    axes = {"type": "object", "additionalProperties": several}
    properties = {
        "title": {"type": "string"},
        "matrices": {"type": "array", "items": {"type": "string"}, "description": "Of a bundle."},
        "base": settings,
        "grid": axes,
        "zip": axes,
        "rows": {"type": "array", "items": row},
        "exclude": {"type": "array", "items": {"type": "object"}},
        "seeds": {"type": ["array", "integer", "string"]},
        "table": _make_table_schema(),
        "tune": _make_tune_schema(settings),
    }
    assert {*KEYS, "matrices"} == properties.keys()
    return {
        "$schema": DIALECT,
        "title": "protoseg: a matrix or a bundle of matrices",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _make_table_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": _list_properties(TableSpec),
        "additionalProperties": False,
    }


def _make_tune_schema(settings: dict[str, Any]) -> dict[str, Any]:
    space = {"type": ["array", "object"]}
    spaces = {"type": "object", "additionalProperties": space}
    properties = {
        "search": spaces,
        "rows": {"type": "object", "additionalProperties": spaces},
        "trials": {"type": "integer", "minimum": 1},
        "grid": {"type": "boolean"},
        "halving": {"type": "object"},
        "base": settings,
        "select": {"type": "object"},
        "seed": {"type": "integer"},
    }
    assert set(block.KEYS) == properties.keys()
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _list_spec_keys(options: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Dotted key of a spec -> its schema; a group has the name of an option."""
    keys: dict[str, Any] = {}
    groups = config_groups()
    for name, schema in _list_properties(RunSpec).items():
        if name not in groups:
            keys[name] = schema
            continue
        known = {"enum": sorted(options.get(name, ()))}
        keys[name] = {"anyOf": [known, {"type": "string"}]}
        of_group = make_group_schema(name)["properties"]
        keys |= {f"{name}.{key}": value for key, value in of_group.items() if key != "defaults"}
    return keys


def _make_object(properties: dict[str, Any], patterns: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": patterns,
        "additionalProperties": False,
    }


def _list_properties(cls: Any) -> dict[str, Any]:
    hints = types_in_yaml(cls)
    return {
        field.name: {"anyOf": [_convert_type(hints[field.name], field.metadata), INTERPOLATION]}
        for field in dataclasses.fields(cls)
    }


def _convert_type(field_type: Any, bounds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a field's type."""
    origin, arguments = typing.get_origin(field_type), typing.get_args(field_type)
    if dataclasses.is_dataclass(field_type):
        return {"type": "object", "properties": _list_properties(field_type)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_convert_type(arguments[0], bounds), {"type": "null"}]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _convert_type(arguments[0], bounds)}
    if origin is dict:
        return {"type": "object"}
    schema = dict(SCALARS.get(field_type, {}))
    low, high = bounds.get("low", -math.inf), bounds.get("high", math.inf)
    if low > -math.inf:
        schema["exclusiveMinimum" if bounds.get("open_low") else "minimum"] = low
    if high < math.inf:
        schema["maximum"] = high
    return schema


def _join(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
