"""Keeps text as it is typed in a YAML file.

YAML reads ``off`` as false, ``010`` as 8, ``1e3`` as 1000.0 and ``1:30`` as 90. Where a field is
text, such as the name of a class, the typed characters count.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from protoseg.config.fields import field_types
from protoseg.errors import UsageError

TypeOfKey = Callable[[str], Any]
"""Key of a mapping -> the type of its value, None if it is unknown."""


def read_nodes(path: Path) -> yaml.Node | None:
    """Read the scalars of a YAML file as they are typed, as PyYAML's nodes; None if it is empty.

    Raises:
        yaml.YAMLError: the file is not YAML.
    """
    loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    try:
        node = loader.get_single_node()
        _merge_keys(loader, node, set())
    finally:
        loader.dispose()
    return node


def _merge_keys(loader: yaml.SafeLoader, node: yaml.Node | None, seen: set[int]) -> None:
    """Replace ``<<`` by the keys of the mapping that it names."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        for key, value in node.value:
            _merge_keys(loader, key, seen)
            _merge_keys(loader, value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _merge_keys(loader, item, seen)


def restore_texts(value: Any, node: yaml.Node | None, field_type: Any) -> Any:
    """Replace what YAML read as a number or a truth value by the typed text, where it is text.

    Args:
        value: plain data, as YAML reads it.
        node: the same place of the file, from `read_nodes`.
        field_type: the type of the value: as in `protoseg.config.fields`, or a function from the
            key of a mapping to the type of its value.

    Raises:
        UsageError: two keys of a mapping are read as the same value.
    """
    if isinstance(value, Mapping) and isinstance(node, yaml.MappingNode):
        is_free = typing.get_origin(_without_none(field_type)) is dict
        return {
            restore_texts(key, key_node, str) if is_free else key: restore_texts(
                item, item_node, _type_of_item(field_type, str(key))
            )
            for (key, item), (key_node, item_node) in _pair_items(value, node)
        }
    if isinstance(value, list) and isinstance(node, yaml.SequenceNode):
        item_type = _type_of_item(field_type, "")
        items = zip(value, node.value, strict=True)
        return [restore_texts(item, item_node, item_type) for item, item_node in items]
    if is_changed_text(value, node, field_type):
        assert isinstance(node, yaml.ScalarNode)
        return node.value
    return value


def find_changed_texts(
    value: Any, node: yaml.Node | None, field_type: Any, where: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield (key, typed text) of each text that YAML reads as something else."""
    if isinstance(value, Mapping) and isinstance(node, yaml.MappingNode):
        for (key, item), (_, item_node) in _pair_items(value, node):
            item_type = _type_of_item(field_type, str(key))
            yield from find_changed_texts(item, item_node, item_type, f"{where}.{key}")
    elif isinstance(value, list) and isinstance(node, yaml.SequenceNode):
        for index, (item, item_node) in enumerate(zip(value, node.value, strict=True)):
            item_type = _type_of_item(field_type, "")
            yield from find_changed_texts(item, item_node, item_type, f"{where}[{index}]")
    elif is_changed_text(value, node, field_type) and str(value) != getattr(node, "value", ""):
        yield where.removeprefix("."), getattr(node, "value", "")


def is_changed_text(value: Any, node: yaml.Node | None, field_type: Any) -> bool:
    """Whether YAML read a text as a number or a truth value."""
    return (
        _is_text(field_type)
        and isinstance(node, yaml.ScalarNode)
        and node.style is None  # not quoted
        and isinstance(value, bool | int | float)
    )


def _is_text(field_type: Any) -> bool:
    if typing.get_origin(field_type) is typing.Literal:
        return all(isinstance(value, str) for value in typing.get_args(field_type))
    return field_type is str or _without_none(field_type) is str


def _without_none(field_type: Any) -> Any:
    if typing.get_origin(field_type) in (types.UnionType, typing.Union):
        return typing.get_args(field_type)[0]
    return field_type


def _type_of_item(field_type: Any, key: str) -> Any:
    """The type of an item of a list, or of the value of a key of a mapping."""
    field_type = _without_none(field_type)
    if dataclasses.is_dataclass(field_type):
        variants = getattr(field_type, "variants", {})
        known = [field_type, *variants.values()]
        types_of_key = [field_types(cls)[key] for cls in known if key in field_types(cls)]
        return types_of_key[0] if types_of_key else None
    if field_type is str:  # the values of an axis
        return str
    origin, arguments = typing.get_origin(field_type), typing.get_args(field_type)
    if origin in (tuple, list):
        return arguments[0]
    if origin is dict:
        return arguments[1]
    if isinstance(field_type, types.FunctionType | types.BuiltinFunctionType):
        return field_type(key)
    return None


def _pair_items(
    value: Mapping[Any, Any], node: yaml.MappingNode
) -> Iterator[tuple[tuple[Any, Any], tuple[yaml.Node, yaml.Node]]]:
    """Pair the items of a mapping with their nodes, which have the same order."""
    # A merged key may be typed again; the last one counts, in the first one's place.
    nodes = {str(pair[0].value): pair for pair in node.value}
    if len(value) != len(nodes):
        line = node.start_mark.line + 1
        raise UsageError(
            f"line {line}: YAML reads two of the keys {', '.join(nodes)} as the same value. "
            "Put them in quotes, or remove one."
        )
    yield from zip(value.items(), nodes.values(), strict=True)
