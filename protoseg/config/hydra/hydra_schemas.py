"""Registers the dataclasses as schemas in Hydra's ConfigStore, so Hydra checks each config file.

Hydra merges YAML into a schema, and OmegaConf makes frozen dataclasses read-only. The ConfigStore
therefore holds a mutable copy of each dataclass.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from protoseg.config.fields import field_types, types_in_yaml
from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec


@functools.cache
def register_schemas() -> None:
    """Register the schemas: ``run_schema``, ``GROUP/schema``, and ``method/KIND_schema``."""
    store = ConfigStore.instance()
    for group, cls in config_groups().items():
        if cls is MethodSpec:
            for name, variant in MethodSpec.variants.items():
                store.store(group=group, name=f"{name}_schema", node=_get_mutable_copy(variant))
        else:
            store.store(group=group, name="schema", node=_get_mutable_copy(cls))
    store.store(name="run_schema", node=_get_mutable_copy(RunSpec))


def config_groups() -> dict[str, Any]:
    """Return group -> dataclass for the fields of `RunSpec` that are dataclasses."""
    types = field_types(RunSpec)
    return {name: cls for name, cls in types.items() if dataclasses.is_dataclass(cls)}


_copies: dict[Any, type] = {}


def _get_mutable_copy(cls: Any) -> type:
    if cls not in _copies:  # one copy per class: OmegaConf compares types by identity
        _copies[cls] = _make_mutable_copy(cls)
    return _copies[cls]


def _make_mutable_copy(cls: Any) -> type:
    fields: list[Any] = []
    for field in dataclasses.fields(cls):
        omegaconf_type = _to_omegaconf_type(types_in_yaml(cls)[field.name])
        if field.default_factory is not dataclasses.MISSING:
            default: Any = dataclasses.field(default_factory=field.default_factory)
        elif field.default is dataclasses.MISSING:
            default = dataclasses.field(default=MISSING)
        elif field.metadata.get("in_yaml"):
            default = dataclasses.field(default=None)  # a file may have a list or a mapping
        elif isinstance(field.default, tuple):
            default = dataclasses.field(default_factory=functools.partial(list, field.default))
        else:
            default = dataclasses.field(default=field.default)
        if dataclasses.is_dataclass(field_types(cls)[field.name]):
            # The options of a group set all of it. A part of a group has defaults.
            default = (
                dataclasses.field(default=MISSING)
                if cls is RunSpec
                else dataclasses.field(default_factory=omegaconf_type)
            )
        fields.append((field.name, omegaconf_type, default))
    return dataclasses.make_dataclass(cls.__name__, fields)


def _to_omegaconf_type(field_type: Any) -> Any:
    """Convert a type to one that OmegaConf supports: it has no Literal, and lists for tuples."""
    origin, arguments = typing.get_origin(field_type), typing.get_args(field_type)
    if origin is typing.Literal:
        return str if all(isinstance(value, str) for value in arguments) else Any
    if origin is tuple:
        return list[_to_omegaconf_type(arguments[0])]  # type: ignore[misc]
    if field_type is MethodSpec:
        return Any
    if dataclasses.is_dataclass(field_type):
        return _get_mutable_copy(field_type)
    return field_type
