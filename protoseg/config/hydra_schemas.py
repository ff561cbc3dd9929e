"""The dataclass schemas in Hydra's ConfigStore, so that Hydra checks every config file.

Hydra merges YAML into a schema, and OmegaConf makes frozen dataclasses read-only; what is stored
is therefore a mutable twin of each dataclass, made from its fields.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from protoseg.config.fields import field_types
from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec


@functools.cache
def register() -> None:
    """Store the schemas: ``run_schema``, ``GROUP/schema``, and ``method/KIND_schema``."""
    store = ConfigStore.instance()
    for group, kind in groups().items():
        if kind is MethodSpec:
            for name, variant in MethodSpec.variants.items():
                store.store(group=group, name=f"{name}_schema", node=_twin(variant))
        else:
            store.store(group=group, name="schema", node=_twin(kind))
    store.store(name="run_schema", node=_twin(RunSpec))


def groups() -> dict[str, Any]:
    """Config group -> dataclass: the fields of `RunSpec` that are dataclasses themselves."""
    return {
        name: kind for name, kind in field_types(RunSpec).items() if dataclasses.is_dataclass(kind)
    }


_twins: dict[Any, type] = {}


def _twin(cls: Any) -> type:
    if cls not in _twins:  # one twin each: OmegaConf compares types by identity
        _twins[cls] = _make_twin(cls)
    return _twins[cls]


def _make_twin(cls: Any) -> type:
    fields: list[Any] = []
    for field in dataclasses.fields(cls):
        kind = _omegaconf_type(field_types(cls)[field.name])
        if field.default_factory is not dataclasses.MISSING:
            default: Any = dataclasses.field(default_factory=field.default_factory)
        elif field.default is dataclasses.MISSING:
            default = dataclasses.field(default=MISSING)
        elif isinstance(field.default, tuple):
            default = dataclasses.field(default_factory=functools.partial(list, field.default))
        else:
            default = dataclasses.field(default=field.default)
        if dataclasses.is_dataclass(field_types(cls)[field.name]):
            default = dataclasses.field(default=MISSING)
        fields.append((field.name, kind, default))
    return dataclasses.make_dataclass(cls.__name__, fields)


def _omegaconf_type(kind: Any) -> Any:
    """The type as OmegaConf knows it: it has no Literal, and its tuples are lists."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return str
    if origin is tuple:
        return list[arguments[0]]  # type: ignore[valid-type]
    if kind is MethodSpec:
        return Any
    if dataclasses.is_dataclass(kind):
        return _twin(kind)
    return kind
